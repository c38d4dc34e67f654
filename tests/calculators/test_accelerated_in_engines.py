"""Two time steps and parareal inside the drivers of ASE and OpenMM, and what is refused there."""

import numpy as np
import openmm
import pytest
import torch

from egno_md.calculators.segment_dynamics import SegmentDynamics
from egno_md.calculators.segment_force import SegmentForceCalculator
from egno_md.calculators.segment_integrator import SegmentIntegrator
from egno_md.calculators.segment_simulation import SegmentSimulation
from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.guarded import GuardedPropagator
from egno_md.propagators.metropolised import Metropolised
from egno_md.propagators.multiple_time_step import MultipleTimeStep, MultipleTimeStepLangevin
from egno_md.propagators.parareal import Parareal
from egno_md.roles import EnergyForces
from tests.calculators.tethered_atoms import Oscillators, Tethers, some_atoms
from tests.calculators.wells import REFERENCE, STIFFNESS, ExactWells, carbons, positions_of, start
from tests.propagators.exact_distributions import KELVIN


class Wells:
    """The potential of `carbons`, or a part of it, eV and Å."""

    def __init__(self, share=1.0):
        self.k = share * STIFFNESS * 1e-2 / 96.485332

    def _away(self, state):
        home = torch.zeros_like(state.positions)
        home[:, :, 0] = 3.0 * torch.arange(home.shape[1])
        return state.positions - home

    def evaluate(self, state):
        return EnergyForces(self.energies(state), -self.k * self._away(state))

    def energies(self, state):
        return 0.5 * self.k * self._away(state).square().sum((1, 2))


def noise(seed=1):
    return torch.Generator().manual_seed(seed)


def two_steps(inner, outer, interval_fs=4.0):
    return MultipleTimeStep(inner, outer, 0.5, 2.0, interval_fs, 3)


def two_steps_in_a_bath(inner, outer, interval_fs=4.0):
    bath = (KELVIN, 10.0, noise())
    return MultipleTimeStepLangevin(inner, outer, 0.5, 2.0, interval_fs, 3, *bath)


def parareal(inner, outer, interval_fs=4.0):
    coarse, fine = (VelocityVerlet(p, 0.5, interval_fs, 1) for p in (inner, outer))
    return Parareal(coarse, fine, n_slabs=3, tolerance_A=1e-8)


MAKERS = {"two steps": two_steps, "in a bath": two_steps_in_a_bath, "parareal": parareal}


def metropolised(potential):
    verlet = VelocityVerlet(potential, 0.5, 4.0, 1)
    return Metropolised(verlet, potential, KELVIN, 100.0, noise(), n_frames=3)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_in_ase_frames_are_those_of_the_propagator(make, tmp_path):
    def driver():
        # A cheap potential that is a little off.
        return SegmentDynamics(some_atoms(), make(Softer(), Tethers()), bonds=[])

    alone, dyn = make(Softer(), Tethers()), driver()
    dyn.run(4)
    dyn.save_restart(tmp_path / "middle")
    dyn.run(5)
    first = state_of(some_atoms())
    there = first
    for _ in range(3):
        there = alone.advance(there).last
    np.testing.assert_allclose(dyn.atoms.positions, there.positions[0], rtol=0, atol=1e-9)
    assert float((there.positions - first.positions).abs().max()) > 0.05
    again = driver()
    again.restore(tmp_path / "middle")
    again.run(5)
    assert np.array_equal(again.atoms.positions, dyn.atoms.positions)
    # Noise sets the whole going; at constant energy it stays as it was.
    assert dyn.degrees_of_freedom == 9


class Softer(Tethers):
    """The tethers, a fifth of them missing."""

    def evaluate(self, state):
        found = super().evaluate(state)
        return EnergyForces(0.8 * found.energy, 0.8 * found.forces)


def state_of(atoms):
    from egno_md.ase_atoms import state_from_atoms

    return state_from_atoms(atoms)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_in_openmm_frames_are_those_of_the_propagator(make):
    topology, system = carbons(3)
    propagator = make(Wells(0.8), Wells(), 20.0)
    simulation = SegmentSimulation(topology, system, propagator, platform=REFERENCE)
    start(simulation)
    before = simulation.integrator.frames.read(0.0)
    simulation.step(6)
    alone, there = make(Wells(0.8), Wells(), 20.0), before
    for _ in range(2):
        there = alone.advance(there).last
    found = 10.0 * positions_of(simulation)
    np.testing.assert_allclose(found, there.positions[0].numpy(), rtol=0, atol=1e-6)
    assert float((there.positions - before.positions).abs().max()) > 0.05
    assert simulation.context.getTime()._value == pytest.approx(0.12)


BATHED = {
    "metropolised": metropolised,
    "two steps": lambda potential: two_steps_in_a_bath(potential, potential),
}


@pytest.mark.parametrize("make", BATHED.values(), ids=BATHED)
def test_ase_refuses_a_guard_and_a_second_bath(make):
    refused = "cannot be guarded: it has a bath of its own"
    with pytest.raises(ValueError, match=refused):
        SegmentDynamics(some_atoms(), make(Tethers()), guard=Tethers(), bonds=[])
    verlet = VelocityVerlet(Tethers(), 0.5, 4.0, 3)
    with pytest.raises(ValueError, match=refused):
        GuardedPropagator(make(Tethers()), verlet, [])
    with pytest.raises(ValueError, match=r"has a bath of its own, .* leave temperature_K out"):
        SegmentDynamics(some_atoms(), make(Tethers()), temperature_K=900, bonds=[])
    with pytest.raises(ValueError, match="has no force of a start at rest"):
        SegmentForceCalculator(make(Tethers()))
    SegmentDynamics(some_atoms(), make(Tethers()), bonds=[]).run(2)


@pytest.mark.parametrize("make", BATHED.values(), ids=BATHED)
def test_openmm_refuses_a_guard_and_a_second_bath(make):
    topology, system = carbons(3)
    given = (topology, system, make(Wells()))
    verlet = openmm.VerletIntegrator(0.0005)
    with pytest.raises(ValueError, match="cannot be guarded: it has a bath of its own"):
        SegmentSimulation(*given, energy_limit=5.0, fallback=verlet, platform=REFERENCE)
    system.addForce(openmm.AndersenThermostat(KELVIN, 10.0))
    with pytest.raises(ValueError, match=r"AndersenThermostat .* take the thermostat out"):
        SegmentSimulation(*given, platform=REFERENCE)
    with pytest.raises(ValueError, match="take the thermostat out of the system"):
        SegmentIntegrator(*given)


def test_ase_passes_on_how_proposals_are_judged():
    many = {"segments_per_proposal": 3, "recover_after": 2}
    fast = Oscillators(n_frames=4)

    def damage(segment):
        if fast.calls == 1:
            segment.positions[:, 2] += 5.0

    fast.damage = damage
    dyn = SegmentDynamics(some_atoms(), fast, guard=Tethers(), bonds=[], **many)
    assert dyn.todict()["frames_per_segment"] == 12
    dyn.run(12)
    # The first segment was cut, so the next proposals had half of the 12 frames.
    assert dyn.statistics().shortest_frames == 6
    assert dyn.statistics().frames_by["INTEGRATOR"] == 2
    for option in (
        {"segments_per_proposal": 2},
        {"recover_after": 1},
        {"energy_limit_eV": 0.05},
        {"energy_frames": "all"},
        {"fallback_timestep_fs": 0.25},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(option))} goes with a guard: give"):
            SegmentDynamics(some_atoms(), Oscillators(), bonds=[], **option)
    SegmentDynamics(some_atoms(), Oscillators(), bonds=[], energy_limit_eV=None)


def test_openmm_passes_on_how_proposals_are_judged():
    topology, system = carbons(2)
    wells = ExactWells(n_frames=4)

    def damage(segment):
        if wells.calls == 1:
            segment.positions[:, 2] = torch.nan

    wells.damage = damage
    many = {"segments_per_proposal": 3, "recover_after": 2}
    verlet = openmm.VerletIntegrator(0.001)
    given = (topology, system, wells)
    simulation = SegmentSimulation(*given, fallback=verlet, platform=REFERENCE, **many)
    start(simulation)
    simulation.step(12)
    assert simulation.propagator.n_frames == 12
    assert simulation.statistics().shortest_frames == 6
    assert simulation.statistics().frames_by["INTEGRATOR"] == 2
    for option in ({"segments_per_proposal": 2}, {"recover_after": 1}):
        with pytest.raises(ValueError, match="a guard needs a fallback"):
            SegmentSimulation(*given, platform=REFERENCE, **option)
