"""For all tests."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs a network or waits for one; read at import

from hypothesis import HealthCheck, settings

# A loaded machine is no defect: neither a slow example nor slow generation fails a test.
settings.register_profile("peftbench", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("peftbench")
