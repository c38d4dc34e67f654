"""The fitted force field: found again from its own forces, the same in OpenMM."""

import numpy as np
import openmm
import pytest
import torch

from egno_md.benchmarks.bonded_force_field import fitted, openmm_forces, terms_at
from egno_md.roles import EnergyForces
from egno_md.state import Molecule, State
from egno_md.units import KJ_PER_MOL

# Hydrogen peroxide: three bonds, two angles, one torsion.
MOLECULE = Molecule.from_numbers([1, 8, 8, 1], bonds=[(0, 1), (1, 2), (2, 3)])
PLACES = torch.tensor(
    [[[0.0, 0.95, 0.1], [0.1, 0.0, 0.0], [1.5, 0.0, 0.0], [1.7, 0.5, 0.8]]], dtype=torch.float64
)


@pytest.fixture(scope="module")
def terms():
    return terms_at(State.at_rest(MOLECULE, PLACES))


class Known:
    """A potential of the same form."""

    def __init__(self, terms, constants):
        self.terms, self.constants = terms, constants

    def evaluate(self, state):
        x = state.positions.clone().requires_grad_()
        energy = self.terms.shapes(x) @ self.constants
        return EnergyForces(energy.detach(), -torch.autograd.grad(energy.sum(), x)[0])


def shaken(n):
    noise = torch.randn((n, 4, 3), generator=torch.Generator().manual_seed(0)).double()
    return State.at_rest(MOLECULE, PLACES + 0.15 * noise)


def test_the_terms(terms):
    assert terms.bonds.tolist() == [[0, 1], [1, 2], [2, 3]]
    assert sorted(terms.angles.tolist()) == [[0, 1, 2], [1, 2, 3]]
    assert terms.torsions.tolist() == [[0, 1, 2, 3]]
    assert terms.n_positive == 5
    assert float(terms.lengths[1]) == pytest.approx(1.4)


def test_constants_are_found_again(terms):
    true = torch.tensor([10.0, 8.0, 12.0, 1.5, 2.0, 0.3, -0.2, 0.1], dtype=torch.float64)
    found = fitted(terms, Known(terms, true), shaken(20))
    torch.testing.assert_close(found, true, rtol=1e-6, atol=1e-8)


def test_springs_never_push_away(terms):
    bad = torch.tensor([10.0, -8.0, 12.0, 1.5, 2.0, 0.3, -0.2, 0.1], dtype=torch.float64)
    assert float(fitted(terms, Known(terms, bad), shaken(20))[: terms.n_positive].min()) >= 0.0


def test_openmm_computes_the_same_and_takes_it_away(terms):
    constants = torch.tensor([10.0, 8.0, 12.0, 1.5, 2.0, 0.3, -0.2, 0.1], dtype=torch.float64)
    system = openmm.System()
    for mass in MOLECULE.masses.tolist():
        system.addParticle(mass)
    for force in [
        *openmm_forces(terms, constants, 1.0, 0),
        *openmm_forces(terms, constants, -1.0, 1),
    ]:
        system.addForce(force)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    for state in (shaken(3).replica(r) for r in range(3)):
        wanted = Known(terms, constants).evaluate(state)
        context.setPositions(0.1 * state.positions[0].numpy())
        inside = context.getState(energy=True, forces=True, groups={0})
        energy = inside.getPotentialEnergy()._value * KJ_PER_MOL
        assert energy == pytest.approx(float(wanted.energy[0]), abs=1e-9)
        forces = np.array(inside.getForces(asNumpy=True)._value) * KJ_PER_MOL * 0.1
        np.testing.assert_allclose(forces, wanted.forces[0].numpy(), atol=1e-7)
        both = context.getState(forces=True, groups={0, 1}).getForces(asNumpy=True)._value
        np.testing.assert_allclose(both, 0.0, atol=1e-8)
