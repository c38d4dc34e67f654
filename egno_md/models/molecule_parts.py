"""Cuts a molecule, or several, into small overlapping parts.

Inside a molecule a part is an atom with all that is no more than `radius` bonds away; parts that
lie in others are left out. Small molecules are parts as a whole, alone and in groups of two and
three. Parts that stand for the same thing in molecules of one kind share a class, with their atoms
in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

#: Groups of whole molecules are parts when they have no more atoms than this together.
GROUP_ATOMS: Final = 12

#: Most molecules in a group.
_GROUP: Final = 3


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a molecule.

    Attributes:
        atoms: of each part, in the order of its class.
        classes: class of each part, numbered from 0.
    """

    atoms: tuple[tuple[int, ...], ...]
    classes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fragments:
    """Molecules within a list of atoms: what bonds join.

    Attributes:
        atoms: of each molecule, rising.
        kinds: kind of each molecule; alike are those of the same elements and bonds in the same
            order.
    """

    atoms: tuple[tuple[int, ...], ...]
    kinds: tuple[int, ...]

    def alike(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """Molecules of one kind, for every kind that there are several of."""
        found: dict[int, list[tuple[int, ...]]] = {}
        for kind, atoms in zip(self.kinds, self.atoms, strict=True):
            found.setdefault(kind, []).append(atoms)
        return tuple(tuple(same) for same in found.values() if len(same) > 1)


def neighbours_of(n_atoms: int, bonds: Sequence[Sequence[int]]) -> list[set[int]]:
    """List the bonded neighbours of every atom.

    Args:
        n_atoms: number of atoms.
        bonds: pairs of atoms.
    """
    near: list[set[int]] = [set() for _ in range(n_atoms)]
    for i, j in bonds:
        near[i].add(j)
        near[j].add(i)
    return near


def within(near: Sequence[set[int]], atom: int, radius: int) -> set[int]:
    """Find the atoms no more than some bonds away, the atom itself among them.

    Args:
        near: neighbours of every atom.
        atom: where to begin.
        radius: number of bonds.
    """
    found, edge = {atom}, {atom}
    for _ in range(radius):
        edge = set().union(*(near[i] for i in edge)) - found
        found |= edge
    return found


def fragments_of(numbers: Sequence[int], bonds: Sequence[Sequence[int]]) -> Fragments:
    """Find the molecules within a list of atoms.

    Args:
        numbers: atomic numbers.
        bonds: pairs of atoms.
    """
    near = neighbours_of(len(numbers), bonds)
    left, atoms = set(range(len(numbers))), []
    while left:
        whole = within(near, min(left), len(numbers))
        atoms.append(tuple(sorted(whole)))
        left -= whole
    known: dict[object, int] = {}
    kinds = []
    for members in atoms:
        place = {atom: k for k, atom in enumerate(members)}
        what = (
            tuple(numbers[i] for i in members),
            tuple(sorted((place[i], place[j]) for i in members for j in near[i] if i < j)),
        )
        kinds.append(known.setdefault(what, len(known)))
    return Fragments(tuple(atoms), tuple(kinds))


def parts_of(numbers: Sequence[int], bonds: Sequence[Sequence[int]], radius: int = 2) -> Parts:
    """Cut atoms into parts.

    Args:
        numbers: atomic numbers.
        bonds: pairs of atoms.
        radius: bonds from the middle of a part to its rim.
    """
    near = neighbours_of(len(numbers), bonds)
    fragments = fragments_of(numbers, bonds)
    known: dict[object, int] = {}
    atoms: list[tuple[int, ...]] = []
    classes: list[int] = []

    def add(members: tuple[int, ...], what: object) -> None:
        if len(members) > 1:
            atoms.append(members)
            classes.append(known.setdefault(what, len(known)))

    for kind, whole in zip(fragments.kinds, fragments.atoms, strict=True):
        if len(whole) <= GROUP_ATOMS // 2:
            add(whole, (kind,))
            continue
        for k, members in enumerate(_inside(near, whole, radius)):
            add(members, (kind, "inside", k))
    order = sorted(range(len(fragments.atoms)), key=lambda k: (fragments.kinds[k], k))
    for size in range(2, _GROUP + 1):
        for group in combinations(order, size):
            members = tuple(atom for k in group for atom in fragments.atoms[k])
            if len(members) <= GROUP_ATOMS:
                add(members, tuple(fragments.kinds[k] for k in group))
    return Parts(tuple(atoms), tuple(classes))


def _inside(near: Sequence[set[int]], whole: Sequence[int], radius: int) -> list[tuple[int, ...]]:
    """Parts of one molecule, none within another."""
    around = sorted(
        {tuple(sorted(within(near, atom, radius))) for atom in whole}, key=lambda p: (-len(p), p)
    )
    kept: list[tuple[int, ...]] = []
    for part in around:
        if not any(set(part) <= set(other) for other in kept):
            kept.append(part)
    return sorted(kept)


def pair_classes_of(fragments: Fragments, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Number the pairs of atoms, the same in molecules of one kind.

    Args:
        fragments: the molecules.
        pairs: of atoms.

    Returns:
        The class of every pair, from 0 on.
    """
    where: dict[int, tuple[int, int]] = {}
    molecule: dict[int, int] = {}
    for m, (kind, atoms) in enumerate(zip(fragments.kinds, fragments.atoms, strict=True)):
        for k, atom in enumerate(atoms):
            where[atom], molecule[atom] = (kind, k), m
    known: dict[object, int] = {}
    found = []
    for i, j in pairs:
        ends = tuple(sorted((where[i], where[j])))
        found.append(known.setdefault((molecule[i] == molecule[j], ends), len(known)))
    return found


def pair_types_of(
    numbers: Sequence[int], bonds: Sequence[Sequence[int]], pairs: Sequence[tuple[int, int]]
) -> list[int]:
    """Number the pairs of atoms by their elements and those of their neighbours.

    Args:
        numbers: atomic numbers.
        bonds: pairs of atoms.
        pairs: of atoms.

    Returns:
        The type of every pair, from 0 on.
    """
    near = neighbours_of(len(numbers), bonds)
    atoms = [(z, tuple(sorted(numbers[j] for j in near[i]))) for i, z in enumerate(numbers)]
    known: dict[object, int] = {}
    return [known.setdefault(tuple(sorted((atoms[i], atoms[j]))), len(known)) for i, j in pairs]


def close_pairs_of(
    numbers: Sequence[int], bonds: Sequence[Sequence[int]], radius: int = 2
) -> set[tuple[int, int]]:
    """Find the pairs of atoms no more than some bonds apart.

    Args:
        numbers: atomic numbers.
        bonds: pairs of atoms.
        radius: number of bonds.
    """
    near = neighbours_of(len(numbers), bonds)
    return {(i, j) for i in range(len(numbers)) for j in within(near, i, radius) if i < j}


def alike_atoms(
    numbers: Sequence[int], bonds: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], ...]:
    """Find atoms of one element whose only bond is to one and the same atom.

    Args:
        numbers: atomic numbers.
        bonds: pairs of atoms.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for atom, others in enumerate(neighbours_of(len(numbers), bonds)):
        if len(others) == 1:
            groups.setdefault((min(others), numbers[atom]), []).append(atom)
    return tuple(tuple(atoms) for atoms in groups.values() if len(atoms) > 1)
