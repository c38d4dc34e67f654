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

from egno_md.bonds import close_pairs, guess_bonds
from egno_md.state import Molecule, State
from egno_md.units import FS_PER_ASE_TIME

if TYPE_CHECKING:
    import ase

#: Atoms closer than this overlap: the shortest bond there is, H-H, has 0.74 Å.
SMALLEST_DISTANCE_A: Final = 0.3

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
    """Turn ASE's atoms into a state."""
    numbers = np.asarray(atoms.numbers)
    symbols = tuple(str(symbol) for symbol in atoms.symbols)
    unknown = np.flatnonzero((numbers < 1) | (numbers > 118))
    if len(unknown):
        i = int(unknown[0])
        raise ValueError(f"atom {i} has the unknown element {symbols[i]!r}")
    masses = np.asarray(atoms.get_masses())
    weightless = np.flatnonzero(~(masses > 0))
    if len(weightless):
        i = int(weightless[0])
        raise ValueError(f"atom {i} has mass {masses[i]} amu; it must be positive")
    _refuse_charge_and_spin(atoms)
    velocities = np.zeros((len(atoms), 3))
    if "momenta" in atoms.arrays:
        velocities = atoms.arrays["momenta"] / masses[:, None] / FS_PER_ASE_TIME
    pbc = (bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2]))
    return _state(
        numbers=numbers,
        masses=masses,
        labels=symbols,
        names=(),
        positions=np.asarray(atoms.positions),
        velocities=velocities,
        cell=_completed(np.asarray(atoms.cell.array), pbc) if any(pbc) else None,
        pbc=pbc,
    )


def _refuse_charge_and_spin(atoms: ase.Atoms) -> None:
    """Refuse a system that is not neutral with all electrons paired: no bundle knows another.

    Looked at are the names that other packages use in the comment line of extended xyz files,
    and ASE's initial charges and magnetic moments.
    """
    total = float(np.sum(atoms.get_initial_charges()))  # type: ignore[no-untyped-call]
    for name in ("charge", "total_charge"):
        total = float(atoms.info.get(name) or total)
    if abs(total) > 1e-3:
        raise ValueError(
            f"it has a total charge of {total:g}; models here are trained for neutral systems, "
            "so make it neutral, or take the charge out if it is a mistake"
        )
    unpaired = float(np.abs(atoms.get_initial_magnetic_moments()).max())  # type: ignore[no-untyped-call]
    multiplicity = 1.0
    for name in ("spin", "multiplicity", "spin_multiplicity"):
        multiplicity = max(multiplicity, float(atoms.info.get(name) or 1.0))
    if unpaired > 1e-3 or multiplicity > 1.0:
        what = f"magnetic moments up to {unpaired:g}" if unpaired > 1e-3 else "a spin multiplicity"
        what += "" if unpaired > 1e-3 else f" of {multiplicity:g}"
        raise ValueError(
            f"it has {what}; models here are trained for paired electrons, so take the spin out "
            "if that is what you mean"
        )


def _completed(cell: np.ndarray, pbc: tuple[bool, bool, bool]) -> np.ndarray:
    """Check periodic cell vectors; fill in missing ones of directions that are not periodic.

    Args:
        cell: `(3, 3)`, Å, rows are cell vectors.
        pbc: periodic directions.

    Raises:
        ValueError: if a number is not finite, or the periodic vectors span no volume.
    """
    from ase.geometry.cell import complete_cell

    if not np.isfinite(cell).all():
        raise ValueError(f"its cell has a number that is not finite: {cell.tolist()}")
    lengths = np.linalg.norm(cell, axis=1)
    for axis, name in enumerate("abc"):
        if pbc[axis] and lengths[axis] < 1e-6:
            raise ValueError(
                f"it is periodic along {name} (pbc {pbc}) but cell vector {name} is zero; give a "
                "cell or set pbc to False"
            )
        if pbc[axis] and lengths[axis] < SMALLEST_DISTANCE_A:
            raise ValueError(
                f"its cell vector {name} is {lengths[axis]:.3g} Å long, so every atom overlaps "
                "its own image; check the unit (Å)"
            )
    whole = np.asarray(complete_cell(cell))  # type: ignore[no-untyped-call]
    if abs(np.linalg.det(whole)) < 1e-6 * np.prod(np.linalg.norm(whole, axis=1)):
        raise ValueError(f"its cell vectors span no volume: {cell.tolist()}")
    return whole


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
    return _state(
        numbers=np.array([atom.element.atomic_number for atom in atoms]),
        masses=None,
        labels=tuple(str(atom) for atom in atoms),
        names=tuple(atom.name for atom in atoms),
        positions=positions,
        velocities=np.zeros_like(positions),
        cell=cell,
        pbc=(cell is not None,) * 3,
    )


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


def _state(
    *,
    numbers: np.ndarray,
    masses: np.ndarray | None,
    labels: tuple[str, ...],
    names: tuple[str, ...],
    positions: np.ndarray,
    velocities: np.ndarray,
    cell: np.ndarray | None,
    pbc: tuple[bool, bool, bool],
) -> State:
    """Make the state, with bonds; masses of None are the standard ones."""
    z = torch.as_tensor(numbers.astype(np.int64))
    x = torch.as_tensor(positions.astype(np.float64))
    v = torch.as_tensor(velocities.astype(np.float64))
    box = None if cell is None else torch.as_tensor(cell.astype(np.float64))
    plain = Molecule.from_numbers(z, names=names, pbc=pbc)
    mass = plain.masses if masses is None else torch.as_tensor(masses.astype(np.float64))
    # The state checks that all numbers are finite, before distances are taken of them.
    State(plain, x[None], v[None], 0.0, None if box is None else box[None])
    check_overlap(x, labels, cell=box, pbc=pbc)
    bonds = guess_bonds(z, x, cell=box, pbc=pbc)
    molecule = Molecule(z, mass, bonds, names, pbc)
    return State(molecule, x[None], v[None], 0.0, None if box is None else box[None])
