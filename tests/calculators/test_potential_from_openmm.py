from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

from egno_md.calculators.potential_from_openmm import OpenMMPotential
from egno_md.data.structures import read_structure
from egno_md.roles import Potential
from egno_md.state import Molecule, State
from egno_md.training.sources import open_potential
from egno_md.units import KJ_PER_MOL

DIPEPTIDE = str(resources.files("egno_md") / "examples" / "alanine_dipeptide.pdb")


def shaken(n: int, spread_A: float = 0.05) -> State:
    state = read_structure(DIPEPTIDE)
    g = torch.Generator().manual_seed(0)
    noise = spread_A * torch.randn((n, 22, 3), generator=g, dtype=torch.float64)
    return State.at_rest(state.molecule, state.positions + noise)


@pytest.fixture(scope="module")
def amber() -> OpenMMPotential:
    return OpenMMPotential.from_structure("amber14", DIPEPTIDE)


def test_energies_and_forces_are_openmms(amber: OpenMMPotential) -> None:
    state = shaken(2)
    result = amber.evaluate(state)
    assert isinstance(amber, Potential)
    topology = app.PDBFile(DIPEPTIDE).topology
    system = app.ForceField("amber14-all.xml").createSystem(topology, constraints=None)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    for r in range(2):
        context.setPositions(state.positions[r].numpy() * unit.angstrom)
        found = context.getState(getEnergy=True, getForces=True)
        energy = found.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        per_angstrom = unit.kilojoule_per_mole / unit.angstrom
        forces = found.getForces(asNumpy=True).value_in_unit(per_angstrom)
        assert float(result.energy[r]) == pytest.approx(energy * KJ_PER_MOL, rel=1e-12)
        np.testing.assert_allclose(result.forces[r], forces * KJ_PER_MOL, rtol=1e-12)
    assert float(result.energy[0]) != float(result.energy[1])
    assert torch.equal(amber.energies(state), result.energy)


def test_the_system_is_given_as_a_copy(amber: OpenMMPotential) -> None:
    assert amber.platform == "Reference"
    before = amber.energies(shaken(1))
    amber.system().getForce(0).setForceGroup(3)
    amber.system().removeForce(0)
    assert amber.system().getNumForces() == 5
    assert amber.system().getForce(0).getForceGroup() == 0
    assert torch.equal(amber.energies(shaken(1)), before)


def test_forces_are_minus_the_slope(amber: OpenMMPotential) -> None:
    state, step = shaken(1), 1e-4
    forces = amber.evaluate(state).forces[0]
    for atom, axis in ((0, 0), (8, 1), (21, 2)):
        ends = []
        for sign in (1, -1):
            x = state.positions.clone()
            x[0, atom, axis] += sign * step
            ends.append(float(amber.energies(state.with_(positions=x))))
        assert -(ends[0] - ends[1]) / (2 * step) == pytest.approx(
            float(forces[atom, axis]), rel=1e-5, abs=1e-6
        )


def test_the_example_is_a_minimum_of_its_force_field(amber: OpenMMPotential) -> None:
    assert float(amber.evaluate(read_structure(DIPEPTIDE)).forces.abs().max()) < 0.1


def argon(n_cells: int = 2, a_nm: float = 0.53) -> tuple[openmm.System, State]:
    """A periodic crystal with a Lennard-Jones force."""
    system, force = openmm.System(), openmm.NonbondedForce()
    corners = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]).double() / 2
    grid = torch.cartesian_prod(*[torch.arange(n_cells).double()] * 3)
    x = 10 * a_nm * (grid[:, None] + corners).reshape(-1, 3)
    for _ in x:
        system.addParticle(39.9)
        force.addParticle(0.0, 0.34, 1.0)
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(0.5)
    system.addForce(force)
    side = n_cells * a_nm
    system.setDefaultPeriodicBoxVectors((side, 0, 0), (0, side, 0), (0, 0, side))
    molecule = Molecule.from_numbers([18] * len(x), pbc=(True,) * 3)
    return system, State.at_rest(molecule, x, cell=10 * side * torch.eye(3).double())


def test_each_replica_has_its_own_cell() -> None:
    system, state = argon()
    potential = OpenMMPotential(system, [18] * 32)
    two = state.replica([0, 0])
    assert two.cell is not None
    cell = two.cell.clone()
    cell[1] *= 1.02
    wider = two.with_(cell=cell, positions=two.positions * torch.tensor([1.0, 1.02])[:, None, None])
    energies = potential.energies(wider)
    assert float(energies[0]) != pytest.approx(float(energies[1]), rel=1e-3)
    moved = two.positions + 5.0  # periodic: all may move together
    torch.testing.assert_close(
        potential.energies(two.with_(positions=moved)), potential.energies(two), rtol=1e-9, atol=0
    )
    turned = two.with_(cell=two.cell[:, [1, 2, 0]])
    with pytest.raises(ValueError, match="OpenMM does not take the cell"):
        potential.energies(turned)


def test_what_does_not_fit_is_refused(amber: OpenMMPotential) -> None:
    other = State.at_rest(Molecule.from_numbers([8, 1, 1]), torch.eye(3).double())
    with pytest.raises(ValueError, match="has 3 atoms, the OpenMM system 22"):
        amber.evaluate(other)
    swapped = Molecule.from_numbers(read_structure(DIPEPTIDE).molecule.numbers.flip(0))
    with pytest.raises(ValueError, match="atoms differ"):
        amber.energies(State.at_rest(swapped, shaken(1).positions))
    system, state = argon()
    with pytest.raises(ValueError, match="the OpenMM system is periodic, the state is not"):
        OpenMMPotential(system).energies(
            State.at_rest(Molecule.from_numbers([18] * 32), state.positions)
        )
    system.addConstraint(0, 1, 0.3)
    with pytest.raises(ValueError, match="1 constraints"):
        OpenMMPotential(system)
    with pytest.raises(ValueError, match="32 particles"):
        OpenMMPotential(argon()[0], [18])


def test_names_open_force_fields(tmp_path) -> None:
    state = shaken(1)
    by_name = open_potential("openmm:amber14", DIPEPTIDE).energies(state)
    by_file = open_potential("openmm:amber14-all.xml", DIPEPTIDE).energies(state)
    torch.testing.assert_close(by_name, by_file, rtol=1e-10, atol=0)
    with pytest.raises(ValueError, match="needs a structure file"):
        open_potential("openmm:amber14")
    with pytest.raises(ValueError, match="give a PDB file"):
        open_potential("openmm:amber14", "ethanol.xyz")
    with pytest.raises(FileNotFoundError, match=r"none\.pdb does not exist"):
        open_potential("openmm:amber14", str(tmp_path / "none.pdb"))
    with pytest.raises(ValueError, match=r"openmm:nothing\.xml"):
        open_potential("openmm:nothing.xml", DIPEPTIDE)
    lines = Path(DIPEPTIDE).read_text().splitlines(keepends=True)
    (tmp_path / "bare.pdb").write_text("".join(line for line in lines if " H2 " not in line))
    with pytest.raises(ValueError, match="does not fit"):
        open_potential("openmm:amber14", str(tmp_path / "bare.pdb"))
