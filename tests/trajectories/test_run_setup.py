"""What is compiled: long runs of molecules, whatever is asked for, never what is not wanted."""

from types import SimpleNamespace

import pytest
import torch

from egno_md.config import RunConfig
from egno_md.models.escn_md import ESCNMD
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.state import Molecule
from egno_md.trajectories.run_models import RunModels
from egno_md.trajectories.run_setup import worth_compiling, worth_compiling_forces

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


@pytest.mark.parametrize(
    ("settings", "molecule", "expected"),
    [
        ({"mode": "classical", "length_ps": 20.0}, WATER, True),
        ({"mode": "classical", "length_ps": 20.0, "compile": "never"}, WATER, False),
        ({"mode": "classical", "length_ps": 10.0}, WATER, False),
        ({"mode": "classical", "length_ps": 10.0, "n_replicas": 16}, WATER, True),
        ({"mode": "classical", "length_ps": 10.0, "compile": "always"}, MANY, True),
        ({"mode": "classical", "length_ps": 20.0}, MANY, False),
        ({"mode": "guarded", "length_ps": 20.0}, WATER, False),
        ({"mode": "guarded", "length_ps": 2000.0}, WATER, True),
        ({"mode": "parareal", "length_ps": 2000.0, "compile": "always"}, WATER, False),
    ],
)
def test_when_forces_are_compiled(settings, molecule, expected):
    config = RunConfig(example="ethanol", timestep_fs=0.5, n_replicas=1).model_copy(update=settings)
    network = ESCNMD([1, 8], max_degree=1, max_order=1, channels=4, hidden_channels=4, n_layers=1)
    learned = SimpleNamespace(card=SimpleNamespace(frame_interval_fs=4.0))
    models = RunModels(potential=ESCNPotential(network))
    if settings["mode"] != "classical":
        models = RunModels(learned=learned, potential=models.potential)
    assert worth_compiling_forces(config, models, molecule) is expected
    assert worth_compiling_forces(config, RunModels(learned=learned), molecule) is False
