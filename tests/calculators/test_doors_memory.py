"""Thousands of steps through each door, with models that cost nothing, keep nothing."""

from __future__ import annotations

import io
import mmap

import openmm
import pytest
from ase import units
from ase.md import VelocityVerlet
from openmm import app

from egno_md.calculators.openmm_force import openmm_force
from egno_md.calculators.potential_calculator import PotentialCalculator
from egno_md.calculators.segment_force import SegmentForceCalculator
from egno_md.calculators.segment_integrator import SegmentIntegrator
from egno_md.calculators.segment_simulation import SegmentSimulation
from tests.calculators.openmm_waters import Counting, context_of, system_of, waters
from tests.calculators.resident_memory import resident_MB
from tests.calculators.tethered_atoms import Oscillators, Tethers, driver, some_atoms
from tests.calculators.wells import REFERENCE, ExactWells, carbons, start


def force_in_openmm():
    x, numbers = waters(2)
    integrator = openmm.LangevinMiddleIntegrator(300.0, 10.0, 0.0005)
    context = context_of(
        system_of(numbers, openmm_force(Counting(), numbers)), x, integrator=integrator
    )

    def step(n):
        assert context.getSystem().getNumParticles() == 6  # the context lives on
        integrator.step(n)

    return step


def calculator_in_ase():
    atoms = some_atoms()
    atoms.calc = PotentialCalculator(Tethers())
    return VelocityVerlet(atoms, 0.5 * units.fs).run


def segment_forces_in_ase():
    atoms = some_atoms()
    atoms.calc = SegmentForceCalculator(Oscillators(1, 0.5), bonds=[])
    return VelocityVerlet(atoms, 0.5 * units.fs).run


def segments_in_ase():
    return driver(some_atoms(), temperature_K=300.0, guard=Tethers()).run


def segments_in_openmm():
    sim = SegmentSimulation(*carbons(3), ExactWells(8), platform=REFERENCE)
    start(sim)
    sim.reporters.append(app.StateDataReporter(io.StringIO(), 1000, totalEnergy=True))
    return lambda n: [sim.step(1) for _ in range(n)]


def integrator_in_openmm():
    topology, system = carbons(3)
    sim = app.Simulation(
        topology, system, SegmentIntegrator(topology, system, ExactWells(8)), REFERENCE
    )
    start(sim)
    return sim.step


@pytest.mark.parametrize(
    "door",
    [
        force_in_openmm,
        calculator_in_ase,
        pytest.param(segment_forces_in_ase, marks=pytest.mark.slow),
        segments_in_ase,
        segments_in_openmm,
        integrator_in_openmm,
    ],
)
def test_5000_steps_grow_the_process_by_less_than_5_percent(door):
    step = door()
    step(500)
    before = resident_MB()
    step(5000)
    assert resident_MB() < 1.05 * before


def test_what_is_kept_is_seen():
    before = resident_MB()
    # Straight from the system: what other tests have left free in the heap would be filled first.
    n_MB = int(0.06 * before) + 40
    with mmap.mmap(-1, n_MB * 2**20) as kept:
        for _ in range(n_MB):
            kept.write(b"x" * 2**20)
        assert resident_MB() > 1.05 * before
