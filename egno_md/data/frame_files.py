"""Reads and writes files of labelled frames: npz and anything ASE reads (extxyz).

Units. A file of numbers does not say what they mean, and MD17-like files come in both
kcal/mol and eV under the same keys, so the unit is never guessed:

| file | energy unit |
|---|---|
| npz with a field `energy_unit` or `e_unit` (this library, sGDML) | as that field says |
| npz with keys `nuclear_charges, coords, energies, forces` (revised MD17) | kcal/mol |
| any other npz, such as `z, R, E, F` (MD17) | must be given |
| extxyz and other ASE formats | eV, as ASE defines |

A unit given by the caller wins, unless the file says another: that is an error. Lengths are
Å; a field `r_unit` that says otherwise is refused. Stresses: `egno_md.data.stress_labels`.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from egno_md.data.frames import LabelledFrames
from egno_md.data.stress_labels import STRESS_KEYS, stress_from_ase, stress_from_fields
from egno_md.units import KCAL_PER_MOL

#: Accepted names of energy units, and their size in eV.
ENERGY_UNITS: dict[str, float] = {"eV": 1.0, "kcal/mol": KCAL_PER_MOL}

_SETS_OF_KEYS: tuple[tuple[tuple[str, str, str, str], str | None], ...] = (
    (("numbers", "positions", "energies", "forces"), None),
    (("z", "R", "E", "F"), None),
    (("nuclear_charges", "coords", "energies", "forces"), "kcal/mol"),
    (("numbers", "pos", "energy", "forces"), None),
)


def load_frames(path: str | Path, energy_unit: str | None = None) -> LabelledFrames:
    """Read labelled frames.

    Args:
        path: an npz file, or a file ASE reads whose frames have energies and forces.
        energy_unit: "eV" or "kcal/mol"; None takes what the file or its kind says.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not of labelled frames, or its unit is not known.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}")
    if energy_unit is not None and energy_unit not in ENERGY_UNITS:
        raise ValueError(
            f"energy unit {energy_unit!r} is not known; allowed are {', '.join(ENERGY_UNITS)}"
        )
    if file.suffix == ".npz":
        return _from_npz(file, energy_unit)
    if energy_unit not in (None, "eV"):
        raise ValueError(f"{file}: ASE formats are in eV, not in {energy_unit}")
    return _from_ase(file)


def save_frames(path: str | Path, frames: LabelledFrames) -> None:
    """Write labelled frames to an npz file that says its own units.

    Args:
        path: the file, ending in .npz.
        frames: what to write.
    """
    fields: dict[str, Any] = {
        "numbers": frames.numbers.numpy(),
        "positions": frames.positions.numpy(),
        "energies": frames.energies.numpy(),
        "forces": frames.forces.numpy(),
        "ptr": frames.ptr.numpy(),
        "energy_unit": np.array("eV"),
    }
    for name in ("cell", "pbc", "trajectory", "stress"):
        values = getattr(frames, name)
        if values is not None:
            fields[name] = values.numpy()
    with Path(path).open("wb") as handle:
        np.savez(handle, **fields)


def _from_npz(file: Path, energy_unit: str | None) -> LabelledFrames:
    fields = _read_npz(file)
    known = [entry for entry in _SETS_OF_KEYS if all(key in fields for key in entry[0])]
    if not known:
        wanted = " or ".join("(" + ", ".join(keys) + ")" for keys, _ in _SETS_OF_KEYS)
        raise ValueError(f"{file}: has fields {', '.join(sorted(fields))}; needed are {wanted}")
    keys, usual_unit = known[0]
    unit = ENERGY_UNITS[_unit(file, fields, energy_unit, usual_unit)]
    numbers, positions, energies, forces = (_tensor(file, key, fields[key]) for key in keys)
    energies = energies.flatten() * unit
    forces = forces * unit
    numbers = numbers.to(torch.int64)
    cell = _tensor(file, "cell", fields["cell"]) if "cell" in fields else None
    pbc = torch.as_tensor(fields["pbc"]).to(torch.bool) if "pbc" in fields else None
    if cell is not None and pbc is None:
        pbc = torch.ones((len(cell), 3), dtype=torch.bool)
    stress = stress_from_fields(file, fields, unit)
    if "ptr" not in fields:
        return LabelledFrames.stack(
            numbers,
            positions,
            energies,
            forces,
            source=str(file),
            cell=cell,
            pbc=pbc,
            stress=stress,
        )
    return LabelledFrames(
        numbers,
        positions,
        energies,
        forces,
        _tensor(file, "ptr", fields["ptr"]).to(torch.int64),
        cell=cell,
        pbc=pbc,
        trajectory=_tensor(file, "trajectory", fields["trajectory"]).to(torch.int64)
        if "trajectory" in fields
        else None,
        source=str(file),
        stress=stress,
    )


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    wanted = {key for keys, _ in _SETS_OF_KEYS for key in keys}
    wanted |= {"ptr", "cell", "pbc", "trajectory", "energy_unit", "e_unit", "r_unit"}
    wanted |= set(STRESS_KEYS)
    try:
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            present = list(archive.files)
            fields = {key: archive[key] for key in present if key in wanted}
    except (zipfile.BadZipFile, ValueError, EOFError, AttributeError) as error:
        raise ValueError(f"{file}: not a readable npz file of numbers ({error})") from error
    return fields or {key: np.zeros(0) for key in present}


def _unit(file: Path, fields: dict[str, np.ndarray], given: str | None, usual: str | None) -> str:
    length = _word(fields.get("r_unit"))
    if length not in (None, "Ang", "A", "Å", "angstrom", "Angstrom"):
        raise ValueError(f"{file}: lengths are in {length!r} by its field r_unit; only Å is read")
    said = _word(fields.get("energy_unit", fields.get("e_unit")))
    if said is not None and said not in ENERGY_UNITS:
        raise ValueError(
            f"{file}: its energy unit {said!r} is not known; allowed are {', '.join(ENERGY_UNITS)}"
        )
    if said is not None and given is not None and said != given:
        raise ValueError(f"{file}: the energy unit was given as {given} but the file says {said}")
    unit = given or said or usual
    if unit is None:
        raise ValueError(
            f"{file}: its energy unit is not known; give it: {' or '.join(ENERGY_UNITS)} "
            "(forces in that unit per Å)"
        )
    return unit


def _word(field: np.ndarray | None) -> str | None:
    if field is None:
        return None
    word = field.item() if field.size == 1 else ""
    return word.decode() if isinstance(word, bytes) else str(word)


def _tensor(file: Path, name: str, values: np.ndarray) -> Tensor:
    if values.dtype.kind not in "iuf":
        raise ValueError(f"{file}: {name} holds {values.dtype}, not numbers")
    if values.dtype.kind == "f":
        return torch.from_numpy(values.astype(np.float64))
    return torch.from_numpy(values.astype(np.int64)).to(
        torch.float64 if name in {"R", "E", "F", "energies", "forces", "cell"} else torch.int64
    )


def _from_ase(file: Path) -> LabelledFrames:
    from ase.calculators.calculator import PropertyNotImplementedError
    from ase.io import read
    from ase.io.formats import UnknownFileTypeError

    try:
        images = read(file, index=":")
    except (UnknownFileTypeError, ValueError, KeyError, IndexError, StopIteration) as error:
        raise ValueError(f"{file}: ASE cannot read it ({error})") from error
    if not images:
        raise ValueError(f"{file}: no frames; at least one is needed")
    energies, forces = [], []
    for k, atoms in enumerate(images):
        try:
            energies.append(float(atoms.get_potential_energy()))
            forces.append(atoms.get_forces(apply_constraint=False))
        except (RuntimeError, PropertyNotImplementedError) as error:
            raise ValueError(f"{file}: frame {k} has no energy or no forces") from error
    sizes = torch.tensor([0] + [len(atoms) for atoms in images])
    periodic = any(bool(atoms.pbc.any()) for atoms in images)
    return LabelledFrames(
        torch.from_numpy(np.concatenate([a.numbers for a in images]).astype(np.int64)),
        torch.from_numpy(np.concatenate([a.positions for a in images]).astype(np.float64)),
        torch.tensor(energies, dtype=torch.float64),
        torch.from_numpy(np.concatenate(forces).astype(np.float64)),
        sizes.cumsum(0),
        cell=torch.tensor(np.stack([a.cell.array for a in images])) if periodic else None,
        pbc=torch.tensor(np.stack([a.pbc for a in images])) if periodic else None,
        source=str(file),
        stress=stress_from_ase(list(images)) if periodic else None,
    )
