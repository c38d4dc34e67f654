"""Two time steps behind the doors: inside ASE as a propagator, inside OpenMM as force groups."""

import warnings

import numpy as np
import openmm
import pytest
import torch
from ase import Atoms
from ase.md.velocitydistribution import Stationary
from openmm import unit

from egno_md.calculators.openmm_force import openmm_force
from egno_md.calculators.segment_dynamics import SegmentDynamics
from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.multiple_time_step import (
    Correction,
    MultipleTimeStep,
    MultipleTimeStepLangevin,
)
from egno_md.propagators.parareal import Parareal
from egno_md.roles import EnergyForces
from egno_md.state import Molecule, State


class Spring:
    """Two atoms on an anharmonic spring of 1.1 Å."""

    def __init__(self, stiffness, cubic):
        self.stiffness, self.cubic = stiffness, cubic

    def evaluate(self, state):
        arrow = state.positions[:, 0] - state.positions[:, 1]
        length = arrow.norm(dim=-1, keepdim=True)
        stretch = length - 1.1
        pull = -(self.stiffness * stretch - self.cubic * stretch**2) * arrow / length
        return EnergyForces(self.energies(state), torch.stack([pull, -pull], 1))

    def energies(self, state):
        away = (state.positions[:, 0] - state.positions[:, 1]).norm(dim=-1).double() - 1.1
        return 0.5 * self.stiffness * away**2 - self.cubic * away**3 / 3


CHEAP, ACCURATE = Spring(28.0, 0.0), Spring(30.0, 40.0)
X = torch.tensor([[[0.0, 0.0, 0.0], [1.18, 0.0, 0.1]]], dtype=torch.float64)
V = torch.tensor([[[0.001, 0.0, 0.0], [0.0, 0.01, -0.004]]], dtype=torch.float64)
START = State(Molecule.from_numbers([6, 1], bonds=[(0, 1)]), X, V)


def two_steps(n_frames=4):
    return MultipleTimeStep(CHEAP, ACCURATE, 0.5, 2.0, 2.0, n_frames)


def atoms():
    from ase import units

    made = Atoms("CH", positions=X[0].numpy())
    made.set_velocities(V[0].numpy() / units.fs)
    return made


def test_inside_ase_it_is_a_propagator_like_any_other():
    expected = two_steps().advance(START, 8)
    moving = atoms()
    SegmentDynamics(moving, two_steps()).run(8)
    np.testing.assert_allclose(moving.positions, expected.positions[0, -1], rtol=0, atol=1e-8)
    bathed = SegmentDynamics(atoms(), two_steps(1), temperature_K=300.0, seed=1)
    bathed.run(3)
    assert np.isfinite(bathed.atoms.positions).all()


def test_a_bath_of_its_own_moves_the_centre_of_mass_and_takes_no_second_one():
    noise = torch.Generator().manual_seed(1)
    bathed = MultipleTimeStepLangevin(CHEAP, ACCURATE, 0.5, 2.0, 2.0, 1, 300.0, 5.0, noise)
    moving = atoms()
    Stationary(moving)
    assert SegmentDynamics(moving, two_steps()).degrees_of_freedom == 3
    assert SegmentDynamics(moving, bathed).degrees_of_freedom == 6
    with pytest.raises(
        ValueError, match=r"Langevin has a bath of its own, .*leave temperature_K out"
    ):
        SegmentDynamics(moving, bathed, temperature_K=300.0, seed=1)


def test_inside_ase_parareal_is_a_propagator_like_any_other():
    def verlet(potential):
        return VelocityVerlet(potential, 0.5, 2.0, 1)

    moving = atoms()
    parareal = Parareal(verlet(CHEAP), verlet(ACCURATE), n_slabs=4, tolerance_A=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        SegmentDynamics(moving, parareal).run(8)
    expected = verlet(ACCURATE).advance(START, 8)
    np.testing.assert_allclose(moving.positions, expected.positions[0, -1], rtol=0, atol=1e-8)
    assert parareal.report.slabs == 8


def test_inside_openmm_the_correction_is_a_slow_force_group():
    system = openmm.System()
    for mass in START.molecule.masses.tolist():
        system.addParticle(mass)
    fast, slow = openmm_force(CHEAP, [6, 1]), openmm_force(Correction(ACCURATE, CHEAP), [6, 1])
    slow.setForceGroup(1)
    system.addForce(fast)
    system.addForce(slow)
    integrator = openmm.MTSIntegrator(2.0 * unit.femtoseconds, [(1, 1), (0, 4)])
    reference = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, reference)
    context.setPositions(X[0].numpy() * 0.1)
    context.setVelocities(V[0].numpy() * 100.0)  # nm/ps
    expected = two_steps().advance(START, 8)
    for frame in range(8):
        integrator.step(1)
        now = context.getState(positions=True, energy=True)
        found = now.getPositions(asNumpy=True)._value * 10.0
        np.testing.assert_allclose(found, expected.positions[0, frame], rtol=0, atol=1e-8)
    # Both groups together are the accurate energy.
    energy = now.getPotentialEnergy()._value / 96.48533212331
    assert abs(energy - float(expected.potential_energies[0, -1])) < 1e-7
