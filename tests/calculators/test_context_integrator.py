"""Guard and fallback: real integrators in the simulation's own context."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

from egno_md.calculators.context_integrator import keeps_half_step_velocities, steps_per_frame
from egno_md.calculators.potential_from_openmm import OpenMMPotential
from egno_md.calculators.segment_simulation import SegmentSimulation
from egno_md.propagators.classical import VelocityVerlet
from egno_md.roles import Verdict
from egno_md.segment import Event, MadeBy
from egno_md.trajectories.judges import BondJudge, EnergyJudge
from tests.calculators.wells import (
    REFERENCE,
    ExactWells,
    carbons,
    positions_of,
    start,
    velocities_of,
)


class Keeps:
    """A judge that keeps so many frames of every segment."""

    name = "counting"

    def __init__(self, n: int) -> None:
        self.n = n

    def judge(self, start, segment):
        return Verdict(torch.tensor([min(self.n, segment.n_frames)]), ("enough",))

    def restart_state(self):
        return {}

    def restore(self, saved):
        pass


def simulation(n_atoms: int = 3, wells: ExactWells | None = None, **options) -> SegmentSimulation:
    topology, system = carbons(n_atoms)
    made = SegmentSimulation(topology, system, wells or ExactWells(), platform=REFERENCE, **options)
    start(made)
    return made


NEWTONIAN = {
    "verlet": lambda: openmm.VerletIntegrator(0.001),
    "middle": lambda: openmm.LangevinMiddleIntegrator(0.0, 0.0, 0.001),
    "langevin": lambda: openmm.LangevinIntegrator(0.0, 0.0, 0.001),
    "nose-hoover": lambda: openmm.NoseHooverIntegrator(0.001),
    "multiple time step": lambda: openmm.MTSIntegrator(0.001, [(0, 1)]),
    "mts langevin": lambda: openmm.MTSLangevinIntegrator(0.0, 0.0, 0.001, [(0, 1)]),
}


@pytest.mark.parametrize("name", NEWTONIAN)
def test_without_friction_every_fallback_is_velocity_verlet(name) -> None:
    """Velocities too: half a step's offset of a leapfrog scheme would show at 1e-2."""
    integrator = NEWTONIAN[name]()
    sim = simulation(guard=Keeps(0), fallback=integrator)
    first = sim.integrator.frames.read(0.0)
    verlet = VelocityVerlet(OpenMMPotential(carbons(3)[1]), 1.0, 20.0, 8)
    expected = verlet.advance(verlet.advance(first).last)
    sim.step(16)
    assert sim.made_by is MadeBy.INTEGRATOR
    np.testing.assert_allclose(positions_of(sim) * 10, expected.positions[0, -1], atol=1e-9)
    np.testing.assert_allclose(velocities_of(sim) / 100, expected.velocities[0, -1], atol=1e-11)
    leap = name not in ("multiple time step", "mts langevin")
    assert keeps_half_step_velocities(integrator) == leap


def test_frames_are_handed_over_inside_a_segment() -> None:
    sim = simulation(guard=[Keeps(5)], fallback=openmm.VerletIntegrator(0.00025))
    exact = ExactWells(24).advance(sim.integrator.frames.read(0.0)).positions[0] * 0.1
    makers = []
    for k in range(24):
        sim.step(1)
        makers.append(sim.made_by)
        np.testing.assert_allclose(positions_of(sim), exact[k], atol=2e-5)
    assert makers == [*[MadeBy.NETWORK] * 5, *[MadeBy.INTEGRATOR] * 3] * 3
    assert sim.events == [Event(t, 0, "counting", "enough", 5, 8) for t in (120.0, 280.0, 440.0)]
    assert sim.statistics().frames_by == {"GIVEN": 0, "NETWORK": 15, "INTEGRATOR": 9}
    assert sim.context.getTime()._value == 24 * 0.02


def test_frames_that_are_not_finite_are_made_again() -> None:
    wells = ExactWells()
    sim = simulation(wells=wells, fallback=openmm.VerletIntegrator(0.001))
    wells.damage = lambda segment: segment.velocities[:, 6:].fill_(torch.inf)
    sim.step(8)
    assert np.isfinite(positions_of(sim)).all()
    assert [(e.judge, e.n_accepted) for e in sim.events] == [("finite values", 6)]


def test_the_energy_limit_asks_the_system() -> None:
    wells = ExactWells()
    sim = simulation(
        wells=wells, energy_limit=1.0 * unit.kilojoule_per_mole,
        fallback=openmm.VerletIntegrator(0.0005),
    )  # fmt: skip
    sim.step(8)
    assert sim.events == []
    found = sim.context.getState(energy=True)
    total = found.getPotentialEnergy()._value + found.getKineticEnergy()._value

    def damage(segment) -> None:
        speeds = segment.velocities[:, 3:]
        kinetic = 0.5 * 12.0 * float(segment.velocities[0, 3].square().sum()) * 1e4
        speeds.mul_((1 + 3.0 / kinetic) ** 0.5)  # 3 kJ/mol too much at the fourth frame

    wells.damage = damage
    sim.step(8)
    (event,) = sim.events
    assert (event.judge, event.n_accepted) == ("energy of the system", 3)
    assert "changes by 0.0311 eV" in event.reason  # 3 kJ/mol
    found = sim.context.getState(energy=True)
    after = found.getPotentialEnergy()._value + found.getKineticEnergy()._value
    assert after == pytest.approx(total, abs=1e-2)


@pytest.mark.parametrize(("asked", "caught"), [("auto", 1), ("all", 1), ("last", 0)])
def test_a_bad_frame_before_a_good_end_is_seen_where_every_frame_is_asked_for(asked, caught):
    wells = ExactWells()
    sim = simulation(
        wells=wells, energy_limit=1.0, energy_frames=asked,
        fallback=openmm.VerletIntegrator(0.0005),
    )  # fmt: skip
    wells.damage = lambda segment: segment.velocities[:, 3].mul_(2.0)
    sim.step(8)
    assert [e.n_accepted for e in sim.events] == [3] * caught


def test_an_openmm_system_and_bonds_judge() -> None:
    topology, system = carbons(3)
    atoms = list(topology.atoms())
    topology.addBond(atoms[0], atoms[1])
    wells = ExactWells()
    sim = SegmentSimulation(
        topology, system, wells, platform=REFERENCE, fallback=openmm.VerletIntegrator(0.001),
        guard=[BondJudge(torch.tensor([3.0]), 1.0), EnergyJudge(OpenMMPotential(system), 0.01)],
    )  # fmt: skip
    start(sim)
    sim.step(8)
    assert sim.events == []
    wells.damage = lambda segment: segment.positions[:, 4:, 1, 0].add_(2.0)
    sim.step(8)
    wells.damage = lambda segment: segment.positions[:, 2:, 2].add_(0.5)
    sim.step(8)
    assert [(e.judge, e.n_accepted) for e in sim.events] == [
        ("bond lengths", 4), ("energy error", 2)
    ]  # fmt: skip
    assert "bond C0-C1" in sim.events[0].reason


def test_thermostat_and_barostat_rest_during_the_fallback() -> None:
    topology, system = carbons(5)
    system.addForce(openmm.AndersenThermostat(300.0, 1e6))
    sim = SegmentSimulation(
        topology, system, ExactWells(), guard=Keeps(0), platform=REFERENCE,
        fallback=openmm.VerletIntegrator(0.001),
    )  # fmt: skip
    start(sim)
    energies = []
    for _ in range(8):
        sim.step(1)
        found = sim.context.getState(energy=True)
        energies.append(found.getPotentialEnergy()._value + found.getKineticEnergy()._value)
    assert max(energies) - min(energies) < 0.02 * max(energies)
    assert sim.context.getParameter(openmm.AndersenThermostat.CollisionFrequency()) == 1e6
    before = sim.context.getState(velocities=True).getVelocities(asNumpy=True)._value
    sim.step(1)
    after = sim.context.getState(velocities=True).getVelocities(asNumpy=True)._value
    # All velocities were drawn anew; without that a step hardly changes them.
    assert np.linalg.norm(after - before) > 0.5 * np.linalg.norm(before)


def test_velocities_of_a_leapfrog_simulation_are_taken_over() -> None:
    topology, system = carbons(3)
    plain = app.Simulation(topology, system, openmm.VerletIntegrator(0.002), REFERENCE)
    start(plain)
    plain.step(50)
    found = plain.context.getState(positions=True, velocities=True, energy=True)
    sim = simulation()
    sim.context.setState(found)
    kinetic = sim.context.getState(energy=True).getKineticEnergy()._value
    assert kinetic != pytest.approx(found.getKineticEnergy()._value, rel=1e-3)
    sim.velocities_from_leapfrog(2 * unit.femtosecond)
    kinetic = sim.context.getState(energy=True).getKineticEnergy()._value
    assert kinetic == pytest.approx(found.getKineticEnergy()._value, rel=1e-12)
    assert sim.currentStep == 50


def test_unfit_fallbacks_are_refused() -> None:
    with pytest.raises(ValueError, match="BrownianIntegrator cannot be the fallback"):
        simulation(fallback=openmm.BrownianIntegrator(300.0, 1.0, 0.001))
    with pytest.raises(ValueError, match=r"step of 3 fs does not divide the 20 fs .* 2\.85714 fs"):
        simulation(fallback=openmm.VerletIntegrator(0.003))
    assert steps_per_frame(openmm.VerletIntegrator(0.0005), 4.0) == 8
    with pytest.raises(ValueError, match="a guard needs a fallback"):
        simulation(guard=Keeps(3))
    with pytest.raises(ValueError, match="must be positive"):
        simulation(energy_limit=0.0, fallback=openmm.VerletIntegrator(0.001))


def test_a_fallback_that_gives_up_leaves_the_last_good_frame() -> None:
    topology, system = carbons(2)
    force = openmm.CustomExternalForce("step(x-1)*sqrt(1-x)")
    force.addParticle(1, [])
    system.addForce(force)
    sim = SegmentSimulation(
        topology, system, ExactWells(), guard=Keeps(0), platform=REFERENCE,
        fallback=openmm.VerletIntegrator(0.001),
    )  # fmt: skip
    start(sim)
    sim.context.setVelocities([[0, 0, 0], [80.0, 0, 0]])
    before = positions_of(sim).copy()
    with pytest.raises(ValueError, match="the safe propagator failed too"):
        sim.step(8)
    assert np.array_equal(positions_of(sim), before)
    assert (sim.currentStep, sim.context.getTime()._value) == (0, 0.0)
    assert sim.context.getIntegrator().getCurrentIntegrator() == 0
