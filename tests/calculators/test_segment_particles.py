"""Constraints, virtual sites, atoms without mass; what cannot be honoured is refused by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import openmm
import pytest
import torch
from openmm import app

from egno_md.calculators.openmm_molecule import (
    FROZEN_MASS_AMU,
    molecule_from_openmm,
    state_from_openmm,
)
from egno_md.calculators.potential_from_openmm import OpenMMPotential
from egno_md.calculators.segment_simulation import SegmentSimulation
from egno_md.propagators.classical import VelocityVerlet
from egno_md.segment import MadeBy, Segment
from egno_md.state import Molecule
from tests.calculators.wells import (
    REFERENCE,
    ExactWells,
    carbons,
    positions_of,
    start,
    velocities_of,
)


class Noisy:
    """Straight lines with noise on positions and velocities."""

    reversible = volume_preserving = False
    n_frames, frame_interval_fs = 4, 1.0

    def __init__(self, size: float = 0.01) -> None:
        self.size, self.generator = size, torch.Generator().manual_seed(0)

    def advance(self, state, n_frames=None):
        times = torch.arange(1, 5, dtype=torch.float64)
        x = state.positions[:, None] + times[:, None, None] * state.velocities[:, None]
        noise = torch.randn(x.shape, generator=self.generator, dtype=torch.float64)
        v = state.velocities[:, None] + 0.1 * self.size * noise
        made_by = torch.full((1, 4), int(MadeBy.NETWORK), dtype=torch.int8)
        moved = x + self.size * noise
        return Segment(state.molecule, state.time_fs + times, moved, v, made_by, cell=state.cell)

    def restart_state(self):
        return {}

    def restore(self, saved):
        pass


def waters(n: int = 3):
    """TIP4P-Ew: three constraints and a virtual site per molecule, in a periodic box."""
    field = app.ForceField("tip4pew.xml")
    modeller = app.Modeller(app.Topology(), [])
    modeller.addSolvent(field, model="tip4pew", boxSize=openmm.Vec3(1, 1, 1), neutralize=False)
    modeller.delete(list(modeller.topology.residues())[n:])
    system = field.createSystem(
        modeller.topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=0.45,
        rigidWater=True,
        removeCMMotion=False,
    )
    return modeller.topology, system, modeller.positions


def worst_constraint(sim) -> tuple[float, float]:
    """Largest error of a length, nm, and largest relative speed along one, nm/ps."""
    x, v = positions_of(sim), velocities_of(sim)
    lengths, speeds = [], []
    for k in range(sim.system.getNumConstraints()):
        i, j, length = sim.system.getConstraintParameters(k)
        arrow = x[i] - x[j]
        lengths.append(abs(np.linalg.norm(arrow) - length._value))
        speeds.append(abs(arrow @ (v[i] - v[j])) / length._value)
    return max(lengths), max(speeds)


def test_constraints_and_virtual_sites_hold_in_every_frame() -> None:
    topology, system, x = waters()
    sim = SegmentSimulation(
        topology, system, Noisy(), constraints="project", platform=REFERENCE,
        fallback=openmm.VerletIntegrator(0.0005),
    )  # fmt: skip
    assert sim.molecule.n_atoms == 9
    assert sim.molecule.pbc == (True,) * 3
    assert sim.molecule.numbers.tolist() == [8, 1, 1] * 3
    assert sim.molecule.bonds.tolist() == [[0, 1], [0, 2], [3, 4], [3, 5], [6, 7], [6, 8]]
    sim.context.setPositions(x)
    sim.context.setVelocitiesToTemperature(300.0, 1)
    last = positions_of(sim)
    for _ in range(8):
        sim.step(1)
        length, speed = worst_constraint(sim)
        assert length < 1e-8
        assert speed < 1e-7
        before = positions_of(sim).copy()
        assert np.abs(before - last).max() > 1e-4
        last = before
        sim.context.computeVirtualSites()
        assert np.array_equal(positions_of(sim), before)
    assert sim.events == []
    assert sim.currentStep == 8


def test_the_fallback_keeps_constraints() -> None:
    topology, system, x = waters()
    sim = SegmentSimulation(
        topology, system, Noisy(50.0), constraints="project", platform=REFERENCE,
        energy_limit=5.0, fallback=openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.0005),
    )  # fmt: skip
    sim.context.setPositions(x)
    sim.context.setVelocitiesToTemperature(300.0, 1)
    sim.step(8)
    assert len(sim.events) == 2
    assert sim.statistics().frames_by["INTEGRATOR"] == 8
    length, speed = worst_constraint(sim)
    assert length < 1e-6
    assert speed < 1e-5
    speeds = np.linalg.norm(velocities_of(sim)[sim.integrator.frames.roles.atoms], axis=1)
    assert speeds.max() < 10.0  # nm/ps; hydrogens at 300 K have about 2.7


def test_constraints_are_refused_unless_something_is_said() -> None:
    topology, system, _ = waters()
    with pytest.raises(ValueError, match=r"9 constraints, the first of particles 0 and 1 at 0\.09"):
        SegmentSimulation(topology, system, Noisy(), platform=REFERENCE)
    with pytest.raises(ValueError, match="allowed are 'refuse' and 'project'"):
        SegmentSimulation(topology, system, Noisy(), constraints="ignore", platform=REFERENCE)
    keeping = Noisy()
    keeping.keeps_constraints = True
    SegmentSimulation(topology, system, keeping, platform=REFERENCE)


def test_atoms_without_mass_stay_and_act_on_others() -> None:
    """A spring between a free and a frozen atom: the free one swings about the frozen one."""
    topology, system = carbons(2, masses=[0.0, 12.0])
    system.removeForce(0)
    spring = openmm.HarmonicBondForce()
    spring.addBond(0, 1, 0.3, 10_000.0)
    system.addForce(spring)
    system.addForce(openmm.AndersenThermostat(300.0, 1.0))
    whole = carbons(2)[1]
    whole.removeForce(0)
    whole.addForce(openmm.HarmonicBondForce(spring))
    verlet = VelocityVerlet(OpenMMPotential(whole), 0.5, 4.0, 8)
    sim = SegmentSimulation(topology, system, verlet, platform=REFERENCE, energy_limit=0.5,
                            fallback=openmm.VerletIntegrator(0.0005))  # fmt: skip
    assert sim.molecule.masses.tolist() == [FROZEN_MASS_AMU, 12.0]
    x = [[0.1, 0.2, 0.0], [0.1, 0.2, 0.32]]
    sim.context.setPositions(x)
    sim.context.setVelocities([[0, 0, 0], [0, 0, 0.3]])
    sim.context.setParameter(openmm.AndersenThermostat.CollisionFrequency(), 0.0)
    length = []
    for _ in range(60):
        sim.step(1)
        assert positions_of(sim)[0].tolist() == x[0]
        length.append(positions_of(sim)[1, 2])
    w = (10_000.0 / 12.0) ** 0.5
    t = 0.004 * np.arange(1, 61)
    expected = 0.3 + 0.02 * np.cos(w * t) + 0.3 / w * np.sin(w * t)
    np.testing.assert_allclose(length, expected, atol=2e-5)
    assert sim.events == []


def test_a_propagator_that_moves_atoms_without_mass_is_refused() -> None:
    topology, system = carbons(2, masses=[12.0, 0.0])
    sim = SegmentSimulation(topology, system, Noisy(), platform=REFERENCE)
    sim.context.setPositions([[0, 0, 0], [0.3, 0, 0]])
    sim.context.setVelocities([[0.1, 0, 0], [0, 0, 0]])
    with pytest.raises(ValueError, match="atom 1 has no mass, so it must not move"):
        sim.step(1)
    assert positions_of(sim).tolist() == [[0, 0, 0], [0.3, 0, 0]]


def test_propagators_for_other_atoms_are_refused() -> None:
    topology, system = carbons(3)
    molecule = molecule_from_openmm(topology, system)
    wells = ExactWells()
    wells.molecule = molecule
    SegmentSimulation(topology, system, wells, platform=REFERENCE)
    wells.molecule = replace(molecule, masses=molecule.masses.clone())
    wells.molecule.masses[2] = 13.0
    with pytest.raises(ValueError, match="atom 2 has mass 12 amu in the system and 13 amu in"):
        SegmentSimulation(topology, system, wells, platform=REFERENCE)
    wells.molecule = Molecule.from_numbers([6, 6, 1])
    with pytest.raises(ValueError, match="made for 3 atoms other than the 3"):
        SegmentSimulation(topology, system, wells, platform=REFERENCE)


def test_topologies_that_do_not_fit_are_refused() -> None:
    topology, system = carbons(3)
    system.addParticle(1.0)
    with pytest.raises(ValueError, match="3 atoms and the system 4 particles"):
        molecule_from_openmm(topology, system)
    topology.addAtom("EP", None, topology.addResidue("EP", topology.addChain()))
    with pytest.raises(ValueError, match=r"particle 3 \(EP\) has no element"):
        molecule_from_openmm(topology, system)


def test_a_state_from_topology_and_positions() -> None:
    topology, system, x = waters(2)
    state = state_from_openmm(topology, system, x)
    assert state.positions.shape == (1, 6, 3)
    np.testing.assert_allclose(state.cell[0], 10.0 * np.eye(3), atol=1e-12)
    oh = (state.positions[0, 0] - state.positions[0, 1]).norm()
    assert float(oh) == pytest.approx(0.9572, abs=1e-3)
    with pytest.raises(ValueError, match="1 positions for 8 particles"):
        state_from_openmm(topology, system, x[:1])
    with pytest.raises(ValueError, match="position of atom 0"):
        state_from_openmm(*carbons(1), [[np.nan, 0, 0]])


def test_periodic_frames_are_not_wrapped() -> None:
    topology, system, x = waters(1)
    sim = SegmentSimulation(topology, system, Noisy(0.0), constraints="project", platform=REFERENCE)
    sim.context.setPositions(x)
    sim.context.setVelocities(np.full((4, 3), 100.0))
    sim.step(40)
    moved = positions_of(sim) - np.array([tuple(p) for p in x._value])
    np.testing.assert_allclose(moved, 4.0, atol=1e-4)  # the first frame meets the constraints


def test_the_cpu_platform_gives_the_same_frames() -> None:
    platform = openmm.Platform.getPlatformByName("CPU")
    sims = []
    for where in (REFERENCE, platform):
        topology, system = carbons(3)
        options = {"Threads": "1"} if where is platform else None
        sim = SegmentSimulation(
            topology, system, ExactWells(), platform=where, platformProperties=options
        )
        start(sim)
        sim.context.setVelocities(np.full((3, 3), 0.1))
        sim.step(20)
        sims.append(sim)
    np.testing.assert_allclose(positions_of(sims[0]), positions_of(sims[1]), atol=1e-12)
