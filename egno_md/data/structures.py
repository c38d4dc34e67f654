"""Reading a structure file into a `State`: what a run or a reference trajectory starts from.

PDB files go through mdtraj, which knows atom names and guesses elements that a file leaves
out; everything else goes through ASE (xyz, extxyz, cif, POSCAR, traj, ...). Of a file with
several frames the first is read. Momenta are used where ASE reads them; files that give
velocities in a unit of their own are not guessed at.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from egno_md.ase_atoms import (
    SMALLEST_DISTANCE_A,
    molecule_from_atoms,
    refuse_charge_and_spin,
    state_from_atoms,
)
from egno_md.bonds import close_pairs, guess_bonds
from egno_md.state import Molecule, State

if TYPE_CHECKING:
    import ase

_PDB_SUFFIXES: Final = (".pdb", ".ent")


def read_structure(path: str | Path) -> State:
    """Read the first frame of a structure file.

    Bonds are guessed from covalent radii. Coordinates are kept as they are, not wrapped.

    Args:
        path: an xyz, extxyz or PDB file, or any other file ASE reads.

    Returns:
        one replica, float64, at time 0; velocities from the file's momenta, else zero.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: in one sentence with the file and, where there is one, the atom: if the file
            is empty or cannot be read, an element is unknown, a number is not finite, two atoms
            overlap, or a periodic cell has no volume.
    """
    file = Path(path)
    if not file.is_file():
        what = "is a folder, not a structure file" if file.is_dir() else "does not exist"
        raise FileNotFoundError(f"structure file {file} {what}")
    if file.stat().st_size == 0:
        raise ValueError(f"structure file {file} is empty")
    try:
        return _read_pdb(file) if file.suffix.lower() in _PDB_SUFFIXES else _read_any(file)
    except ValueError as error:
        raise ValueError(f"structure file {file}: {error}") from None


def check_overlap(
    positions: Tensor,
    names: tuple[str, ...],
    *,
    cell: Tensor | None = None,
    pbc: tuple[bool, bool, bool] = (False, False, False),
) -> None:
    """Refuse atoms that lie on one another.

    Args:
        positions: `(n_atoms, 3)`, Å.
        names: one name or symbol per atom, for the message.
        cell: `(3, 3)`, Å, or None.
        pbc: periodic directions.

    Raises:
        ValueError: naming the closest two atoms and their distance, if it is below 0.3 Å.
    """
    pairs, distances = close_pairs(positions, SMALLEST_DISTANCE_A, cell=cell, pbc=pbc)
    if len(pairs):
        closest = int(distances.argmin())
        i, j = (int(k) for k in pairs[closest])
        raise ValueError(
            f"atoms {i} ({names[i]}) and {j} ({names[j]}) are {float(distances[closest]):.3g} Å "
            f"apart; atoms must be at least {SMALLEST_DISTANCE_A} Å apart, so move or remove one"
        )


def _reason(error: Exception) -> str:
    """The message of a foreign error on one line, or its kind if it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _read_any(file: Path) -> State:
    """Read through ASE."""
    import ase.io

    try:
        # "name@3" means a frame to ASE; here it is a name.
        atoms = ase.io.read(file, index=0, do_not_split_by_at_sign=True)
    except KeyError as error:
        symbol = str(error.args[0]) if error.args else ""
        if file.suffix.lower() in (".xyz", ".extxyz") and not symbol.isdecimal():
            where = _first_atom_named(file, symbol)
            raise ValueError(f"{where} has the unknown element {symbol!r}") from None
        raise ValueError(f"ASE cannot read it ({_reason(error)})") from None
    except Exception as error:  # the readers of ASE raise whatever their parsing meets
        raise ValueError(f"ASE cannot read it ({type(error).__name__}: {_reason(error)})") from None
    if isinstance(atoms, list) or len(atoms) == 0:
        raise ValueError("it holds no atoms")
    return _from_atoms(atoms)


def _first_atom_named(file: Path, symbol: str) -> str:
    """Say which atom of an xyz file has this symbol."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines):
            if number >= 2 and symbol in line.split():
                return f"atom {number - 2} (line {number + 1})"
    return "an atom"


def _from_atoms(atoms: ase.Atoms) -> State:
    """Turn ASE's atoms into a state with bonds."""
    molecule = molecule_from_atoms(atoms)
    refuse_charge_and_spin(atoms)
    # The state checks that all numbers are finite, before distances are taken of them.
    state = state_from_atoms(atoms, molecule)
    return _bonded(state, tuple(str(symbol) for symbol in atoms.symbols))


def _read_pdb(file: Path) -> State:
    """Read through mdtraj."""
    import mdtraj

    _check_pdb_elements(file)
    failure, frame = "", None
    with warnings.catch_warnings():
        # It warns of the placeholder cell of 1 Å that files without a cell have, and leaves a
        # file it fails on to be closed by Python, which warns when `error` goes.
        warnings.simplefilter("ignore")
        try:
            frame = mdtraj.load_pdb(str(file), frame=0)
        except Exception as error:  # mdtraj, too, raises whatever its parsing meets
            failure = f"{type(error).__name__}: {_reason(error)}"
    if frame is None:
        raise ValueError(f"mdtraj cannot read it as PDB ({failure})")
    atoms = list(frame.topology.atoms)
    for atom in atoms:
        if atom.element is None or not 1 <= atom.element.atomic_number <= 118:
            raise ValueError(f"atom {atom.index} ({atom}) has no known element")
    # Three decimals are what a PDB file has; single precision in nm loses the last of them.
    positions = np.round(frame.xyz[0].astype(np.float64) * 10.0, 3)
    vectors = frame.unitcell_vectors
    cell = None if vectors is None else np.asarray(vectors[0], dtype=np.float64) * 10.0
    if cell is not None and np.allclose(cell, np.eye(3), atol=1e-3):
        cell = None
    pbc = (cell is not None,) * 3
    numbers = torch.tensor([atom.element.atomic_number for atom in atoms], dtype=torch.int64)
    names = tuple(atom.name for atom in atoms)
    state = State.at_rest(
        Molecule.from_numbers(numbers, names=names, pbc=(pbc[0], pbc[1], pbc[2])),
        torch.from_numpy(positions),
        cell=None if cell is None else torch.from_numpy(cell),
    )
    return _bonded(state, tuple(str(atom) for atom in atoms))


def _check_pdb_elements(file: Path) -> None:
    """Refuse element columns that name no element: mdtraj would guess from the atom's name."""
    from ase.data import atomic_numbers

    index = 0
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if line.startswith("ENDMDL"):
                return
            if not line.startswith(("ATOM", "HETATM")):
                continue
            symbol = line[76:78].strip().capitalize()
            if symbol and symbol != "D" and atomic_numbers.get(symbol, 0) == 0:
                raise ValueError(f"atom {index} (line {number}) has the unknown element {symbol!r}")
            index += 1


def _bonded(state: State, labels: tuple[str, ...]) -> State:
    """Refuse overlapping atoms and guess the bonds; labels name the atoms in messages."""
    plain, x = state.molecule, state.positions[0]
    cell = None if state.cell is None else state.cell[0]
    check_overlap(x, labels, cell=cell, pbc=plain.pbc)
    bonds = guess_bonds(plain.numbers, x, cell=cell, pbc=plain.pbc)
    molecule = Molecule(plain.numbers, plain.masses, bonds, plain.names, plain.pbc)
    return state.with_(molecule=molecule)
