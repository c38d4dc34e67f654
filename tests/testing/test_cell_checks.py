"""Checks in a cell: a sound potential passes, one with just that fault does not."""

import pytest
import torch

from egno_md.models.escn_md import ESCNMD
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.roles import EnergyForces
from egno_md.state import Molecule, State
from egno_md.testing.cell_checks import in_a_cell, stress_error, supercell, supercell_error

PLACES = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.97, 0.0], [0.93, -0.24, 0.2]], dtype=torch.float64)
WATER = State.at_rest(Molecule.from_numbers([8, 1, 1]), PLACES)


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ESCNMD([1, 8], max_degree=1, max_order=1, channels=4, n_layers=1, cutoff_A=4.0)
    return ESCNPotential(model, dtype=torch.float64)


class Wrong:
    """A network's answers with one number changed."""

    def __init__(self, potential, virial=1.0, per_atom=0.0):
        self.potential, self.virial, self.per_atom = potential, virial, per_atom

    def energies(self, state):
        return self.potential.energies(state)

    def evaluate(self, state, virial=False):
        found = self.potential.evaluate(state, virial=virial)
        energy = found.energy + self.per_atom * state.molecule.n_atoms**2
        return EnergyForces(
            energy, found.forces, None if not virial else self.virial * found.virial
        )


def test_images_of_a_molecule_see_each_other(network):
    cell = in_a_cell(WATER)
    assert all(cell.molecule.pbc)
    assert abs(float(network.energies(cell) - network.energies(WATER))) > 1e-4
    lengths = cell.cell[0].norm(dim=-1)
    assert (lengths > PLACES.amax(0) - PLACES.amin(0) + 2.9).all()


def test_stress_of_a_network_is_the_slope(network):
    cell = in_a_cell(WATER)
    assert stress_error(network, cell) < 1e-9
    virial = network.evaluate(cell, virial=True).virial
    volume = float(torch.linalg.det(cell.cell[0]))
    expected = 0.01 * float(virial.abs().max()) / volume
    assert stress_error(Wrong(network, virial=1.01), cell) == pytest.approx(expected, rel=1e-3)


def test_a_supercell_repeats_the_cell():
    cell = in_a_cell(WATER)
    large = supercell(cell, 2)
    assert large.molecule.n_atoms == 24
    assert large.molecule.numbers.tolist() == [8, 1, 1] * 8
    assert torch.allclose(large.cell, 2.0 * cell.cell)
    shift = large.positions[0, 3:6] - large.positions[0, :3]
    assert torch.allclose(shift, cell.cell[0, 2].expand(3, 3))


def test_a_supercell_has_the_energy_of_its_cells(network):
    cell = in_a_cell(WATER)
    assert max(supercell_error(network, cell, 3)) < 1e-11
    energy, forces = supercell_error(Wrong(network, per_atom=1e-6), cell, 2)
    assert energy == pytest.approx(1e-6 * (24**2 / 8 - 9), rel=1e-3)
    assert forces < 1e-11


def test_open_systems_are_refused(network):
    with pytest.raises(ValueError, match="all three directions"):
        stress_error(network, WATER)
    with pytest.raises(ValueError, match="all three directions"):
        supercell_error(network, WATER)
