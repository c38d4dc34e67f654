"""Thermostats and integrators of the doors against statistical mechanics."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
import torch
from ase import Atoms
from ase.md import thermalize_momenta

from egno_md.calculators.openmm_force import openmm_force
from egno_md.calculators.segment_dynamics import SegmentDynamics
from egno_md.calculators.segment_integrator import SegmentIntegrator
from egno_md.calculators.segment_simulation import SegmentSimulation
from egno_md.roles import Verdict
from egno_md.units import KJ_PER_MOL
from tests.calculators.tethered_atoms import homes
from tests.calculators.wells import REFERENCE, STIFFNESS, ExactWells, carbons
from tests.propagators.validated_energies import (
    Energies,
    HardeningSprings,
    MixedSprings,
    assert_ensemble,
    assert_kinetic,
    slowest_convergence,
)

N_ATOMS, N_SAMPLES = 6, 1000
#: In a segment all but a hundredth of the velocities is forgotten.
COUPLING_PER_PS = 25.0
SPRINGS = STIFFNESS * KJ_PER_MOL * 0.01  # eV/Å^2


def in_ase(thermostat: str, kelvin: float) -> Energies:
    """`SegmentDynamics` with a bath between the segments."""
    atoms = Atoms("CH" * (N_ATOMS // 2), homes(N_ATOMS))
    thermalize_momenta(atoms, kelvin, rng=np.random.default_rng(1))
    propagator = MixedSprings(torch.from_numpy(homes(N_ATOMS)))
    dyn = SegmentDynamics(
        atoms,
        propagator,
        temperature_K=kelvin,
        thermostat=thermostat,
        coupling_per_ps=COUPLING_PER_PS,
        bonds=[],
        seed=int(kelvin),
    )
    if thermostat == "bussi":
        # The springs hold the atoms in space, so no momentum is conserved.
        assert dyn.degrees_of_freedom == 3 * N_ATOMS
    run = Energies(kelvin, N_ATOMS)
    dyn.run(20)
    for _ in range(N_SAMPLES):
        dyn.run(1)
        run.kinetic.append(atoms.get_kinetic_energy())
        run.potential += propagator.potential(torch.from_numpy(atoms.positions)[None])
    return run


def with_andersen(kelvin: float):
    """Carbons in wells with OpenMM's thermostat, and their propagator."""
    topology, system = carbons(N_ATOMS)
    bath = openmm.AndersenThermostat(kelvin, COUPLING_PER_PS)
    bath.setRandomNumberSeed(int(kelvin))
    system.addForce(bath)
    home = torch.zeros((N_ATOMS, 3), dtype=torch.float64)
    home[:, 0] = 3.0 * torch.arange(N_ATOMS)
    return topology, system, home, MixedSprings(home, 180.0, SPRINGS)


def followed(context, step, kelvin: float, groups=-1) -> Energies:
    """Energies after every step, by the forces of some groups."""
    run = Energies(kelvin, N_ATOMS)
    step(20)
    for _ in range(N_SAMPLES):
        step(1)
        seen = context.getState(energy=True, groups=groups)
        run.kinetic.append(seen.getKineticEnergy()._value * KJ_PER_MOL)
        run.potential.append(seen.getPotentialEnergy()._value * KJ_PER_MOL)
    return run


def in_a_simulation(kelvin: float) -> Energies:
    """`SegmentSimulation` of a system with an Andersen thermostat."""
    topology, system, home, propagator = with_andersen(kelvin)
    sim = SegmentSimulation(topology, system, propagator, platform=REFERENCE)
    sim.context.setPositions(0.1 * home.numpy())
    sim.context.setVelocitiesToTemperature(kelvin, 1)
    return followed(sim.context, sim.step, kelvin)


def in_an_integrator(kelvin: float) -> Energies:
    """`SegmentIntegrator` of the same."""
    topology, system, home, propagator = with_andersen(kelvin)
    integrator = SegmentIntegrator(topology, system, propagator)
    context = openmm.Context(system, integrator, REFERENCE)
    context.setPositions(0.1 * home.numpy())
    context.setVelocitiesToTemperature(kelvin, 1)
    return followed(context, integrator.step, kelvin, integrator.getIntegrationForceGroups())


DOORS = {
    "SegmentDynamics, Langevin": lambda kelvin: in_ase("langevin", kelvin),
    "SegmentDynamics, Bussi": lambda kelvin: in_ase("bussi", kelvin),
    "SegmentDynamics, Andersen": lambda kelvin: in_ase("andersen", kelvin),
    "SegmentSimulation, Andersen": in_a_simulation,
    "SegmentIntegrator, Andersen": in_an_integrator,
}


@pytest.mark.parametrize("door", DOORS)
def test_thermostats_of_the_doors_are_canonical(door) -> None:
    cold, hot = DOORS[door](300.0), DOORS[door](350.0)
    for run in (cold, hot):
        assert len(run.kinetic) == N_SAMPLES
        assert_kinetic(run)
    assert_ensemble(cold, hot)


class Never:
    """A judge that accepts no frame."""

    name = "never"

    def judge(self, start, segment):
        return Verdict(torch.zeros(start.n_replicas, dtype=torch.int64), ("never",))

    def restart_state(self):
        return {}

    def restore(self, saved):
        pass


@pytest.mark.parametrize("kind", [openmm.VerletIntegrator, openmm.MTSIntegrator])
def test_the_fallback_converges_with_the_square_of_the_step(kind) -> None:
    # Across the seams of segments, and with velocities of the times of the frames.
    energies = {}
    for step_ps in (0.008, 0.004, 0.002):
        topology, system = carbons(2)
        hard = openmm.CustomExternalForce("5e5*(x^2+y^2+z^2)^2")
        hard.addParticle(0, [])
        system.addForce(hard)
        step = kind(step_ps) if kind is openmm.VerletIntegrator else kind(step_ps, [(0, 1)])
        sim = SegmentSimulation(
            topology, system, ExactWells(4, 8.0), guard=Never(), fallback=step, platform=REFERENCE
        )
        sim.context.setPositions(np.array([[0.01, 0.0, 0.005], [0.31, 0.01, 0.0]]))
        sim.context.setVelocitiesToTemperature(600.0, 1)
        run = []
        for _ in range(100):
            sim.step(1)
            seen = sim.context.getState(energy=True)
            run.append((seen.getKineticEnergy() + seen.getPotentialEnergy())._value * KJ_PER_MOL)
        energies[step_ps] = np.array(run)
        assert sim.statistics().frames_by["INTEGRATOR"] == 100
    assert slowest_convergence(energies) < 0.1


@pytest.mark.parametrize("split", [False, True])
def test_forces_in_openmm_converge_with_the_square_of_the_step(split) -> None:
    home = torch.from_numpy(homes(2))
    energies = {}
    for step_ps in (1e-3, 5e-4, 2.5e-4):
        system = openmm.System()
        for mass in (12.0, 1.0):
            system.addParticle(mass)
        slow = openmm_force(HardeningSprings(home), [6, 1])
        slow.setForceGroup(1)
        system.addForce(slow)
        step = openmm.VerletIntegrator(step_ps)
        if split:
            fast = openmm.HarmonicBondForce()
            fast.addBond(0, 1, 0.3, 5e4)
            system.addForce(fast)
            step = openmm.MTSIntegrator(step_ps, [(1, 1), (0, 4)])
        context = openmm.Context(system, step, REFERENCE)
        context.setPositions(0.1 * (homes(2) + 0.1))
        context.setVelocitiesToTemperature(600.0, 1)
        run = []
        for _ in range(100):
            step.step(round(2e-3 / step_ps))
            seen = context.getState(energy=True)
            run.append((seen.getKineticEnergy() + seen.getPotentialEnergy())._value * KJ_PER_MOL)
        energies[step_ps] = np.array(run)
    assert slowest_convergence(energies) < 0.1
