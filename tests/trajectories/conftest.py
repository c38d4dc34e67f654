import importlib.util
from pathlib import Path

import pytest

from tests.trajectories.store_files import fill


@pytest.fixture(scope="session")
def oscillator():
    """The module noisy_oscillator.py beside this file."""
    path = Path(__file__).with_name("noisy_oscillator.py")
    spec = importlib.util.spec_from_file_location("noisy_oscillator", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def good(oscillator, tmp_path_factory):
    """A store of four segments."""
    path = tmp_path_factory.mktemp("good") / "run.zarr"
    fill(oscillator, path, 4)
    return path
