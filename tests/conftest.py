"""One thread for every test: two on a busy machine wait for each other."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
