"""Checkpoints go on exactly, also from inside a segment, and damaged ones are refused."""

from __future__ import annotations

import io
from dataclasses import replace

import openmm
import pytest
import torch

from egno_md.calculators.segment_checkpoint import SegmentCheckpoint, write_whole
from egno_md.calculators.segment_simulation import SegmentSimulation
from egno_md.propagators.thermostat import Thermostatted
from egno_md.segment import MadeBy
from tests.calculators.wells import REFERENCE, ExactWells, carbons, positions_of, start


def simulation(n_atoms: int = 3, n_frames: int = 8, own_bath: bool = False) -> SegmentSimulation:
    """A thermostat of OpenMM and a guard that cuts now and then; or a bath of our own."""
    topology, system = carbons(n_atoms)
    wells = ExactWells(n_frames)
    if own_bath:
        bath = Thermostatted(wells, 300.0, 5.0, torch.Generator().manual_seed(3))
        sim = SegmentSimulation(topology, system, bath, platform=REFERENCE)
        start(sim)
        return sim
    andersen = openmm.AndersenThermostat(300.0, 20.0)
    andersen.setRandomNumberSeed(5)
    system.addForce(andersen)

    def damage(segment) -> None:
        if wells.calls % 2 == 0:
            segment.positions[:, 5:] = torch.nan

    wells.damage = damage
    middle = openmm.LangevinMiddleIntegrator(300.0, 5.0, 0.001)
    middle.setRandomNumberSeed(5)
    sim = SegmentSimulation(topology, system, wells, platform=REFERENCE, fallback=middle)
    start(sim)
    return sim


def everything(sim) -> tuple:
    state = sim.context.getState(positions=True, velocities=True)
    return (
        state.getTime()._value,
        sim.currentStep,
        sim.made_by,
        state.getPositions(asNumpy=True)._value.tobytes(),
        state.getVelocities(asNumpy=True)._value.tobytes(),
    )


@pytest.mark.parametrize("own_bath", [False, True])
@pytest.mark.parametrize("at", [0, 3, 8, 13, 15])
def test_going_on_from_a_checkpoint_is_exact(tmp_path, at, own_bath) -> None:
    file = str(tmp_path / "some.chk")
    sim = simulation(own_bath=own_bath)
    sim.step(at)
    sim.saveCheckpoint(file)
    sim.step(30)
    fresh = simulation(own_bath=own_bath)
    fresh.step(2)
    fresh.loadCheckpoint(file)
    assert fresh.currentStep == at
    fresh.step(30)
    assert everything(fresh) == everything(sim)
    assert fresh.statistics() == sim.statistics()
    if not own_bath:
        assert sim.statistics().frames_by["INTEGRATOR"] > 0
    sim.loadCheckpoint(file)  # back to where it was
    sim.step(30)
    assert everything(fresh) == everything(sim)


def test_saving_changes_nothing_and_files_may_be_open() -> None:
    # One after the other: contexts of the Reference platform draw from one random stream.
    quiet = simulation()
    quiet.step(20)
    saving = simulation()
    for _ in range(20):
        saving.step(1)
        file = io.BytesIO()
        saving.saveCheckpoint(file)
    assert everything(quiet) == everything(saving)
    other = simulation()
    other.loadCheckpoint(io.BytesIO(file.getvalue()))
    assert everything(other) == everything(saving)
    assert other.made_by in (MadeBy.NETWORK, MadeBy.INTEGRATOR)


def test_an_edit_before_saving_is_saved() -> None:
    sim, file = simulation(), io.BytesIO()
    sim.step(3)
    x = positions_of(sim).copy()
    x[0] += 0.01
    sim.context.setPositions(x)
    sim.saveCheckpoint(file)
    sim.step(1)
    other = simulation()
    other.loadCheckpoint(io.BytesIO(file.getvalue()))
    other.step(1)
    assert everything(other) == everything(sim)


def test_other_simulations_are_refused() -> None:
    sim, file = simulation(), io.BytesIO()
    sim.saveCheckpoint(file)
    with pytest.raises(ValueError, match="n_atoms = 3; this one has 4"):
        simulation(4).loadCheckpoint(io.BytesIO(file.getvalue()))
    with pytest.raises(ValueError, match="n_frames = 8; this one has 6"):
        simulation(n_frames=6).loadCheckpoint(io.BytesIO(file.getvalue()))
    plain = sim.context.createCheckpoint()
    with pytest.raises(ValueError, match="no whole checkpoint of a SegmentSimulation"):
        sim.loadCheckpoint(io.BytesIO(plain))


def test_a_checkpoint_that_does_not_fit_changes_nothing() -> None:
    sim, file = simulation(), io.BytesIO()
    sim.step(3)
    sim.saveCheckpoint(file)
    sim.step(6)
    before, counts = everything(sim), sim.statistics()
    good = SegmentCheckpoint.from_bytes(file.getvalue())
    for bad in (replace(good, context=b"CUDA" + good.context), replace(good, tensors={})):
        with pytest.raises(ValueError, match="does not fit this simulation"):
            sim.loadCheckpoint(io.BytesIO(bad.to_bytes()))
        assert everything(sim) == before
        assert sim.statistics() == counts
    sim.step(5)
    assert sim.currentStep == 14


def test_damaged_files_are_refused_and_change_nothing() -> None:
    sim, file = simulation(), io.BytesIO()
    sim.step(3)
    sim.saveCheckpoint(file)
    whole = file.getvalue()
    sim.step(2)
    before = everything(sim)
    for cut in range(0, len(whole), 97):
        with pytest.raises(ValueError, match="no whole checkpoint"):
            sim.loadCheckpoint(io.BytesIO(whole[:cut]))
    n_harmless = 0
    for place in range(0, len(whole), 41):
        flipped = bytearray(whole)
        flipped[place] ^= 16
        try:
            found = SegmentCheckpoint.from_bytes(bytes(flipped))
        except ValueError:
            continue
        n_harmless += 1  # a bit of the archive's own records, such as a date
        good = SegmentCheckpoint.from_bytes(whole)
        assert (found.context, found.about) == (good.context, good.about)
        assert all(torch.equal(found.tensors[k], t) for k, t in good.tensors.items())
    assert n_harmless < len(whole) / 41 / 4
    assert everything(sim) == before


def test_a_newer_format_is_refused() -> None:
    data = SegmentCheckpoint(b"", {"format": 2}, {}).to_bytes()
    with pytest.raises(ValueError, match="has format 2; this version reads 1"):
        SegmentCheckpoint.from_bytes(data)


def test_a_file_is_replaced_whole(tmp_path) -> None:
    target = tmp_path / "file"
    write_whole(b"old", target)
    write_whole(b"new", target)
    assert target.read_bytes() == b"new"
    with pytest.raises(FileNotFoundError):
        write_whole(b"new", tmp_path / "nowhere" / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
