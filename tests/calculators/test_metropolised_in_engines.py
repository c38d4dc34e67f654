"""Metropolised segments inside the drivers of ASE and OpenMM."""

from dataclasses import replace

import ase
import ase.io
import numpy as np
import openmm
import pytest
import torch
from ase.constraints import FixAtoms, FixCom
from openmm import app, unit

from egno_md.calculators.held_atoms import ENDLESS_MASS
from egno_md.calculators.potential_from_openmm import OpenMMPotential
from egno_md.calculators.segment_dynamics import SegmentDynamics
from egno_md.calculators.segment_simulation import SegmentSimulation
from egno_md.data.structures import read_structure
from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.learned import LearnedPropagator
from egno_md.propagators.metropolised import Metropolised
from tests.calculators.wells import REFERENCE, ExactWells, carbons, positions_of, start
from tests.propagators.exact_distributions import KELVIN, MorseChain


def of_chain(**options):
    verlet = VelocityVerlet(MorseChain(3.0, 2.2, 1.22), 1.0, 8.0, 1)
    noise = torch.Generator().manual_seed(2)
    return Metropolised(verlet, MorseChain(), KELVIN, 100.0, noise, **options)


def of_three(x=1.2):
    atoms = ase.Atoms("HCO", positions=[[0, 0, 0], [x, 0, 0], [2 * x, 0, 0]])
    generator = np.random.default_rng(3)
    atoms.set_momenta(0.3 * generator.standard_normal((3, 3)))
    atoms.set_momenta(atoms.get_momenta() - atoms.get_momenta().mean(0))
    return atoms


def drive(atoms, sampler):
    return SegmentDynamics(atoms, sampler, bonds=[(0, 1), (1, 2)])


def test_in_ase_a_step_is_a_proposal(tmp_path):
    sampler = of_chain(n_frames=4)
    dyn = drive(of_three(), sampler)
    dyn.run(10)
    assert dyn.todict()["frame_interval_fs"] == 8.0
    counts = sampler.statistics()
    assert counts.proposals == 12
    assert 0 < counts.accepted < 12
    assert counts.target_evaluations == 13
    # The refresh sets the whole molecule going, so nothing is left out of its temperature.
    assert dyn.degrees_of_freedom == 9
    dyn.save_restart(tmp_path / "middle")
    dyn.run(7)
    again = drive(of_three(), of_chain(n_frames=4))
    again.restore(tmp_path / "middle")
    again.run(7)
    assert np.array_equal(again.atoms.positions, dyn.atoms.positions)


def test_in_openmm_a_step_is_a_proposal():
    topology, system = carbons(3)
    target = OpenMMPotential(system, [6, 6, 6])
    noise = torch.Generator().manual_seed(2)
    sampler = Metropolised(ExactWells(2), target, KELVIN, 100.0, noise, n_frames=4)
    simulation = SegmentSimulation(topology, system, sampler, platform=REFERENCE)
    start(simulation)
    before = positions_of(simulation)
    seen = []
    simulation.reporters.append(app.StateDataReporter(_Lines(seen), 4, time=True))
    simulation.step(8)
    # The exact motion of the very system: its energy does not change.
    counts = sampler.statistics()
    assert (counts.proposals, counts.accepted) == (8, 8)
    assert counts.mean_probability == pytest.approx(1.0, abs=1e-4)
    assert float(np.abs(positions_of(simulation) - before).max()) > 1e-3
    assert simulation.context.getTime().value_in_unit(unit.femtosecond) == pytest.approx(320.0)
    assert len(seen) >= 2


class _Lines:
    def __init__(self, lines):
        self.lines = lines

    def write(self, text):
        self.lines.append(text)


class TestRefused:
    def of_network(self, masses=None, **options):
        """Metropolised segments of the packaged network of ethanol, with other masses perhaps."""
        ethanol = ase.io.read("egno_md/examples/ethanol.xyz")
        molecule = read_structure("egno_md/examples/ethanol.xyz").molecule
        if masses is not None:
            molecule = replace(molecule, masses=masses)
        network = LearnedPropagator.from_bundle("ethanol-egno", molecule)
        noise = torch.Generator().manual_seed(2)
        return ethanol, Metropolised(network, MorseChain(), KELVIN, 10.0, noise, **options)

    def test_a_network_of_the_free_molecule_where_an_atom_is_held(self):
        atoms, sampler = self.of_network()
        atoms.set_constraint(FixAtoms([3]))
        with pytest.raises(ValueError, match=r"FixAtoms holds atom 3, .* weigh 1e\+20 amu"):
            SegmentDynamics(atoms, sampler)
        pinned = read_structure("egno_md/examples/ethanol.xyz").molecule.masses.clone()
        pinned[3] = ENDLESS_MASS
        atoms, sampler = self.of_network(pinned)
        atoms.set_constraint(FixAtoms([3]))
        SegmentDynamics(atoms, sampler)

    def test_a_network_of_other_masses(self):
        atoms, sampler = self.of_network()
        masses = atoms.get_masses()
        masses[5] = 2.014
        atoms.set_masses(masses)
        with pytest.raises(
            ValueError, match=r"atom 5 has mass 2\.014 amu here and 1\.00[0-9]+ amu"
        ):
            SegmentDynamics(atoms, sampler)

    def test_a_network_of_other_atoms(self):
        _, sampler = self.of_network()
        with pytest.raises(ValueError, match="made for 9 atoms other than the 3 here"):
            drive(of_three(), sampler)

    @pytest.mark.parametrize("still", [False, True])
    def test_a_held_centre_of_mass_under_a_bath_that_moves_it(self, still):
        sampler = of_chain(zero_momentum=still)
        atoms = of_three()
        atoms.set_constraint(FixCom())
        if still:
            assert drive(atoms, sampler).degrees_of_freedom == 6
            return
        with pytest.raises(ValueError, match="FixCom would hold, and temperatures would be wrong"):
            drive(atoms, sampler)

    @pytest.mark.parametrize("still", [False, True])
    def test_a_remover_of_motion_in_openmm_under_a_bath(self, still):
        topology, system = carbons(3)
        system.addForce(openmm.CMMotionRemover(1))
        sampler = of_chain(zero_momentum=still)
        if still:
            SegmentSimulation(topology, system, sampler, platform=REFERENCE)
            return
        with pytest.raises(ValueError, match=r"CMMotionRemover would hold.*removeCMMotion=False"):
            SegmentSimulation(topology, system, sampler, platform=REFERENCE)
