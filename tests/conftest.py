"""Settings of all tests."""

import os

from hypothesis import settings

settings.register_profile("ponder", deadline=None)  # how long an example takes is the machine's business
settings.load_profile("ponder")

os.environ["PONDER_PROFILES"] = "off"  # whatever has been tuned on this machine
