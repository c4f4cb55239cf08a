import os

# Test workers share the cores: more threads than cores makes each wait for the others at every operation, and BLAS and
# OpenMP spin while they wait. Set before numpy is imported; the workers of xdist and all child processes inherit it.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import pytest
import torch
from hypothesis import settings
from small import make_model

# Generated inputs are the same in every run, so that a change fails for its own sake; HYPOTHESIS_PROFILE=random draws.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("random", derandomize=False, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
torch.set_num_threads(1)


@pytest.fixture
def model():
    return make_model()


@pytest.fixture(scope="session")
def local_ray():
    """A Ray of two CPUs for all tests of this process."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
    own = {"num_cpus": 2, "num_gpus": 0, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    ray.init("local", log_to_driver=False, logging_level="ERROR", **own)
    yield ray
    ray.shutdown()
