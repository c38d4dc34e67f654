"""Frames between the packaged network's own are as good as those: measured, not assumed."""

import os
from pathlib import Path

import pytest
import torch

from egno_md.data.sgdml import SGDMLPotential
from egno_md.data.structures import read_structure
from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.learned import LearnedPropagator
from egno_md.state import State, maxwell_boltzmann

N_WINDOWS = 48


@pytest.fixture(scope="module")
def windows():
    """Starts near 300 K and the true frames that follow, 16 fs at 1 fs."""
    folder = os.environ.get("EGNO_MD_DATA")
    if folder is None:
        pytest.skip("EGNO_MD_DATA is not set: no sGDML force field to compare with")
    model = Path(folder) / "md17" / "sgdml_model_ethanol.npz"
    if not model.is_file():
        pytest.skip(f"{model} is not there: no sGDML force field to compare with")
    potential = SGDMLPotential.from_npz(model)
    example = Path(__file__).parents[2] / "egno_md" / "examples" / "ethanol.xyz"
    rest = read_structure(example)
    generator = torch.Generator().manual_seed(1)
    # From rest half the kinetic energy goes into the springs.
    v = maxwell_boltzmann(rest.molecule, N_WINDOWS, 600.0, generator)
    start = State(rest.molecule, rest.positions.repeat(N_WINDOWS, 1, 1), v)
    verlet = VelocityVerlet(potential, timestep_fs=0.25, frame_interval_fs=1.0, n_frames=16)
    start = verlet.advance(start, 60).last.with_(time_fs=0.0)
    return start, verlet.advance(start)


def test_frames_between_are_as_good_as_frames(windows) -> None:
    start, true = windows
    propagator = LearnedPropagator.from_bundle("ethanol-egno", start.molecule)
    guess = propagator.at_times(start, true.times_fs)

    def errors(a, b):
        """Root mean square of each time's difference."""
        return (a - b).square().mean((0, 2, 3)).sqrt()

    x = errors(guess.positions, true.positions)
    v = errors(guess.velocities, true.velocities) / true.velocities.square().mean().sqrt()
    at = (true.times_fs % propagator.frame_interval_fs) == 0
    print(f"positions: {x[at].mean():.5f} Å at frames, {x[~at].mean():.5f} Å between")
    print(f"velocities over their size: {v[at].mean():.4f} at frames, {v[~at].mean():.4f} between")
    assert x[~at].mean() < 1.1 * x[at].mean()
    assert v[~at].mean() < 1.3 * v[at].mean()
    # A straight line between frames would be far worse.
    moved = true.positions.diff(dim=1).square().mean().sqrt()
    assert x.max() < 0.2 * moved
