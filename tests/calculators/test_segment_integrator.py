"""The experimental integrator gives the frames of the propagator inside a plain Simulation."""

from __future__ import annotations

import io
from importlib import resources

import numpy as np
import openmm
import pytest
import torch
from openmm import app

from egno_md.calculators.segment_integrator import SegmentIntegrator
from egno_md.calculators.segment_simulation import SegmentSimulation
from tests.calculators.wells import (
    REFERENCE,
    ExactWells,
    carbons,
    positions_of,
    start,
    velocities_of,
)


def simulation(platform: str = "Reference", wells: ExactWells | None = None, thermostat=None):
    topology, system = carbons(3)
    if thermostat is not None:
        system.addForce(thermostat)
    integrator = SegmentIntegrator(topology, system, wells or ExactWells())
    where = openmm.Platform.getPlatformByName(platform)
    sim = app.Simulation(topology, system, integrator, where)
    start(sim)
    return sim


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_frames_are_those_of_the_propagator(platform) -> None:
    sim = simulation(platform)
    topology, system = carbons(3)
    other = SegmentSimulation(topology, system, ExactWells(), platform=REFERENCE)
    other.context.setState(sim.context.getState(positions=True, velocities=True))
    log = io.StringIO()
    sim.reporters.append(app.StateDataReporter(log, 1, time=True, totalEnergy=True))
    sim.step(20)
    other.step(20)
    np.testing.assert_allclose(positions_of(sim), positions_of(other), atol=1e-12)
    np.testing.assert_allclose(velocities_of(sim), velocities_of(other), atol=1e-11)
    rows = np.loadtxt(io.StringIO(log.getvalue()), delimiter=",")
    np.testing.assert_allclose(rows[:, 0], 0.02 * np.arange(1, 21), rtol=1e-12)
    assert np.ptp(rows[:, 1]) < 1e-5 * rows[0, 1]


def test_the_network_is_asked_once_per_frame() -> None:
    wells = ExactWells()
    sim = simulation(wells=wells)
    sim.step(5)
    sim.minimizeEnergy()
    assert wells.calls == 5
    sim.step(1)
    assert float(wells.start.positions[..., 1:].abs().max()) < 1e-2


def test_thermostats_act_before_every_frame() -> None:
    wells = ExactWells()
    sim = simulation(wells=wells, thermostat=openmm.AndersenThermostat(300.0, 1e6))
    before = velocities_of(sim) / 100
    sim.step(1)
    assert float((wells.start.velocities[0] - torch.from_numpy(before)).abs().min()) > 0


def test_the_packaged_network_as_an_integrator() -> None:
    file = resources.files("egno_md") / "examples" / "alanine_dipeptide.pdb"
    pdb = app.PDBFile(str(file))
    found = []
    for plain in (True, False):
        system = app.ForceField("amber14-all.xml").createSystem(pdb.topology, removeCMMotion=False)
        if plain:
            integrator = SegmentIntegrator(pdb.topology, system, "alanine-dipeptide-egno")
            sim = app.Simulation(pdb.topology, system, integrator, REFERENCE)
        else:
            sim = SegmentSimulation(
                pdb.topology, system, "alanine-dipeptide-egno", platform=REFERENCE
            )
        sim.context.setPositions(pdb.positions)
        sim.context.setVelocitiesToTemperature(300.0, 7)
        sim.step(6)
        found.append(positions_of(sim))
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_failures_come_out_of_openmm() -> None:
    wells = ExactWells()
    wells.damage = lambda segment: segment.positions.fill_(torch.nan)
    with pytest.raises(openmm.OpenMMException, match="the frame after 0 fs is not finite"):
        simulation(wells=wells).step(1)


def test_systems_that_do_not_fit_are_refused() -> None:
    topology, system = carbons(3)
    system.getForce(0).setForceGroup(30)
    with pytest.raises(ValueError, match="force group 30 is in use"):
        SegmentIntegrator(topology, system, ExactWells())
    topology, system = carbons(3)
    system.addConstraint(0, 1, 0.3)
    with pytest.raises(ValueError, match="1 constraints"):
        SegmentIntegrator(topology, system, ExactWells())
    assert system.getNumForces() == 1


def test_copies_say_that_they_cannot_work() -> None:
    topology, system = carbons(3)
    SegmentIntegrator(topology, system, ExactWells())
    text = openmm.XmlSerializer.serialize(system)
    assert len(text) < 4000
    copy = openmm.XmlSerializer.deserialize(text)
    context = openmm.Context(copy, openmm.VerletIntegrator(0.001), REFERENCE)
    context.setPositions(np.zeros((3, 3)))
    with pytest.raises(openmm.OpenMMException, match="does not work when it is copied"):
        context.getState(energy=True)
