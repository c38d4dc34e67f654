"""Data made on the spot: it is what the potential says, and the same again from the same seed."""

from __future__ import annotations

import pytest
import torch

from egno_md.data.reference_md import Sampling, sample_frames, sample_windows
from egno_md.propagators.classical import VelocityVerlet
from egno_md.roles import EnergyForces
from egno_md.state import Molecule, State, kinetic_energy

torch.set_num_threads(1)

QUICK = Sampling(n_replicas=4, equilibration_fs=20.0, interval_fs=5.0, seed=3)


class Spring:
    """A diatomic with a harmonic bond."""

    def __init__(self, stiffness=30.0):
        self.stiffness = stiffness
        self.n_calls = 0

    def evaluate(self, state):
        self.n_calls += 1
        arrow = state.positions[:, 0] - state.positions[:, 1]
        length = torch.linalg.vector_norm(arrow, dim=-1)
        pull = -self.stiffness * (length - 1.1)[:, None] * arrow / length[:, None]
        return EnergyForces(
            0.5 * self.stiffness * (length - 1.1) ** 2, torch.stack([pull, -pull], 1)
        )

    def energies(self, state):
        return self.evaluate(state).energy


def start():
    molecule = Molecule.from_numbers([7, 7], bonds=[(0, 1)])
    return State.at_rest(molecule, torch.tensor([[0.0, 0, 0], [0, 0, 1.1]], dtype=torch.float64))


def test_frames_carry_the_labels_of_the_potential():
    potential = Spring()
    frames = sample_frames(potential, start(), 10, [200.0, 800.0, 400.0], sampling=QUICK)
    dense = frames.dense()
    assert dense.positions.shape == (10, 2, 3)
    again = potential.evaluate(State.at_rest(start().molecule, dense.positions))
    assert torch.equal(again.energy, dense.energies)
    assert torch.equal(again.forces, dense.forces)
    # Four, three and three frames of three temperatures, four replicas each.
    assert frames.trajectory.tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10]
    assert len(dense.energies.unique()) == 10


def test_hotter_frames_have_more_energy():
    many = Sampling(n_replicas=64, equilibration_fs=300.0, interval_fs=20.0, seed=1)
    frames = sample_frames(Spring(), start(), 512, [100.0, 900.0], sampling=many)
    cold, hot = frames.energies[:256].mean(), frames.energies[256:].mean()
    # A harmonic bond holds kT/2.
    assert float(cold) == pytest.approx(0.5 * 8.617e-5 * 100, rel=0.35)
    assert float(hot) == pytest.approx(0.5 * 8.617e-5 * 900, rel=0.35)


def test_windows_are_the_dynamics_at_constant_energy():
    potential = Spring()
    windows = sample_windows(potential, start(), 6, 8.0, 2.0, [300.0], sampling=QUICK)
    assert windows.times_fs.tolist() == [2.0, 4.0, 6.0, 8.0]
    follow = VelocityVerlet(potential, timestep_fs=0.25, frame_interval_fs=2.0, n_frames=4)
    segment = follow.advance(windows.starts())
    torch.testing.assert_close(segment.positions, windows.positions, rtol=0, atol=1e-12)
    torch.testing.assert_close(segment.velocities, windows.velocities, rtol=0, atol=1e-12)
    total = windows.energies + kinetic_energy(windows.molecule, windows.velocities)
    first = windows.energies0 + kinetic_energy(windows.molecule, windows.velocities0)
    assert float((total - first[:, None]).abs().max()) < 1e-3
    assert windows.trajectory.tolist() == [0, 1, 2, 3, 0, 1]
    assert windows.begins_fs.tolist() == [5.0] * 4 + [10.0] * 2


def test_same_seed_same_data_other_seed_other_data():
    one = sample_frames(Spring(), start(), 5, [300.0], sampling=QUICK)
    two = sample_frames(Spring(), start(), 5, [300.0], sampling=QUICK)
    other = Sampling(n_replicas=4, equilibration_fs=20.0, interval_fs=5.0, seed=4)
    three = sample_frames(Spring(), start(), 5, [300.0], sampling=other)
    assert one.sha256() == two.sha256()
    assert one.sha256() != three.sha256()


def test_cache_is_used_only_for_the_same_description(tmp_path):
    potential = Spring()
    one = sample_frames(potential, start(), 5, [300.0], sampling=QUICK, cache=tmp_path)
    calls = potential.n_calls
    two = sample_frames(potential, start(), 5, [300.0], sampling=QUICK, cache=tmp_path)
    assert potential.n_calls == calls + 1  # the fingerprint
    assert one.sha256() == two.sha256()
    stiffer = sample_frames(Spring(40.0), start(), 5, [300.0], sampling=QUICK, cache=tmp_path)
    assert stiffer.sha256() != one.sha256()
    files = list(tmp_path.iterdir())
    assert len(files) == 2
    for file in files:
        file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match="is damaged"):
        sample_frames(potential, start(), 5, [300.0], sampling=QUICK, cache=tmp_path)


def test_windows_come_back_from_the_cache(tmp_path):
    one = sample_windows(Spring(), start(), 3, 4.0, 1.0, [300.0], sampling=QUICK, cache=tmp_path)
    two = sample_windows(Spring(), start(), 3, 4.0, 1.0, [300.0], sampling=QUICK, cache=tmp_path)
    for name, values in one.tensors().items():
        assert torch.equal(values, two.tensors()[name]), name


class Tearing(Spring):
    """Pulls the bond of the second replica apart."""

    def evaluate(self, state):
        answer = super().evaluate(state)
        forces = answer.forces.clone()
        if state.n_replicas > 1:
            apart = state.positions[1, 0] - state.positions[1, 1]
            forces[1] = 60.0 * torch.stack([apart, -apart])
        return EnergyForces(answer.energy, forces)


def test_torn_replicas_are_replaced():
    frames = sample_frames(Tearing(), start(), 40, [300.0], sampling=QUICK).dense()
    lengths = torch.linalg.vector_norm(frames.positions[:, 0] - frames.positions[:, 1], dim=-1)
    assert float(lengths.max()) <= 1.6 * 1.1


def test_refusals():
    with pytest.raises(ValueError, match="not a multiple"):
        sample_windows(Spring(), start(), 3, 4.0, 1.5, [300.0])
    with pytest.raises(ValueError, match="temperatures_K must be positive"):
        sample_frames(Spring(), start(), 3, [-5.0])
    with pytest.raises(ValueError, match="at least one sample"):
        sample_frames(Spring(), start(), 0, [300.0])
    with pytest.raises(ValueError, match="n_replicas must be positive"):
        Sampling(n_replicas=0)
