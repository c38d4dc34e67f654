"""What is compiled: long runs of molecules, whatever is asked for, never what is not wanted."""

from types import SimpleNamespace

import pytest
import torch

from egno_md.config import RunConfig
from egno_md.state import Molecule
from egno_md.trajectories.run_models import RunModels
from egno_md.trajectories.run_setup import worth_compiling

WATER = Molecule.from_numbers([8, 1, 1], bonds=[(0, 1), (0, 2)])
ICE = Molecule.from_numbers(WATER.numbers, bonds=WATER.bonds, pbc=(True, True, True))
MANY = Molecule.from_numbers(torch.ones(61, dtype=torch.int64))


@pytest.mark.parametrize(
    ("molecule", "length_ps", "asked", "expected"),
    [
        (WATER, 100.0, "auto", True),
        (WATER, 10.0, "auto", False),
        (WATER, 10.0, "always", True),
        (WATER, 100.0, "never", False),
        (ICE, 100.0, "auto", False),
        (MANY, 100.0, "auto", False),
        (ICE, 100.0, "always", True),
    ],
)
def test_when_the_network_is_compiled(molecule, length_ps, asked, expected):
    config = RunConfig(example="ethanol", length_ps=length_ps, compile=asked)
    learned = SimpleNamespace(card=SimpleNamespace(frame_interval_fs=4.0))
    assert worth_compiling(config, RunModels(learned=learned), molecule) is expected
    assert worth_compiling(config, RunModels(), molecule) is False
