import importlib.util
from pathlib import Path

import pytest
import torch

from egno_md.propagators.classical import VelocityVerlet
from egno_md.segment import Segment
from egno_md.state import State, maxwell_boltzmann
from tests.trajectories.store_files import fill
from tests.trajectories.water_on_springs import SHAPE, WATER, Springs


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


@pytest.fixture
def start() -> State:
    v = maxwell_boltzmann(WATER, 3, 300.0, torch.Generator().manual_seed(8))
    return State(WATER, SHAPE.expand(3, 3, 3).clone(), v, time_fs=100.0)


@pytest.fixture
def segment(start) -> Segment:
    """Four frames of good dynamics of three replicas, free to be spoiled."""
    return VelocityVerlet(Springs(), 0.25, 2.0, 4).advance(start)
