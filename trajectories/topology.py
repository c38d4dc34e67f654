"""Names, residue and bonds of a molecule, as mdtraj has them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import torch

from egno_md.bonds import guess_bonds
from egno_md.state import Molecule

if TYPE_CHECKING:
    import mdtraj


def atom_names(molecule: Molecule) -> list[str]:
    """Return the molecule's own names, or element and count: C1, C2, O1, H1, ..."""
    from ase.data import chemical_symbols

    if molecule.names:
        return list(molecule.names)
    seen: Counter[str] = Counter()
    names = []
    for number in molecule.numbers.tolist():
        symbol = chemical_symbols[number]
        seen[symbol] += 1
        names.append(f"{symbol}{seen[symbol]}")
    return names


def mdtraj_topology(molecule: Molecule) -> mdtraj.Topology:
    """Return a topology of one chain and one residue, MOL, with the molecule's bonds."""
    import mdtraj

    topology = mdtraj.Topology()
    residue = topology.add_residue("MOL", topology.add_chain())
    for name, number in zip(atom_names(molecule), molecule.numbers.tolist(), strict=True):
        topology.add_atom(name, mdtraj.element.Element.getByAtomicNumber(number), residue)
    atoms = list(topology.atoms)
    for i, j in molecule.bonds.tolist():
        topology.add_bond(atoms[i], atoms[j])
    return topology


def molecule_of(topology: mdtraj.Topology, places_A: np.ndarray, *, periodic: bool) -> Molecule:
    """Return the molecule of a topology; bonds are its own, or guessed.

    Args:
        topology: of mdtraj.
        places_A: `(n_atoms, 3)`, Å, to guess bonds from.
        periodic: whether there is a cell.

    Raises:
        ValueError: naming an atom without element.
    """
    atoms = list(topology.atoms)
    for atom in atoms:
        if atom.element is None or atom.element.atomic_number < 1:
            raise ValueError(f"atom {atom.index} ({atom}) has no element; leave such sites out")
    numbers = [atom.element.atomic_number for atom in atoms]
    pairs = {tuple(sorted((a.index, b.index))) for a, b in topology.bonds}
    bonds = (
        torch.tensor(sorted(pairs), dtype=torch.int64)
        if pairs
        else guess_bonds(torch.tensor(numbers), torch.from_numpy(np.asarray(places_A)))
    )
    names = tuple(atom.name for atom in atoms)
    return Molecule.from_numbers(numbers, bonds=bonds, names=names, pbc=(periodic,) * 3)
