"""The packaged networks in OpenMM: alanine dipeptide and ethanol."""

from __future__ import annotations

import io
import json
from importlib import resources

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

from egno_md.calculators.openmm_molecule import molecule_from_openmm, state_from_openmm
from egno_md.calculators.segment_simulation import SegmentSimulation
from egno_md.data.structures import read_structure
from egno_md.propagators.learned import LearnedPropagator
from tests.calculators.wells import REFERENCE, positions_of

EXAMPLES = resources.files("egno_md") / "examples"
DIPEPTIDE = "alanine-dipeptide-egno"


def dipeptide(**options):
    pdb = app.PDBFile(str(EXAMPLES / "alanine_dipeptide.pdb"))
    system = app.ForceField("amber14-all.xml").createSystem(
        pdb.topology, removeCMMotion=False, **options
    )
    return pdb, system


def simulation(propagator=DIPEPTIDE, **options) -> SegmentSimulation:
    pdb, system = dipeptide()
    sim = SegmentSimulation(pdb.topology, system, propagator, platform=REFERENCE, **options)
    sim.context.setPositions(pdb.positions)
    sim.context.setVelocitiesToTemperature(300.0, 7)
    return sim


def total_energy(sim) -> float:
    """Potential and kinetic, kJ/mol."""
    found = sim.context.getState(energy=True)
    return float(found.getPotentialEnergy()._value + found.getKineticEnergy()._value)


def test_the_network_nearly_keeps_the_energy_of_its_force_field() -> None:
    sim = simulation(
        energy_limit=20 * unit.kilojoule_per_mole, fallback=openmm.VerletIntegrator(0.0005)
    )
    log = io.StringIO()
    sim.reporters.append(app.StateDataReporter(log, 4, totalEnergy=True, kineticEnergy=True))
    sim.step(16)
    rows = np.loadtxt(io.StringIO(log.getvalue()), delimiter=",")
    assert np.ptp(rows[:, 0]) > 5.0  # kJ/mol: it moves
    assert np.ptp(rows[:, 1]) < 3.0
    assert sim.events == []
    assert sim.statistics().frames_by["NETWORK"] == 16


def test_frames_are_the_learned_propagators() -> None:
    pdb, system = dipeptide()
    molecule = molecule_from_openmm(pdb.topology, system)
    ours = read_structure(str(EXAMPLES / "alanine_dipeptide.pdb")).molecule
    assert torch.equal(molecule.numbers, ours.numbers)
    assert torch.equal(molecule.bonds, ours.bonds)
    propagator = LearnedPropagator.from_bundle(DIPEPTIDE, molecule, horizon_fs=8.0)
    sim = simulation(propagator)
    sim.context.setVelocities(np.zeros((22, 3)))
    sim.step(3)
    state = state_from_openmm(pdb.topology, system, pdb.positions)
    expected = propagator.advance(propagator.advance(state).last, 1).positions[0, -1]
    np.testing.assert_allclose(10 * positions_of(sim), expected, atol=1e-5)
    other = simulation()
    other.context.setVelocities(np.zeros((22, 3)))
    other.step(3)
    np.testing.assert_allclose(positions_of(other), positions_of(sim), atol=1e-6)


def test_a_frozen_atom_of_a_learned_segment_stays() -> None:
    pdb, system = dipeptide()
    system.setParticleMass(8, 0.0)
    sim = SegmentSimulation(pdb.topology, system, DIPEPTIDE, platform=REFERENCE)
    sim.context.setPositions(pdb.positions)
    sim.context.setVelocitiesToTemperature(300.0, 7)
    before = positions_of(sim).copy()
    total = total_energy(sim)
    sim.step(8)
    assert positions_of(sim)[8].tolist() == before[8].tolist()
    assert np.linalg.norm(positions_of(sim) - before, axis=1).min() == 0.0
    assert np.sort(np.linalg.norm(positions_of(sim) - before, axis=1))[1] > 1e-3
    assert total_energy(sim) == pytest.approx(total, abs=3.0)


def test_hydrogens_may_have_other_masses() -> None:
    """A bundle takes the system's masses; a propagator for others is refused."""
    pdb, heavy = dipeptide(hydrogenMass=3.0)
    sim = SegmentSimulation(pdb.topology, heavy, DIPEPTIDE, platform=REFERENCE)
    sim.context.setPositions(pdb.positions)
    sim.context.setVelocitiesToTemperature(300.0, 7)
    energies = []
    for _ in range(2):
        energies.append(total_energy(sim))
        sim.step(8)
    assert energies[0] == pytest.approx(energies[1], abs=3.0)
    light = molecule_from_openmm(pdb.topology, dipeptide()[1])
    with pytest.raises(ValueError, match=r"atom 0 has mass 6\.034 amu in the system and 12\.01"):
        SegmentSimulation(pdb.topology, heavy, LearnedPropagator.from_bundle(DIPEPTIDE, light))


def ethanol():
    """A topology without names, and a system without forces."""
    start = read_structure(str(EXAMPLES / "ethanol.xyz"))
    topology, system = app.Topology(), openmm.System()
    residue = topology.addResidue("ETH", topology.addChain())
    for i, z in enumerate(start.molecule.numbers.tolist()):
        element = app.Element.getByAtomicNumber(z)
        topology.addAtom(f"{element.symbol}{i}", element, residue)
        system.addParticle(element.mass)
    atoms = list(topology.atoms())
    for i, j in start.molecule.bonds.tolist():
        topology.addBond(atoms[i], atoms[j])
    return topology, system, start


def test_ethanol_without_any_force_field(tmp_path) -> None:
    topology, system, start = ethanol()
    sim = SegmentSimulation(topology, system, "ethanol-egno", platform=REFERENCE)
    sim.context.setPositions(start.positions[0].numpy() * 0.1)
    sim.context.setVelocitiesToTemperature(300.0, 3)
    sim.step(7)
    sim.saveCheckpoint(str(tmp_path / "a.chk"))
    sim.step(6)
    other = SegmentSimulation(topology, system, "ethanol-egno", platform=REFERENCE)
    other.loadCheckpoint(str(tmp_path / "a.chk"))
    for _ in range(6):
        other.step(1)
    assert np.array_equal(positions_of(other), positions_of(sim))
    x = torch.from_numpy(positions_of(sim) * 10)
    i, j = start.molecule.bonds.T
    assert float(((x[i] - x[j]).norm(dim=-1)).max()) < 1.8


def test_a_metal_in_a_cell_without_any_force_field() -> None:
    first = read_structure(str(EXAMPLES / "copper.xyz"))
    topology, system = app.Topology(), openmm.System()
    residue = topology.addResidue("CU", topology.addChain())
    for _ in range(first.molecule.n_atoms):
        topology.addAtom("Cu", app.Element.getBySymbol("Cu"), residue)
        system.addParticle(63.546)
    box = (0.1 * first.cell[0]).tolist()
    topology.setPeriodicBoxVectors([openmm.Vec3(*side) for side in box])
    system.setDefaultPeriodicBoxVectors(*box)
    sim = SegmentSimulation(topology, system, "copper-egno", platform=REFERENCE)
    assert sim.molecule.pbc == (True,) * 3
    sim.context.setPositions(0.1 * first.positions[0].numpy())
    sim.context.setVelocitiesToTemperature(300.0, 3)
    start = sim.integrator.frames.read(0.0)
    assert torch.allclose(start.cell, first.cell)
    expected = LearnedPropagator.from_bundle("copper-egno", start.molecule).advance(start)
    sim.step(2)
    np.testing.assert_allclose(10 * positions_of(sim), expected.positions[0, 1], atol=1e-12)


def test_what_a_bundle_does_not_know_is_refused_or_said() -> None:
    methane, bare = app.Topology(), openmm.System()
    residue = methane.addResidue("MET", methane.addChain())
    for i, symbol in enumerate("CHHHH"):
        methane.addAtom(f"{symbol}{i}", app.Element.getBySymbol(symbol), residue)
        bare.addParticle(12.011 if i == 0 else 1.008)
    atoms = list(methane.atoms())
    for hydrogen in atoms[1:]:
        methane.addBond(atoms[0], hydrogen)
    with pytest.warns(UserWarning, match="'alanine-dipeptide-egno' was trained on .* not on CH4"):
        SegmentSimulation(methane, bare, DIPEPTIDE, platform=REFERENCE)
    topology, system, _ = ethanol()
    with pytest.raises(ValueError, match=r"atoms 2 and 3 .* was not trained for"):
        SegmentSimulation(topology, system, DIPEPTIDE, platform=REFERENCE)
    pdb, amber = dipeptide()
    with pytest.raises(ValueError, match="atom 6 is N, which bundle 'ethanol-egno'"):
        SegmentSimulation(pdb.topology, amber, "ethanol-egno", platform=REFERENCE)
    with pytest.raises(FileNotFoundError):
        SegmentSimulation(pdb.topology, amber, "no-such-bundle", platform=REFERENCE)
    with pytest.raises(ValueError, match="escn"):
        SegmentSimulation(topology, system, "ethanol-escn", platform=REFERENCE)


def test_constrained_hydrogens_are_refused_by_name() -> None:
    pdb, system = dipeptide(constraints=app.HBonds)
    with pytest.raises(ValueError, match="12 constraints, the first of particles 0 and 1"):
        SegmentSimulation(pdb.topology, system, DIPEPTIDE, platform=REFERENCE)


@pytest.mark.slow
def test_an_andersen_thermostat_keeps_the_dipeptide_at_its_temperature() -> None:
    """12 ps at 300 K: the mean temperature within 4 standard errors, from blocks of 1 ps."""
    pdb, system = dipeptide()
    system.addForce(openmm.AndersenThermostat(300.0, 20.0))
    sim = SegmentSimulation(
        pdb.topology, system, DIPEPTIDE, platform=REFERENCE,
        energy_limit=20.0, fallback=openmm.VerletIntegrator(0.0005),
    )  # fmt: skip
    sim.context.setPositions(pdb.positions)
    sim.minimizeEnergy()
    sim.context.setVelocitiesToTemperature(300.0, 7)
    sim.step(500)
    kelvin = []
    for _ in range(3000):
        sim.step(1)
        kinetic = sim.context.getState(energy=True).getKineticEnergy()._value
        kelvin.append(2 * kinetic / (66 * 8.31446261815324e-3))
    blocks = np.array(kelvin).reshape(12, 250).mean(1)
    error = blocks.std(ddof=1) / 12**0.5
    print(json.dumps({"mean_K": blocks.mean(), "error_K": error, "events": len(sim.events)}))
    assert abs(blocks.mean() - 300.0) < 4 * error


@pytest.mark.slow
def test_frames_put_onto_constraints_lose_energy() -> None:
    """Why constraints are refused unless asked for: a network moves the bonds that are held."""
    found = {}
    for name, held in (("free", None), ("held", app.HBonds)):
        pdb, system = dipeptide(constraints=held)
        middle = openmm.LangevinMiddleIntegrator(300.0, 20.0, 0.0005)
        middle.setRandomNumberSeed(1)
        plain = app.Simulation(pdb.topology, system, middle, REFERENCE)
        plain.context.setPositions(pdb.positions)
        plain.step(4000)
        sim = SegmentSimulation(
            pdb.topology, system, DIPEPTIDE, constraints="project", platform=REFERENCE
        )
        sim.context.setState(plain.context.getState(positions=True, velocities=True))
        sim.velocities_from_leapfrog(0.0005)
        before = total_energy(sim)
        sim.step(200)
        found[name] = total_energy(sim) - before
    print(json.dumps(found))
    assert abs(found["free"]) < 5.0
    assert found["held"] < -10.0
