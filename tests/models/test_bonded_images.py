import pytest
import torch

from egno_md.models.bonded_images import bond_images, bonds_between
from egno_md.state import Molecule

NONE = torch.zeros(3, dtype=torch.int64)


def ring(n_atoms: int, cell_A: float) -> tuple[Molecule, torch.Tensor, torch.Tensor]:
    """A chain of carbons along x that goes through the face of the cell and closes there."""
    bonds = sorted(tuple(sorted((k, (k + 1) % n_atoms))) for k in range(n_atoms))
    chain = Molecule.from_numbers([6] * n_atoms, bonds=bonds, pbc=(True, False, False))
    x = torch.zeros(1, n_atoms, 3, dtype=torch.float64)
    x[0, :, 0] = torch.arange(n_atoms) * cell_A / n_atoms
    return chain, x, torch.diag(torch.tensor([cell_A, 9.0, 9.0])).double()[None]


def count(pairs, images, bonds, crossed, cap=4):
    return bonds_between(
        torch.tensor(pairs).T, torch.tensor(images), torch.tensor(bonds), crossed, cap
    ).tolist()


def test_a_bond_leads_to_the_nearest_image() -> None:
    chain, x, cell = ring(4, 6.0)
    # Bonds (0, 1), (0, 3), (1, 2), (2, 3): the second goes through the face.
    assert bond_images(chain, x, cell)[0].tolist() == [[0, 0, 0], [-1, 0, 0], [0, 0, 0], [0, 0, 0]]
    x[0, 1] += 2 * cell[0, 0]
    assert bond_images(chain, x, cell)[0, 0].tolist() == [-2, 0, 0]


def test_paths_count_bonds_to_that_image_only() -> None:
    chain, x, cell = ring(4, 6.0)
    crossed = bond_images(chain, x, cell)[0]
    pairs = [(0, 1), (0, 1), (0, 2), (0, 2), (0, 2), (0, 3), (0, 3)]
    images = [[0, 0, 0], [-1, 0, 0], [0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0, 0], [-1, 0, 0]]
    # An endless chain: the image of atom 1 behind atom 0 is three bonds away.
    assert count(pairs, images, chain.bonds.tolist(), crossed) == [1, 3, 2, 2, 4, 3, 1]


def test_an_atom_may_be_bonded_to_its_own_image_over_others() -> None:
    chain, x, cell = ring(3, 4.5)
    crossed = bond_images(chain, x, cell)[0]
    found = count([(0, 0), (0, 0)], [[1, 0, 0], [2, 0, 0]], chain.bonds.tolist(), crossed, 5)
    assert found == [3, 5]


def test_shortest_path_wins_in_rings_and_the_cap_holds() -> None:
    square = [(0, 1), (1, 2), (2, 3), (0, 3)]
    crossed = NONE.expand(4, 3)
    assert count([(0, 2), (0, 3)], [[0, 0, 0]] * 2, square, crossed) == [2, 1]
    assert count([(0, 2), (0, 3)], [[0, 0, 0]] * 2, square, crossed, 1) == [1, 1]
    with pytest.raises(ValueError, match="cap must be at least 1"):
        count([(0, 2)], [[0, 0, 0]], square, crossed, 0)


def test_no_bonds_count_as_the_cap() -> None:
    assert bonds_between(
        torch.tensor([[0], [1]]), NONE[None], torch.zeros(0, 2, dtype=torch.int64), NONE[None], 4
    ).tolist() == [4]


def test_a_cell_too_thin_for_its_bonds_is_refused() -> None:
    pair = Molecule.from_numbers([6, 6], bonds=[(0, 1)], pbc=(True, True, True))
    x = torch.tensor([[[0.0, 0, 0], [1.0, 0.5, 0]]], dtype=torch.float64)
    cell = torch.diag(torch.tensor([2.1, 9.0, 9.0])).double()[None]
    with pytest.raises(
        ValueError, match=r"atoms 0 and 1 .* 1.12 Å long, the cell 2.1 Å thick.* a;"
    ):
        bond_images(pair, x, cell)
