"""Measures of conservation, on maps that keep things and on maps that do not."""

import pytest
import torch

from egno_md.data.structures import read_structure
from egno_md.propagators.classical import Langevin, VelocityVerlet
from egno_md.propagators.learned import LearnedPropagator
from egno_md.state import State, maxwell_boltzmann
from egno_md.testing.propagator_checks import (
    momentum_changes,
    phase_space_jacobian,
    reversal_error_A,
    symplectic_error,
    volume_error,
)
from tests.benchmarks.springs import Springs, start


def test_classical_dynamics_keeps_all():
    verlet = VelocityVerlet(Springs(), 0.5, 2.0, 10)
    assert reversal_error_A(verlet, start(3)) < 1e-12
    assert max(momentum_changes(verlet, start(3))) < 1e-12


def test_a_bath_keeps_nothing():
    bath = Langevin(Springs(), 0.5, 2.0, 10, 300.0, 20.0, torch.Generator().manual_seed(0))
    assert reversal_error_A(bath, start(3)) > 1e-2
    assert min(momentum_changes(bath, start(3))) > 1e-2


def test_measures_of_matrices():
    shear = torch.eye(4, dtype=torch.float64)
    shear[0, 2], shear[1, 3] = 0.3, -2.0
    assert volume_error(shear) < 1e-15
    assert symplectic_error(shear) < 1e-15
    assert volume_error(1.1 * shear) == pytest.approx(1.1**4 - 1)
    assert symplectic_error(1.1 * shear) == pytest.approx(0.21)
    # Volume alone is not enough: stretched here, squeezed there.
    squeezed = torch.diag(torch.tensor([2.0, 0.5, 1.0, 1.0], dtype=torch.float64))
    assert volume_error(squeezed) < 1e-15
    assert symplectic_error(squeezed) == pytest.approx(1.0)
    mirrored = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    assert volume_error(mirrored) == float("inf")


@pytest.fixture(scope="module")
def ethanol():
    first = read_structure("egno_md/examples/ethanol.xyz")
    draws = torch.Generator().manual_seed(1)
    v = maxwell_boltzmann(first.molecule, 2, 300.0, draws)
    state = State(first.molecule, first.positions.expand(2, -1, -1).clone(), v)
    return LearnedPropagator.from_bundle("ethanol-egno", state.molecule, dtype=torch.float64), state


def test_the_packaged_propagator_keeps_all(ethanol):
    propagator, state = ethanol
    assert reversal_error_A(propagator, state) < 1e-10
    assert max(momentum_changes(propagator, state)) < 1e-12
    jacobian = phase_space_jacobian(propagator, state)
    assert volume_error(jacobian) < 1e-10
    assert symplectic_error(jacobian) < 1e-10
    assert not propagator.model.training


def test_the_jacobian_is_the_derivative(ethanol):
    propagator, state = ethanol
    jacobian = phase_space_jacobian(propagator, state)
    root, n, h = state.molecule.masses.sqrt()[:, None], 3 * state.molecule.n_atoms, 1e-4

    def moved(shift):
        x = state.positions[:1].clone()
        x[0, 4, 1] += shift / float(root[4])
        end = propagator.advance(State(state.molecule, x, state.velocities[:1]), 1).last
        return torch.cat(
            [(root * end.positions[0]).flatten(), (root * end.velocities[0]).flatten()]
        )

    column = (moved(h) - moved(-h)) / (2 * h)
    assert jacobian.shape == (2 * n, 2 * n)
    assert torch.allclose(jacobian[:, 3 * 4 + 1], column, atol=1e-6)
