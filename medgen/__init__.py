"""medgen: 3D medical image translation that keeps geometry and Hounsfield units, and says how well it did."""

import os

# Threads that wait asleep: spinning ones (GNU OpenMP's default) fight over the cores as soon as anything else runs,
# and a training step then takes tens of times as long. Read when torch is loaded, so set before. See
# docs/decisions/threads.md.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
