"""Other networks as a judge inside ASE and OpenMM."""

from pathlib import Path

import ase.io
import openmm
import pytest
import torch
from openmm import app, unit

from egno_md import (
    EnsembleJudge,
    ESCNCalculator,
    LearnedPropagator,
    SegmentDynamics,
    SegmentSimulation,
)
from egno_md.calculators.openmm_molecule import molecule_from_openmm
from egno_md.data.structures import read_structure

EXAMPLES = Path(__file__).parents[2] / "egno_md" / "examples"


@pytest.mark.parametrize(("limit_A", "rejected"), [(0.001, True), (0.2, False)])
def test_segment_dynamics_asks_another_network(limit_A, rejected):
    atoms = ase.io.read(EXAMPLES / "ethanol.xyz")
    molecule = read_structure(EXAMPLES / "ethanol.xyz").molecule
    judge = EnsembleJudge([LearnedPropagator.from_bundle("transferable-egno", molecule)], limit_A)
    guard = ESCNCalculator("ethanol-escn")
    dynamics = SegmentDynamics(
        atoms, "ethanol-egno", temperature_K=300, guard=guard, judges=[judge], n_threads=1
    )
    dynamics.run(24)
    assert (dynamics.statistics().rejections_by["ensemble"] > 0) is rejected
    assert any("H" in event.reason for event in dynamics.events) is rejected


@pytest.mark.parametrize(("limit_A", "rejected"), [(1e-9, True), (1e-3, False)])
def test_segment_simulation_asks_another_network(limit_A, rejected):
    pdb = app.PDBFile(str(EXAMPLES / "alanine_dipeptide.pdb"))
    system = app.ForceField("amber14-all.xml").createSystem(pdb.topology)
    molecule = molecule_from_openmm(pdb.topology, system)
    # The same weights in more digits stand for another network: what differs is rounding.
    other = LearnedPropagator.from_bundle("alanine-dipeptide-egno", molecule, dtype=torch.float64)
    simulation = SegmentSimulation(
        pdb.topology,
        system,
        "alanine-dipeptide-egno",
        guard=EnsembleJudge([other], limit_A),
        fallback=openmm.VerletIntegrator(0.5 * unit.femtosecond),
    )
    simulation.context.setPositions(pdb.positions)
    simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
    simulation.step(8)
    assert (simulation.statistics().rejections_by["ensemble"] > 0) is rejected
    assert bool(simulation.events) is rejected
