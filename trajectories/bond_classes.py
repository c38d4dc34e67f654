"""Which bonds, angles and torsions of a molecule are alike, whatever order its atoms are in.

Atoms are coloured by their element and then, again and again, by the colours of their bonded
neighbours until nothing changes (Weisfeiler and Leman's refinement). Two bonds are alike when
their ends have the same colours: the three C-H bonds of a methyl group are, those of methyl
and methylene are not. The colours are texts built from elements and bonds only, so the same
molecule with its atoms in another order gets the same ones.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from ase.data import chemical_symbols
from torch import Tensor

from egno_md.state import Molecule


@dataclass(frozen=True, slots=True, eq=False)
class InternalCoordinates:
    """The bonds, angles and torsions of a molecule, each with the class it belongs to.

    Attributes:
        bonds: `(n_bonds, 2)` int64, as in the molecule.
        angles: `(n_angles, 3)` int64, the middle atom in the middle.
        torsions: `(n_torsions, 4)` int64, along the bonds.
        bond_class: `(n_bonds,)` int64, index into `bond_keys`.
        angle_class: `(n_angles,)` int64, index into `angle_keys`.
        torsion_class: `(n_torsions,)` int64, index into `torsion_keys`.
        bond_keys: one text per class, the same for every atom order; sorted.
        angle_keys: likewise.
        torsion_keys: likewise.
    """

    bonds: Tensor
    angles: Tensor
    torsions: Tensor
    bond_class: Tensor
    angle_class: Tensor
    torsion_class: Tensor
    bond_keys: tuple[str, ...]
    angle_keys: tuple[str, ...]
    torsion_keys: tuple[str, ...]

    @property
    def bond_labels(self) -> tuple[str, ...]:
        """A short name per bond class to show to people, such as "C-H 1 (3 alike)"."""
        return _labels(self.bond_keys, self.bond_class)

    @property
    def angle_labels(self) -> tuple[str, ...]:
        """A short name per angle class."""
        return _labels(self.angle_keys, self.angle_class)

    @property
    def torsion_labels(self) -> tuple[str, ...]:
        """A short name per torsion class."""
        return _labels(self.torsion_keys, self.torsion_class)


def atom_colours(numbers: Tensor, bonds: Tensor) -> tuple[str, ...]:
    """Colour the atoms by element and bonded surroundings.

    Args:
        numbers: `(n_atoms,)` int64, atomic numbers.
        bonds: `(n_bonds, 2)` int64.

    Returns:
        One text per atom, `"Z.digest"`; the same text for atoms with the same surroundings.
    """
    neighbours = _neighbours(len(numbers), bonds)
    colours = [str(z) for z in numbers.tolist()]
    n_colours = len(set(colours))
    while True:
        texts = [
            c + "(" + ",".join(sorted(colours[j] for j in neighbours[i])) + ")"
            for i, c in enumerate(colours)
        ]
        colours = [
            f"{z}.{hashlib.sha256(t.encode()).hexdigest()[:12]}"
            for z, t in zip(numbers.tolist(), texts, strict=True)
        ]
        if len(set(colours)) == n_colours:
            return tuple(colours)
        n_colours = len(set(colours))


def internal_coordinates(molecule: Molecule) -> InternalCoordinates:
    """List the bonds, angles and torsions that a molecule's bonds make, sorted into classes.

    Args:
        molecule: gives elements and bonds.
    """
    colours = atom_colours(molecule.numbers, molecule.bonds)
    neighbours = _neighbours(molecule.n_atoms, molecule.bonds)
    angles = [
        (i, centre, k)
        for centre, around in enumerate(neighbours)
        for at, i in enumerate(around)
        for k in around[at + 1 :]
    ]
    torsions = [
        (i, j, k, m)
        for j, k in molecule.bonds.tolist()
        for i in neighbours[j]
        for m in neighbours[k]
        if i != k and m != j and i != m
    ]
    bond_class, bond_keys = _classes(molecule.bonds.tolist(), colours)
    angle_class, angle_keys = _classes(angles, colours)
    torsion_class, torsion_keys = _classes(torsions, colours)
    return InternalCoordinates(
        molecule.bonds,
        torch.tensor(angles, dtype=torch.int64).reshape(-1, 3),
        torch.tensor(torsions, dtype=torch.int64).reshape(-1, 4),
        bond_class,
        angle_class,
        torsion_class,
        bond_keys,
        angle_keys,
        torsion_keys,
    )


def _neighbours(n_atoms: int, bonds: Tensor) -> list[list[int]]:
    around: list[list[int]] = [[] for _ in range(n_atoms)]
    for i, j in bonds.tolist():
        around[i].append(j)
        around[j].append(i)
    return [sorted(a) for a in around]


def _classes(
    paths: Sequence[Sequence[int]], colours: Sequence[str]
) -> tuple[Tensor, tuple[str, ...]]:
    """Sort paths of bonded atoms into classes; a path and its reverse are the same."""
    texts = []
    for path in paths:
        forward = [colours[i] for i in path]
        texts.append("-".join(min(forward, forward[::-1])))
    keys = tuple(sorted(set(texts)))
    position = {key: n for n, key in enumerate(keys)}
    return torch.tensor([position[t] for t in texts], dtype=torch.int64), keys


def _labels(keys: Sequence[str], classes: Tensor) -> tuple[str, ...]:
    """Element names, numbered where several classes have the same, with how many are alike."""
    names = [_element_names(key) for key in keys]
    sizes = torch.bincount(classes, minlength=len(names)).tolist()
    seen: dict[str, int] = defaultdict(int)
    labels = []
    for name, size in zip(names, sizes, strict=True):
        seen[name] += 1
        number = f" {seen[name]}" if names.count(name) > 1 else ""
        labels.append(f"{name}{number}" + (f" ({size} alike)" if size > 1 else ""))
    return tuple(labels)


def _element_names(key: str) -> str:
    """Turn a class key into element symbols, carbon first and hydrogen last."""
    numbers = [int(part.split(".")[0]) for part in key.split("-")]
    rank = {6: -1, 1: 1000}
    if rank.get(numbers[0], numbers[0]) > rank.get(numbers[-1], numbers[-1]):
        numbers.reverse()
    return "-".join(chemical_symbols[z] for z in numbers)
