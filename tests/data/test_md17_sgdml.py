"""MD17-sGDML: geometries out of force fields, and trajectories that share nothing."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from egno_md.bonds import constitution
from egno_md.data.md17_sgdml import (
    Replicas,
    embedded,
    sample_position_windows,
    training_geometry,
)
from egno_md.data.sgdml import SGDMLPotential, read_sgdml
from egno_md.propagators.classical import VelocityVerlet
from egno_md.roles import EnergyForces
from egno_md.state import Molecule, State
from egno_md.units import ACCELERATION_PER_FORCE

torch.set_num_threads(1)

QUICK = Replicas(
    training=2,
    validation=2,
    test=3,
    length_fs=40.0,
    start_interval_fs=2.0,
    temperature_K=300.0,
    equilibration_fs=50.0,
)
STARTS = {"train": 5, "val": 4, "test": 6}


class Springs:
    """Water as three springs."""

    def __init__(self):
        self.n_calls = 0

    def evaluate(self, state):
        self.n_calls += 1
        x = state.positions.detach().requires_grad_(True)
        with torch.enable_grad():
            lengths = torch.stack([(x[:, i] - x[:, j]).norm(dim=-1) for i, j in PAIRS], 1)
            energy = 15.0 * (lengths - REST).square().sum(1)
            (slope,) = torch.autograd.grad(energy.sum(), x)
        return EnergyForces(energy.detach(), -slope)

    def energies(self, state):
        return self.evaluate(state).energy


PAIRS = ((0, 1), (0, 2), (1, 2))
REST = torch.tensor([0.96, 0.96, 1.51], dtype=torch.float64)


def water():
    x = torch.tensor([[0.0, 0, 0], [0.757, 0.587, 0], [-0.757, 0.587, 0]], dtype=torch.float64)
    return State.at_rest(Molecule.from_numbers([8, 1, 1], bonds=[(0, 1), (0, 2)]), x)


def windows(potential=None, how=QUICK, cache=None):
    return sample_position_windows(
        potential or Springs(), water(), how, n_starts=STARTS, n_points=3, stride=8, cache=cache
    )


@pytest.fixture(scope="module")
def made():
    return windows()


def test_windows_follow_newton(made):
    found = made["test"]
    assert found.positions0.shape == (6, 3, 3)
    assert found.positions.shape == (6, 3, 3, 3)
    # x(t + dt) = x + dt v + dt^2 a / 2, so step and start give the velocity and all that follows.
    state = State.at_rest(found.molecule, found.positions0)
    forces = Springs().evaluate(state).forces
    a = ACCELERATION_PER_FORCE * forces / found.molecule.masses[:, None]
    v = found.steps0 / 0.5 - 0.25 * a
    after = VelocityVerlet(Springs(), 0.5, 4.0, 3).advance(state.with_(velocities=v))
    torch.testing.assert_close(found.positions, after.positions, rtol=0, atol=1e-10)


def test_nothing_drifts_or_turns(made):
    for part in made.values():
        masses = part.molecule.masses[:, None]
        momentum = (masses * part.steps0).sum(1)
        assert float(momentum.abs().max()) < 1e-12
        middle = part.positions0 - (masses * part.positions0).sum(1, keepdim=True) / masses.sum()
        # The step stands for the velocity half a step later: that costs no angular momentum.
        turning = torch.linalg.cross(middle, masses * part.steps0).sum(1)
        assert float(turning.abs().max()) < 1e-12
        assert float(part.steps0.abs().max()) > 1e-3


def test_splits_share_no_trajectory_and_no_start(made):
    found = made
    assert {part: len(w.positions0) for part, w in found.items()} == STARTS
    # Windows of one trajectory lie on one grid of times and overlap: they have frames in common.
    frames = {}
    for part, w in found.items():
        every = torch.cat([w.positions0, w.positions.flatten(0, 1)])
        frames[part] = {tuple(x.flatten().tolist()) for x in every}
    assert sum(map(len, frames.values())) < 4 * sum(STARTS.values())
    assert not frames["train"] & frames["val"]
    assert not frames["train"] & frames["test"]
    assert not frames["val"] & frames["test"]
    starts = {tuple(x.flatten().tolist()) for w in found.values() for x in w.positions0}
    assert len(starts) == sum(STARTS.values())


def test_same_seed_same_bits_and_the_cache_is_used(made, tmp_path):
    first, potential = windows(cache=tmp_path), Springs()
    again = windows(potential, cache=tmp_path)
    assert potential.n_calls == 1  # the fingerprint alone
    assert all(first[part].sha256() == again[part].sha256() for part in first)
    assert made["train"].sha256() == first["train"].sha256()
    other = windows(how=replace(QUICK, seed=1))
    assert other["train"].sha256() != first["train"].sha256()


def test_too_few_starts_are_refused():
    with pytest.raises(ValueError, match=r"2 whole replicas with 8 starts each .* 50 train"):
        sample_position_windows(
            Springs(), water(), QUICK, n_starts=STARTS | {"train": 50}, n_points=3, stride=16
        )
    with pytest.raises(ValueError, match="stride 6 is not a multiple of the 4 frames"):
        sample_position_windows(Springs(), water(), QUICK, n_points=3, stride=6)


class Repelling(Springs):
    """Springs that tear a hydrogen off some replicas."""

    def __init__(self, torn):
        super().__init__()
        self.torn = torn

    def evaluate(self, state):
        found = super().evaluate(state)
        away = torch.zeros_like(found.forces)
        away[self.torn, 1, 0] = 60.0
        return EnergyForces(found.energy, found.forces + away)


def test_replicas_that_lose_a_hydrogen_are_replaced(tmp_path):
    how = replace(QUICK, length_fs=20.0)
    found = windows(Repelling(0), how=how, cache=tmp_path)
    assert {part: len(w.positions0) for part, w in found.items()} == STARTS
    for w in found.values():
        every = torch.cat([w.positions0, w.positions.flatten(0, 1)])
        assert float((every[:, 0] - every[:, 1]).norm(dim=-1).max()) < 2.0
    # The training split lost one replica; its place was taken by one of a batch of its own.
    assert len(list(tmp_path.iterdir())) == 2
    again = windows(Repelling(0), how=how, cache=tmp_path)
    assert all(found[part].sha256() == again[part].sha256() for part in found)


def test_a_molecule_that_always_breaks_is_refused():
    with pytest.raises(ValueError, match=r"0 whole replicas .* train"):
        windows(Repelling(slice(None)), how=replace(QUICK, length_fs=20.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": 0}, "training must be positive"),
        ({"start_interval_fs": 0.7}, "not a multiple of 0.5 fs"),
        ({"temperature_K": float("inf")}, "temperature_K must be positive"),
    ],
)
def test_wrong_numbers_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(QUICK, **change)


def model_file(folder, descriptors):
    """A made-up force field of water with the given inverse distances."""
    path = folder / "model.npz"
    rng = np.random.default_rng(2)
    np.savez(
        path,
        z=np.array([8, 1, 1], dtype=np.uint8),
        R_desc=descriptors.T,
        R_d_desc_alpha=rng.normal(size=descriptors.shape),
        perms=np.array([[0, 1, 2]]),
        sig=3,
        c=-40.0,
    )
    return path


def test_geometries_come_back_from_inverse_distances(tmp_path):
    rng = np.random.default_rng(1)
    x = water().positions.numpy() + 0.1 * rng.normal(size=(6, 3, 3))
    pairs = [(1, 0), (2, 0), (2, 1)]
    inverse = np.stack([1 / np.linalg.norm(x[:, i] - x[:, j], axis=-1) for i, j in pairs], 1)
    path = model_file(tmp_path, inverse)
    again = embedded(read_sgdml(path)).numpy()
    for k, (i, j) in enumerate(pairs):
        distance = np.linalg.norm(again[:, i] - again[:, j], axis=-1)
        np.testing.assert_allclose(distance, 1 / inverse[:, k], rtol=1e-12)
    found = training_geometry(path)
    assert found.molecule.bonds.tolist() == [[0, 1], [0, 2]]
    energies = SGDMLPotential.from_npz(path).energies(
        State.at_rest(found.molecule, torch.from_numpy(x))
    )
    lowest = SGDMLPotential.from_npz(path).energies(found)
    torch.testing.assert_close(lowest, energies.min()[None], rtol=0, atol=1e-10)


def test_descriptors_that_are_no_distances_are_refused(tmp_path):
    # One side longer than the two others together.
    path = model_file(tmp_path, 1 / np.array([[1.0, 1.0, 3.0], [1.0, 1.0, 1.5]]))
    with pytest.raises(ValueError, match="not inverse distances of points in space"):
        training_geometry(path)


@pytest.mark.parametrize(
    ("name", "formula", "n_bonds"),
    [
        ("ethanol", "C2H6O", 8),
        ("malonaldehyde", "C3H4O2", 8),
        ("toluene", "C7H8", 15),
        ("naphthalene", "C10H8", 19),
        ("aspirin", "C9H8O4", 21),
        ("paracetamol", "C8H9NO2", 20),
    ],
)
def test_start_geometries_of_the_molecules(name, formula, n_bonds):
    folder = os.environ.get("EGNO_MD_DATA")
    if not folder:
        pytest.skip("set EGNO_MD_DATA to the data folder to run this test")
    path = Path(folder) / "md17" / f"sgdml_model_{name}.npz"
    start = training_geometry(path)
    assert constitution(start.molecule.numbers, start.molecule.bonds).split(":")[0] == formula
    assert len(start.molecule.bonds) == n_bonds
    # Kekulé's skeleton in one piece: every hydrogen has one bond.
    degree = torch.bincount(start.molecule.bonds.flatten(), minlength=start.molecule.n_atoms)
    assert bool((degree[start.molecule.numbers == 1] == 1).all())
    # Near the minimum: its descriptors are those of a training point, to rounding.
    p = read_sgdml(path)
    row, column = np.tril_indices(len(p.numbers), -1)
    x = start.positions[0].numpy()
    inverse = 1 / np.linalg.norm(x[row] - x[column], axis=-1)
    assert np.abs(p.descriptors - inverse).max(1).min() < 1e-12
