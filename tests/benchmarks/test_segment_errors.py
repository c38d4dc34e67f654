"""Errors of segments: none for the truth itself, and by hand for free flight."""

import pytest
import torch

from egno_md.benchmarks.segment_errors import segment_errors
from egno_md.data.reference_md import Sampling, sample_windows
from egno_md.propagators.classical import VelocityVerlet
from egno_md.state import kinetic_energy
from egno_md.units import KJ_PER_MOL

from .springs import Springs, start


class NoForces:
    def evaluate(self, state):
        found = Springs().evaluate(state)
        return type(found)(0 * found.energy, 0 * found.forces)

    def energies(self, state):
        return self.evaluate(state).energy


@pytest.fixture(scope="module")
def windows():
    how = Sampling(n_replicas=8, equilibration_fs=50.0, seed=5)
    return sample_windows(Springs(), start(1, 0.0), 20, 8.0, 4.0, (300.0,), sampling=how)


def test_the_truth_has_no_error(windows):
    found = segment_errors(VelocityVerlet(Springs(), 0.25, 4.0, 2), Springs(), windows)
    assert max(found[f"{kind}_error_{t}fs"] for kind in "xv" for t in (4, 8)) < 1e-10
    # Velocity Verlet's own: the energy it keeps is not quite the true one.
    assert 0.0 < found["energy_meV_8fs"] < 5.0


def test_free_flight_by_hand(windows):
    found = segment_errors(VelocityVerlet(NoForces(), 4.0, 4.0, 2), Springs(), windows)
    moved = windows.positions[:, 1] - windows.positions0
    flown = 8.0 * windows.velocities0
    assert found["x_error_8fs"] == pytest.approx(float((flown - moved).norm() / moved.norm()))
    # Velocities stay as they were: the error is the whole change.
    assert found["v_error_4fs"] == pytest.approx(1.0)
    gained = kinetic_energy(windows.molecule, windows.velocities0)
    gained = (gained - kinetic_energy(windows.molecule, windows.velocities[:, 0])) / KJ_PER_MOL
    assert found["kinetic_mean_4fs"] == pytest.approx(float(gained.mean()))
    assert found["kinetic_mean_error_4fs"] == pytest.approx(float(gained.std()) / 20**0.5)


def test_other_frames_are_refused(windows):
    with pytest.raises(ValueError, match="gives one every 2 fs"):
        segment_errors(VelocityVerlet(Springs(), 0.5, 2.0, 2), Springs(), windows)


def test_a_map_that_explodes_has_no_energy(windows):
    class Lost:
        frame_interval_fs, n_frames = 4.0, 2

        def advance(self, state, n_frames=None):
            segment = VelocityVerlet(Springs(), 0.5, 4.0, 2).advance(state, n_frames)
            segment.positions[:] = float("nan")
            return segment

    found = segment_errors(Lost(), Springs(), windows)
    assert found["x_error_8fs"] != found["x_error_8fs"]
    assert found["energy_meV_8fs"] != found["energy_meV_8fs"]
    assert isinstance(torch.tensor(found["v_error_8fs"]).item(), float)
