"""For all tests: they choose their own stacks, so what the caller's environment says of Afluente is left outside."""

import os

KEPT = {"AFLUENTE_CACHE", "AFLUENTE_CI_MARK"}  # where jars are shared, and how a run finds what it left behind

for name in [name for name in os.environ if name.startswith("AFLUENTE_") and name not in KEPT]:
    del os.environ[name]

from tests.support.cdc_parts import cdc  # noqa: E402, F401 - the environment is left outside first
