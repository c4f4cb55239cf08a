import pytest
import torch
from small import make_model

# Test workers share the cores: more threads than cores makes each wait for the others at every operation.
torch.set_num_threads(1)


@pytest.fixture
def model():
    return make_model()
