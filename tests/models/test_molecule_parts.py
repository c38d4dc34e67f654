"""Parts of molecules, counted by hand."""

from __future__ import annotations

import pytest

from egno_md.data.structures import read_structure
from egno_md.models.molecule_parts import (
    alike_atoms,
    close_pairs_of,
    fragments_of,
    pair_classes_of,
    pair_types_of,
    parts_of,
)

WATER = ([8, 1, 1], [(0, 1), (0, 2)])


def several(n, numbers=WATER[0], bonds=WATER[1]):
    """Copies of a molecule, one after the other."""
    size = len(numbers)
    return numbers * n, [(i + k * size, j + k * size) for k in range(n) for i, j in bonds]


def chain(n):
    """Carbons in a row, without hydrogens."""
    return [6] * n, [(k, k + 1) for k in range(n - 1)]


def test_a_chain_is_cut_into_overlapping_pieces_of_five():
    parts = parts_of(*chain(9))
    assert parts.atoms == tuple(tuple(range(k, k + 5)) for k in range(5))
    assert parts.classes == (0, 1, 2, 3, 4)


def test_every_torsion_of_a_molecule_lies_in_a_part():
    molecule = read_structure("egno_md/examples/aspirin.xyz").molecule
    bonds = molecule.bonds.tolist()
    parts = [set(atoms) for atoms in parts_of(molecule.numbers.tolist(), bonds).atoms]
    joined = {frozenset(bond) for bond in bonds}
    torsions = {
        (i, j, k, m)
        for j, k in [*bonds, *(reversed(bond) for bond in bonds)]
        for i in range(21)
        for m in range(21)
        if len({i, j, k, m}) == 4 and frozenset((i, j)) in joined and frozenset((k, m)) in joined
    }
    assert len(torsions) > 50
    assert all(any(set(torsion) <= part for part in parts) for torsion in torsions)
    assert not any(one < other for one in parts for other in parts)


def test_small_molecules_are_parts_alone_in_twos_and_in_threes():
    parts = parts_of(*several(4))
    sizes = [len(atoms) for atoms in parts.atoms]
    assert (sizes.count(3), sizes.count(6), sizes.count(9)) == (4, 6, 4)
    # All molecules share one class, so do all pairs and all triples.
    assert len({*zip(sizes, parts.classes, strict=True)}) == 3
    assert parts.atoms[4] == (0, 1, 2, 3, 4, 5)


def test_large_molecules_do_not_make_groups():
    assert max(map(len, parts_of(*several(2, *chain(9))).atoms)) == 5
    assert parts_of(*several(2, *chain(9))).classes == (*range(5), *range(5))


def test_molecules_of_one_kind_have_the_same_elements_and_bonds():
    numbers, bonds = several(2)
    fragments = fragments_of([*numbers, 8, 8, 1, 1], [*bonds, (6, 7), (8, 9)])
    assert fragments.atoms == ((0, 1, 2), (3, 4, 5), (6, 7), (8, 9))
    assert fragments.kinds == (0, 0, 1, 2)
    assert fragments.alike() == (((0, 1, 2), (3, 4, 5)),)


def test_pairs_of_one_kind_share_a_class():
    numbers, bonds = several(2)
    pairs = [(0, 1), (3, 4), (0, 2), (0, 3), (0, 4), (1, 3), (1, 4), (2, 4), (1, 5)]
    a, b, c, d, e, f, g, h, i = pair_classes_of(fragments_of(numbers, bonds), pairs)
    # Within a molecule each pair for itself; between molecules, either way round.
    assert a == b != c
    assert e == f
    assert h == i
    assert len({a, c, d, e, g, h}) == 6


def test_types_go_by_the_neighbours():
    # Methanol: three hydrogens of a carbon, one of an oxygen.
    numbers, bonds = [6, 8, 1, 1, 1, 1], [(0, 1), (0, 2), (0, 3), (0, 4), (1, 5)]
    one, same, other = pair_types_of(numbers, bonds, [(2, 5), (5, 3), (2, 3)])
    assert one == same != other


def test_close_pairs_are_bonds_and_ends_of_angles():
    assert close_pairs_of(*chain(4)) == {(0, 1), (1, 2), (2, 3), (0, 2), (1, 3)}


@pytest.mark.parametrize("n", [1, 3])
def test_alike_hydrogens(n):
    numbers, bonds = several(n)
    assert alike_atoms(numbers, bonds) == tuple((3 * k + 1, 3 * k + 2) for k in range(n))
    assert alike_atoms([8, 1, 9], [(0, 1), (0, 2)]) == ()
