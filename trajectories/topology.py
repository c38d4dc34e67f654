"""Names, residue and bonds of a molecule, as mdtraj wants them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

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
