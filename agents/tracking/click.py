"""The click id in a gateway's free parameters: how a sale of a gateway that knows nothing of us finds its click.

A click id starts with `afl_`, so it can travel in `sck`, `src` or any other text that the gateway hands through its
checkout, alone or beside campaign names divided by bars: `launch|story|afl_0192...`.
"""

import re

from schemas.tracking_sales import CLICK_ID_PREFIX

CLICK_ID_CHARS_MAX = 128
CLICK_ID = re.compile(
    rf"(?:^|\|)({CLICK_ID_PREFIX}[A-Za-z0-9_-]{{1,{CLICK_ID_CHARS_MAX - len(CLICK_ID_PREFIX)}}})(?=\||$)"
)


def click_id_in(*carriers: str) -> str:
    """The first click id in these texts, or an empty string."""
    for carrier in carriers:
        if match := CLICK_ID.search(carrier):
            return match.group(1)
    return ""
