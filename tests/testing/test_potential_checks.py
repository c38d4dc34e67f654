"""Each check passes a sound potential and fails one with just that fault."""

import pytest
import torch

from egno_md.models.escn_md import ESCNMD
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.roles import EnergyForces
from egno_md.state import Molecule, State
from egno_md.testing.potential_checks import (
    CheckResult,
    axis_rotations,
    check_potential,
    cutoff_jump,
    force_error,
    random_rotation,
    sampled_directions,
)

PLACES = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.97, 0.0], [0.93, -0.24, 0.2]], dtype=torch.float64)


class Pairs:
    """Energy of all pairs, k (d - 1)^2 within a range of 3 Å, with faults on demand."""

    def __init__(self, fault=""):
        self.fault = fault
        self.calls = 0

    def energies(self, state):
        return self.evaluate(state).energy

    def evaluate(self, state):
        self.calls += 1
        x = state.positions.clone().requires_grad_()
        n = state.molecule.n_atoms
        i, j = torch.triu_indices(n, n, 1)
        d = (x[:, i] - x[:, j]).norm(dim=-1)
        u = d / 3.0
        energy = ((1 - u).clamp(min=0) ** (1 if self.fault == "jump" else 4)).sum(1)
        if self.fault == "rotation":
            energy = energy + 1e-6 * x[:, 0, 0] ** 2 - 1e-6 * x[:, 1, 0] ** 2
        if self.fault == "translation":
            energy = energy + 1e-6 * x[..., 1].sum(1)
        if self.fault == "permutation":
            energy = energy + 1e-6 * d[:, 0]
        if self.fault == "batch":
            energy = energy + 1e-6 * d.sum() * len(x)
        if self.fault == "copies":
            energy = energy + 1e-6 * n**2
        (slope,) = torch.autograd.grad(energy.sum(), x)
        forces = -slope
        if self.fault == "slope":
            forces = forces * 1.001
        if self.fault == "repetition":
            forces = forces + 1e-15 * self.calls
        return EnergyForces(energy.detach(), forces)


def state(n_replicas=2):
    draw = torch.Generator().manual_seed(0)
    noise = 0.05 * torch.randn((n_replicas, 3, 3), generator=draw, dtype=torch.float64)
    return State.at_rest(Molecule.from_numbers([8, 1, 1]), PLACES + noise)


def failures(potential):
    return [r.name for r in check_potential(potential, state(), cutoff_A=3.0) if not r.passed]


def test_a_sound_potential_passes():
    assert failures(Pairs()) == []


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("slope", "force = -dE/dx"),
        ("rotation", "rotation, energy"),
        ("rotation", "rotation, forces"),
        ("translation", "translation, energy"),
        ("translation", "net force"),
        ("permutation", "permutation, energy"),
        ("batch", "batch = single, energy"),
        ("copies", "two far copies"),
        ("jump", "jump at the cutoff"),
        ("repetition", "repetition"),
    ],
)
def test_each_fault_is_found(fault, name):
    assert name in failures(Pairs(fault))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_escn_passes(dtype):
    torch.manual_seed(0)
    model = ESCNMD([1, 8], channels=8, hidden_channels=8, radial_hidden=16, cutoff_A=4.0)
    results = check_potential(
        ESCNPotential(model, dtype=dtype),
        state(),
        cutoff_A=4.0,
        single_precision=dtype == torch.float32,
    )
    assert [str(r) for r in results if not r.passed] == []


def test_periodic_escn_passes():
    torch.manual_seed(0)
    model = ESCNMD([1, 8], channels=8, hidden_channels=8, radial_hidden=16, cutoff_A=4.0)
    cell = torch.tensor([[3.2, 0, 0], [0.4, 3.6, 0], [0, -0.3, 4.5]]).double()
    crystal = State.at_rest(
        Molecule.from_numbers([8, 1, 1], pbc=(True,) * 3), PLACES[None], cell=cell
    )
    results = check_potential(ESCNPotential(model, dtype=torch.float64), crystal)
    assert [str(r) for r in results if not r.passed] == []
    assert "wrapping, forces" in [r.name for r in results]


def test_rotations_are_proper_and_reach_the_poles():
    draw = torch.Generator().manual_seed(0)
    rotations = [*axis_rotations(state()), *(random_rotation(draw) for _ in range(5))]
    for rotation in rotations:
        assert torch.allclose(rotation @ rotation.T, torch.eye(3).double(), rtol=0, atol=1e-14)
        assert float(torch.linalg.det(rotation)) == pytest.approx(1.0)
    arrows = state().positions[0, 1:] - state().positions[0, 0]
    nearest = arrows[arrows.norm(dim=-1).argmin()]
    ends = torch.stack([r @ nearest for r in rotations[:6]]) / nearest.norm()
    wanted = torch.eye(3).double().repeat_interleave(2, 0)
    wanted[1::2] *= -1
    assert torch.allclose(ends, wanted, rtol=0, atol=1e-14)


def test_the_copy_crosses_the_cutoff_and_nothing_else():
    assert cutoff_jump(Pairs("jump"), state(), 3.0) == pytest.approx(1.0 / 3.0, rel=1e-3)


def test_numbers_that_are_not_numbers_fail():
    assert not CheckResult("x", float("nan"), 1.0, "eV").passed
    assert CheckResult("x", 0.5, 1.0, "eV").passed
    assert "FAILED" in str(CheckResult("x", 2.0, 1.0, "eV"))


def many(n_atoms):
    x = torch.rand(2, n_atoms, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return State.at_rest(Molecule.from_numbers([6] * n_atoms), 6.0 * x)


def test_of_many_atoms_some_are_moved_alone_and_all_together():
    assert sampled_directions(many(40), torch.Generator()) is None
    moved = sampled_directions(many(41), torch.Generator().manual_seed(0))
    alone, together = moved[:24], moved[24:]
    assert alone.flatten(1).abs().sum(1).tolist() == [1.0] * 24
    assert alone.abs().sum((0, 2)).nonzero()[:, 0].tolist() == [0, 6, 11, 17, 23, 29, 34, 40]
    assert bool((together.abs() == 0.5).all())
    assert len({tuple(d.flatten().tolist()) for d in together}) == 8


@pytest.mark.parametrize("atom", [0, 20])
def test_a_wrong_force_is_seen_on_any_of_many_atoms(atom):
    place = many(45)
    moved = sampled_directions(place, torch.Generator().manual_seed(0))

    class OneWrong(Pairs):
        def evaluate(self, state):
            found = super().evaluate(state)
            found.forces[:, atom, 1] += 1e-3
            return found

    assert force_error(Pairs(), place, directions=moved) < 1e-6
    assert force_error(OneWrong(), place, directions=moved) > 0.9e-3 / 135**0.5
    assert force_error(OneWrong(), place) == pytest.approx(1e-3, rel=1e-3)
