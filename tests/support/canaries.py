"""Secrets that mark themselves: unique texts put where secrets go, and a search for them where none may be.

A canary is looked for as it is and as programs write it down: in Base64 at any of its three alignments, in hex, quoted
for a URL. What is found is named, never shown.
"""

import base64
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

CANARY_BYTES = 12
SEARCHED_BYTES_MIN = 8  # a shorter text stands somewhere by chance


def sung(name: str) -> str:
    """A text that is nowhere else."""
    return f"canary-{name}-{secrets.token_hex(CANARY_BYTES)}"


def written(value: str) -> Iterator[bytes]:
    """How a value may stand in a log, an answer or a protocol buffer."""
    raw = value.encode()
    yield raw
    yield quote(value, safe="").encode()
    yield raw.hex().encode()
    for shift in range(3):
        # The first and last characters mix with what stands around: those between are the value's own.
        inner = base64.b64encode(b"\0" * shift + raw)[4 if shift else 0 : -4]
        yield inner
        yield inner.replace(b"+", b"-").replace(b"/", b"_")


@dataclass(slots=True)
class Canaries:
    """Names and values of the secrets of a run."""

    values: dict[str, str] = field(default_factory=dict, repr=False)

    def new(self, name: str) -> str:
        """The canary of that name: made when it is first asked for, so that none is sent and then forgotten."""
        return self.values.setdefault(name, sung(name))

    def add(self, name: str, value: str) -> str:
        """A secret that has a shape of its own: a key, a password that the stack made."""
        assert len(value) >= SEARCHED_BYTES_MIN, name
        assert self.values.setdefault(name, value) == value, f"{name} names another secret"
        return value

    def found_in(self, places: Mapping[str, bytes | str]) -> list[str]:
        """A line "canary in place" for each one that is somewhere."""
        found = []
        for place, content in places.items():
            raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
            lower = raw.lower()  # hex and quoted text come in both cases
            for name, value in self.values.items():
                forms = {form.lower() for form in written(value) if len(form) >= SEARCHED_BYTES_MIN}
                if any(form in lower for form in forms):
                    found.append(f"{name} in {place}")
        return found
