"""A segment simulation is a Simulation: steps, clocks, reporters, edits, baths."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import mdtraj
import numpy as np
import openmm
import pytest
import torch
from mdtraj.reporters import HDF5Reporter
from openmm import app, unit

from egno_md.calculators.segment_simulation import SegmentSimulation
from egno_md.segment import MadeBy
from egno_md.units import BOLTZMANN_EV_PER_K, EV_PER_AMU_A2_FS2, KJ_PER_MOL
from tests.calculators.wells import (
    REFERENCE,
    ExactWells,
    carbons,
    positions_of,
    start,
    velocities_of,
)


def simulation(n_atoms: int = 3, wells: ExactWells | None = None, **options) -> SegmentSimulation:
    topology, system = carbons(n_atoms)
    made = SegmentSimulation(topology, system, wells or ExactWells(), platform=REFERENCE, **options)
    start(made)
    return made


def everything(sim) -> tuple:
    state = sim.context.getState(positions=True, velocities=True, energy=True)
    return (
        state.getTime()._value,
        sim.currentStep,
        state.getPotentialEnergy()._value,
        state.getKineticEnergy()._value,
        state.getPositions(asNumpy=True)._value.tobytes(),
        state.getVelocities(asNumpy=True)._value.tobytes(),
    )


def exact(sim, n_frames: int) -> np.ndarray:
    """Where the wells are after some frames, from where the simulation is now, nm."""
    frames = ExactWells(n_frames)
    first = sim.integrator.frames.read(0.0)
    return frames.advance(first).positions[0].numpy() * 0.1


@pytest.mark.parametrize("steps", [[1] * 60, [7, 9, 1, 20, 3, 20], [8, 8, 44]])
def test_how_steps_are_split_changes_nothing(steps) -> None:
    whole, parts = simulation(), simulation()
    whole.step(60)
    for n in steps:
        parts.step(n)
    assert everything(whole) == everything(parts)
    assert whole.currentStep == 60
    assert whole.context.getTime()._value == 60 * 0.02


def test_frames_are_those_of_the_propagator() -> None:
    sim = simulation()
    expected = exact(sim, 19)
    assert sim.made_by is MadeBy.GIVEN
    for k in range(19):
        sim.step(1)
        np.testing.assert_allclose(positions_of(sim), expected[k], atol=1e-14)
    assert sim.made_by is MadeBy.NETWORK
    assert not np.allclose(expected[0], expected[1], atol=1e-4)


def test_time_does_not_drift() -> None:
    sim = simulation(1, ExactWells(8, 0.1))
    sim.step(3001)
    assert sim.context.getTime()._value == 3001 * (0.1 * 1e-3)


def test_nothing_happens_for_no_steps_and_half_steps_are_refused() -> None:
    sim = simulation()
    before = everything(sim)
    sim.step(0)
    assert everything(sim) == before
    assert sim.propagator.calls == 0
    with pytest.raises(TypeError):
        sim.step(1.5)


def test_the_stand_in_for_the_integrator() -> None:
    sim = simulation()
    assert sim.integrator.getStepSize() == 0.02 * unit.picosecond
    with pytest.raises(ValueError, match="frames are 20 fs apart"):
        sim.integrator.setStepSize(0.001)
    assert sim.integrator.getNumIntegrators() == 1
    assert not hasattr(sim.integrator, "nothing_like_this")


def test_reporters_of_openmm_and_mdtraj(tmp_path) -> None:
    sim = simulation()
    expected = exact(sim, 60)
    log = io.StringIO()
    topology = mdtraj.Topology.from_openmm(sim.topology)
    hdf5 = HDF5Reporter(str(tmp_path / "a.h5"), 4, velocities=True)
    sim.reporters = [
        app.DCDReporter(str(tmp_path / "a.dcd"), 3),
        app.XTCReporter(str(tmp_path / "a.xtc"), 5),
        app.PDBReporter(str(tmp_path / "a.pdb"), 20),
        app.CheckpointReporter(str(tmp_path / "a.chk"), 25),
        hdf5,
        app.StateDataReporter(
            log, 5, step=True, time=True, potentialEnergy=True, kineticEnergy=True,
            totalEnergy=True, temperature=True, speed=True, remainingTime=True, totalSteps=60,
        ),
    ]  # fmt: skip
    sim.step(60)
    hdf5.close()
    sim.reporters.clear()  # closes files
    dcd = mdtraj.load(tmp_path / "a.dcd", top=topology)
    assert dcd.n_frames == 20
    np.testing.assert_allclose(dcd.xyz, expected[2::3], atol=1e-6)
    with (tmp_path / "a.dcd").open("rb") as file:
        header = np.frombuffer(file.read(48), dtype=np.int32)
    assert header[2:5].tolist() == [20, 3, 3]  # frames, first step, steps between frames
    xtc = mdtraj.load(tmp_path / "a.xtc", top=topology)
    np.testing.assert_allclose(xtc.time, 0.1 * np.arange(1, 13), atol=1e-5)
    np.testing.assert_allclose(xtc.xyz, expected[4::5], atol=6e-4)
    pdb = mdtraj.load(tmp_path / "a.pdb")
    np.testing.assert_allclose(pdb.xyz, expected[19::20], atol=6e-5)
    h5 = mdtraj.load(tmp_path / "a.h5")
    np.testing.assert_allclose(h5.time, 0.08 * np.arange(1, 16), atol=1e-5)
    np.testing.assert_allclose(h5.xyz, expected[3::4], atol=1e-6)
    rows = list(csv.DictReader(io.StringIO(log.getvalue())))
    assert [int(row['#"Step"']) for row in rows] == list(range(5, 61, 5))
    assert [float(row["Time (ps)"]) for row in rows] == [k * 0.02 for k in range(5, 61, 5)]
    total = [float(row["Total Energy (kJ/mole)"]) for row in rows]
    kinetic = np.array([float(row["Kinetic Energy (kJ/mole)"]) for row in rows])
    assert max(total) - min(total) < 1e-10
    assert kinetic.max() > 1.5 * kinetic.min()
    kelvin = [float(row["Temperature (K)"]) for row in rows]
    per_kelvin = 0.5 * 9 * BOLTZMANN_EV_PER_K / KJ_PER_MOL
    np.testing.assert_allclose(kelvin, kinetic / per_kelvin, rtol=1e-6)
    assert (tmp_path / "a.chk").stat().st_size > 0


def test_reports_do_not_change_what_is_simulated() -> None:
    quiet, talking = simulation(), simulation()
    talking.reporters.append(app.StateDataReporter(io.StringIO(), 3, totalEnergy=True))
    quiet.step(50)
    talking.step(50)
    assert everything(quiet) == everything(talking)


def test_it_runs_for_clock_time(tmp_path) -> None:
    sim = simulation()
    sim.runForClockTime(0.05 * unit.seconds, checkpointFile=str(tmp_path / "end.chk"))
    assert sim.currentStep > 0
    assert sim.context.getTime()._value == pytest.approx(0.02 * sim.currentStep, rel=1e-12)
    other = simulation()
    other.loadCheckpoint(str(tmp_path / "end.chk"))
    assert everything(other) == everything(sim)


@pytest.mark.parametrize("what", ["positions", "velocities"])
def test_edits_inside_a_segment_are_noticed(what) -> None:
    wells = ExactWells()
    sim = simulation(wells=wells)
    sim.step(3)
    assert wells.calls == 1
    edited = (positions_of(sim) if what == "positions" else velocities_of(sim)).copy()
    edited[1, 2] += 1e-9
    getattr(sim.context, f"set{what.capitalize()}")(edited)
    expected = exact(sim, 8)
    sim.step(1)
    assert wells.calls == 2
    np.testing.assert_allclose(positions_of(sim), expected[0], atol=1e-14)
    sim.step(7)
    assert wells.calls == 2
    np.testing.assert_allclose(positions_of(sim), expected[7], atol=1e-14)
    assert sim.currentStep == 11


def test_minimisation_and_reading_inside_a_segment() -> None:
    wells = ExactWells()
    sim = simulation(wells=wells)
    sim.step(3)
    velocities_of(sim)
    sim.context.setPositions(positions_of(sim))  # the same ones
    sim.step(1)
    assert wells.calls == 1
    sim.minimizeEnergy()
    assert sim.context.getState(energy=True).getPotentialEnergy()._value < 1e-2
    sim.step(1)
    assert wells.calls == 2
    assert float(wells.start.positions[0, :, 1:].abs().max()) < 1e-2


def test_counters_may_be_set_inside_a_segment() -> None:
    plain, sim = simulation(), simulation()
    plain.step(10)
    sim.step(3)
    sim.currentStep = 0
    sim.context.setTime(1.0)
    sim.step(7)
    assert everything(sim)[2:] == everything(plain)[2:]
    assert (sim.currentStep, sim.context.getTime()._value) == (7, 1.0 + 7 * 0.02)


def test_a_failing_propagator_leaves_the_last_good_frame() -> None:
    wells = ExactWells()
    sim = simulation(wells=wells)
    sim.system.addForce(openmm.AndersenThermostat(300.0, 1e3))
    sim.context.reinitialize(preserveState=True)
    sim.step(8)
    before = everything(sim)

    def damage(segment) -> None:
        segment.positions[0, 2, 1, 0] = torch.nan

    wells.damage = damage
    with pytest.raises(ValueError, match=r"atom 1 .* not finite at 220 fs; give a fallback"):
        sim.step(5)
    assert everything(sim) == before
    wells.damage = lambda segment: None
    sim.step(8)
    assert sim.currentStep == 16


def andersen(per_ps: float) -> openmm.AndersenThermostat:
    """At 300 K, the same every time."""
    thermostat = openmm.AndersenThermostat(300.0, per_ps)
    thermostat.setRandomNumberSeed(5)
    return thermostat


def test_an_andersen_thermostat_acts_once_per_segment() -> None:
    """Full collisions draw all velocities anew: kinetic energies are independent draws."""
    topology, system = carbons(10)
    system.addForce(andersen(1e6))
    sim = SegmentSimulation(topology, system, ExactWells(2, 13.0), platform=REFERENCE)
    start(sim)
    kinetic = []
    for _ in range(800):
        sim.step(2)
        frame = sim.integrator.frames.read(0.0)
        start_of = sim.propagator.start
        assert not np.array_equal(frame.velocities, start_of.velocities)
        speeds = start_of.velocities[0].double().square().sum(-1)
        kinetic.append(0.5 * float((speeds * start_of.molecule.masses).sum()))
    n = 30
    in_kT = np.array(kinetic) * EV_PER_AMU_A2_FS2 / (BOLTZMANN_EV_PER_K * 300.0)
    # Mean n/2 and variance n/2 of a chi-squared; 4 standard errors.
    assert abs(in_kT.mean() - n / 2) < 4 * np.sqrt(n / 2 / 800)
    assert abs(in_kT.var() / (n / 2) - 1) < 4 * np.sqrt(2.4 / 800)


def test_collisions_take_the_span_of_the_segment_for_their_time() -> None:
    """With one collision per 160 fs and segments of 160 fs, 1 - 1/e of the atoms collide."""
    topology, system = carbons(200)
    system.addForce(andersen(1 / 0.16))
    wells = ExactWells()
    sim = SegmentSimulation(topology, system, wells, platform=REFERENCE)
    start(sim)
    hit = 0
    for _ in range(20):
        before = sim.integrator.frames.read(0.0).velocities[0]
        sim.step(8)
        moved = (wells.start.velocities[0] - before).abs().amax(-1) > 1e-9
        hit += int(moved.sum())
    share, n = hit / 4000, 4000
    expected = 1 - np.exp(-1)
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / n)
    assert sim.context.getTime()._value == pytest.approx(160 * 0.02)


@pytest.mark.parametrize(("every", "segments"), [(1, [1, 1, 1, 1]), (16, [1, 0, 1, 0])])
def test_motion_of_the_centre_of_mass_is_removed_when_due(every, segments) -> None:
    topology, system = carbons(4)
    system.addForce(openmm.CMMotionRemover(every))
    wells = ExactWells()
    sim = SegmentSimulation(topology, system, wells, platform=REFERENCE)
    start(sim)
    for expected in segments:
        sim.context.setVelocities(np.ones((4, 3)))
        sim.step(8)
        assert bool(wells.start.velocities.abs().max() < 1e-12) == bool(expected)


def box_of_argon(barostat_every: int):
    topology, system = carbons(27)
    system.removeForce(0)
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(0.6)
    for _ in range(27):
        force.addParticle(0.0, 0.34, 1.0)
    system.addForce(force)
    side = 1.5
    system.setDefaultPeriodicBoxVectors((side, 0, 0), (0, side, 0), (0, 0, side))
    barostat = openmm.MonteCarloBarostat(1.0, 300.0, barostat_every)
    barostat.setRandomNumberSeed(5)
    system.addForce(barostat)
    grid = np.array([(a, b, c) for a in range(3) for b in range(3) for c in range(3)])
    return topology, system, 0.5 * grid


@pytest.mark.parametrize(("every", "moves"), [(3, 24), (24, 8), (0, 0)])
def test_a_barostat_moves_the_box_between_segments_only(every, moves) -> None:
    topology, system, x = box_of_argon(every)
    wells = ExactWells(centres=torch.from_numpy(10.0 * x[:, 0]))
    sim = SegmentSimulation(topology, system, wells, platform=REFERENCE)
    sim.context.setPositions(x)
    sim.context.setVelocitiesToTemperature(300.0, 1)
    boxes, changes = [], 0
    for step in range(1, 24 * 8 + 1):
        sim.step(1)
        boxes.append(sim.context.getState().getPeriodicBoxVolume()._value)
        if step > 1 and boxes[-1] != boxes[-2]:
            assert step % 8 == 1
            changes += 1
    assert sim.system.getForce(1).getFrequency() == every
    # Some moves are rejected; with few attempts at least one of them is not.
    assert changes <= moves
    assert (changes > 0) == (moves > 0)
    if moves:
        side = sim.context.getState().getPeriodicBoxVectors()[0][0]._value
        assert float(wells.start.cell[0, 0, 0]) == pytest.approx(10 * side)


class FreeFlight(ExactWells):
    """Straight lines."""

    def advance(self, state, n_frames=None):
        segment = super().advance(state, n_frames)
        flown = 20.0 * torch.arange(1, self.n_frames + 1)[:, None, None] * state.velocities
        v = state.velocities[:, None].expand_as(segment.velocities).clone()
        return replace(segment, positions=state.positions[:, None] + flown[None], velocities=v)


def test_an_ideal_gas_has_the_volume_of_its_pressure() -> None:
    """P <V> = (n + 1) k T for n atoms that do not feel each other, by a barostat."""
    topology, system, x = box_of_argon(1)
    force = system.getForce(0)
    force.setCutoffDistance(0.2)
    for i in range(27):
        force.setParticleParameters(i, 0.0, 0.34, 0.0)
    kT = 300.0 * 8.31446261815324e-3  # kJ/mol
    volume = 28 * kT / (400.0 * 0.0602214076)  # nm^3, at 400 bar
    system.getForce(1).setDefaultPressure(400.0)
    system.setDefaultPeriodicBoxVectors(*np.diag([volume ** (1 / 3)] * 3).tolist())
    sim = SegmentSimulation(topology, system, FreeFlight(2), platform=REFERENCE)
    sim.context.setPositions(x)
    sim.context.setVelocitiesToTemperature(300.0, 1)
    found = []
    for _ in range(1300):
        sim.step(2)
        found.append(sim.context.getState().getPeriodicBoxVolume()._value)
    blocks = np.array(found[100:]).reshape(12, 100).mean(1)
    error = blocks.std(ddof=1) / 12**0.5
    assert error < 0.05 * volume
    assert abs(blocks.mean() - volume) < 4 * error


def test_it_starts_from_a_saved_state(tmp_path) -> None:
    sim = simulation()
    sim.step(11)
    file = str(tmp_path / "state.xml")
    sim.saveState(file)
    wells = ExactWells()
    other = simulation(wells=wells, state=file)
    other.loadState(file)
    assert (other.currentStep, other.context.getTime()._value) == (11, 11 * 0.02)
    other.step(3)
    other.loadState(file)  # what was left of the segment goes
    other.step(1)
    assert wells.calls == 2
    sim.step(1)
    np.testing.assert_allclose(positions_of(other), positions_of(sim), atol=1e-12)
