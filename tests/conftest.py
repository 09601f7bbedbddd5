"""For all tests: they choose their own stacks, so what the caller's environment says of Afluente is left outside."""

import os

from hypothesis import HealthCheck, settings

# A busy machine draws examples slowly: no law is broken by that.
settings.register_profile("afluente", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("afluente")

KEPT = {"AFLUENTE_CACHE", "AFLUENTE_CI_MARK"}  # where jars are shared, and how a run finds what it left behind

for name in [name for name in os.environ if name.startswith("AFLUENTE_") and name not in KEPT]:
    del os.environ[name]

from tests.support.cdc_parts import cdc  # noqa: E402, F401 - the environment is left outside first
