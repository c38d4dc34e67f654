"""Bonds guessed from distances, and counts of bonds between atoms."""

from __future__ import annotations

import networkx
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from egno_md.bonds import bond_graph_distance, close_pairs, constitution, guess_bonds


def arrays(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    atoms = molecule(name)
    return torch.as_tensor(atoms.numbers, dtype=torch.int64), torch.as_tensor(atoms.positions)


@pytest.mark.parametrize(
    ("name", "n_bonds"),
    [("CH3CH2OH", 8), ("C6H6", 12), ("H2O", 2), ("CH4", 4), ("C2H2", 3), ("SiH4", 4), ("Li", 0)],
)
def test_known_molecules_have_their_bonds(name: str, n_bonds: int) -> None:
    bonds = guess_bonds(*arrays(name))
    assert bonds.shape == (n_bonds, 2)
    assert bonds.dtype == torch.int64
    assert bool((bonds[:, 0] < bonds[:, 1]).all())
    assert bonds.tolist() == sorted(bonds.tolist())


def test_a_stretched_bond_stays_and_a_broken_one_goes() -> None:
    numbers = torch.tensor([6, 6])
    for distance, expected in ((1.54 * 1.2, 1), (2.45, 0)):
        positions = torch.tensor([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]])
        assert len(guess_bonds(numbers, positions)) == expected


def test_bonds_do_not_depend_on_orientation_or_place() -> None:
    numbers, positions = arrays("CH3CH2OH")
    rotation = torch.linalg.qr(torch.randn((3, 3), generator=torch.manual_seed(1)).double())[0]
    moved = positions @ rotation + 1000.0
    assert torch.equal(guess_bonds(numbers, positions), guess_bonds(numbers, moved))


def test_bonds_are_found_through_the_faces_of_a_cell() -> None:
    numbers, positions = arrays("CH3CH2OH")
    cell = torch.diag(torch.tensor([7.0, 8.0, 9.0]).double())
    shifted = (positions + torch.tensor([6.8, 7.9, 8.8])) % torch.tensor([7.0, 8.0, 9.0])
    whole = guess_bonds(numbers, positions)
    assert len(guess_bonds(numbers, shifted)) < len(whole)
    assert torch.equal(guess_bonds(numbers, shifted, cell=cell, pbc=(True, True, True)), whole)


def test_a_pair_in_a_small_cell_is_named_once() -> None:
    atoms = bulk("Cu", cubic=True)
    pairs, distances = close_pairs(
        torch.as_tensor(atoms.positions),
        4.0,
        cell=torch.as_tensor(atoms.cell.array),
        pbc=(True,) * 3,
    )
    assert pairs.tolist() == [[i, j] for i in range(4) for j in range(i + 1, 4)]
    assert distances.numpy() == pytest.approx(np.full(6, 3.61 / 2**0.5))


def test_metals_in_a_cell_are_not_bonded() -> None:
    def found(numbers: list[int], pbc: bool) -> int:
        x = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]).double()
        cell = 9.0 * torch.eye(3).double()
        return len(guess_bonds(torch.tensor(numbers), x, cell=cell, pbc=(pbc,) * 3))

    assert found([29, 29], True) == found([11, 26], True) == 0
    assert found([29, 8], True) == found([14, 14], True) == found([29, 29], False) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_coordinate_that_is_not_finite_names_its_atom(bad: float) -> None:
    numbers, positions = arrays("CH4")
    positions[2, 1] = bad
    with pytest.raises(ValueError, match=r"atom 2 \(y\)"):
        guess_bonds(numbers, positions)


def test_wrong_shapes_and_numbers_are_named() -> None:
    numbers, positions = arrays("CH4")
    with pytest.raises(ValueError, match=r"shape \(4, 3\)"):
        guess_bonds(numbers[:4], positions)
    with pytest.raises(ValueError, match="atom 0 has atomic number 0"):
        guess_bonds(numbers * 0, positions)
    with pytest.raises(ValueError, match="no cell"):
        guess_bonds(numbers, positions, pbc=(True, False, False))
    for thin, words in ((1e-4, "too thin"), (0.0, "no volume")):
        cell = torch.diag(torch.tensor([thin, 9.0, 9.0]))
        with pytest.raises(ValueError, match=words):
            guess_bonds(numbers, positions, cell=cell, pbc=(True, True, True))


def test_no_atoms_have_no_bonds() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert guess_bonds(none, torch.zeros(0, 3)).shape == (0, 2)
    assert close_pairs(torch.zeros(0, 3), 1.0)[0].shape == (0, 2)
    assert bond_graph_distance(0, none.reshape(0, 2), 3).shape == (0, 0)


def test_bond_counts_of_ethanol() -> None:
    numbers, positions = arrays("CH3CH2OH")
    bonds = guess_bonds(numbers, positions)
    distance = bond_graph_distance(9, bonds, cap=4)
    assert distance.dtype == torch.int64
    assert torch.equal(distance, distance.T)
    assert bool((distance.diagonal() == 0).all())
    assert bool((distance[bonds[:, 0], bonds[:, 1]] == 1).all())
    graph = networkx.Graph(bonds.tolist())
    exact = dict(networkx.all_pairs_shortest_path_length(graph))
    expected = [[min(exact[i][j], 4) for j in range(9)] for i in range(9)]
    assert distance.tolist() == expected


@pytest.mark.parametrize("cap", [1, 2, 3, 7, 300])
def test_bond_counts_of_random_graphs(cap: int) -> None:
    generator = np.random.default_rng(cap)
    n_atoms = 200  # long chains and many branches: counts beyond 127 must not wrap
    chain = [[i, i + 1] for i in range(n_atoms - 20)]
    extra = generator.integers(0, n_atoms - 10, (5, 2)).tolist()
    graph = networkx.Graph(chain + extra)
    exact = dict(networkx.all_pairs_shortest_path_length(graph))
    distance = bond_graph_distance(n_atoms, torch.tensor(chain + extra), cap)
    for i in range(n_atoms):
        for j in range(n_atoms):
            far = 0 if i == j else exact.get(i, {}).get(j, cap)
            assert int(distance[i, j]) == min(far, cap)


def test_bond_counts_without_bonds_and_with_wrong_ones() -> None:
    none = torch.zeros((0, 2), dtype=torch.int64)
    assert bond_graph_distance(3, none, 5).tolist() == [[0, 5, 5], [5, 0, 5], [5, 5, 0]]
    with pytest.raises(ValueError, match=r"atoms 0\.\.2"):
        bond_graph_distance(3, torch.tensor([[0, 3]]), 5)
    with pytest.raises(ValueError, match="cap"):
        bond_graph_distance(3, none, 0)


class TestConstitution:
    ETHANOL = torch.tensor([6, 6, 8, 1, 1, 1, 1, 1, 1])
    BONDS = torch.tensor([[0, 1], [0, 2], [0, 3], [0, 4], [1, 5], [1, 6], [1, 7], [2, 8]])

    def test_order_of_atoms_does_not_matter(self):
        order = torch.tensor([8, 3, 1, 0, 2, 7, 6, 4, 5])
        place = torch.argsort(order)
        bonds = place[self.BONDS].sort(1).values
        name = constitution(self.ETHANOL, self.BONDS)
        assert name.startswith("C2H6O:")
        assert constitution(self.ETHANOL[order], bonds) == name

    def test_isomers_differ(self):
        ether = torch.tensor([[0, 2], [1, 2], [0, 3], [0, 4], [0, 5], [1, 6], [1, 7], [1, 8]])
        name = constitution(self.ETHANOL, ether)
        assert name.startswith("C2H6O:")
        assert name != constitution(self.ETHANOL, self.BONDS)
