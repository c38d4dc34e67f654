"""Stresses in files of labelled frames.

Inside the library a stress is dE/d(strain) over the volume, in eV/Å^3: tension is positive, a
compressed cell has a negative diagonal, as in ASE. Files differ:

| field | shape | unit | sign | order |
|---|---|---|---|---|
| `stress` in npz | `(n_frames, 3, 3)` | the file's energy unit per Å^3 | as above | matrix |
| `virial_stress` in npz (mlearn) | `(n_frames, 6)` | kBar | opposite, as in VASP | see below |
| extxyz and other ASE formats | as ASE gives it | eV/Å^3 | as above | matrix |

The order of `virial_stress` is xx, yy, zz and then, as the sheared cells of each element show, in
which only the component of the strained plane answers:

| element | order |
|---|---|
| Li, Si | xy, yz, xz, as in VASP |
| Mo, Cu, Ni | xy, xz, yz |

Of other elements it is not known, and they are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from egno_md.units import GPA

#: Fields of npz files that hold stresses; a file has one of them at most.
STRESS_KEYS: Final = ("stress", "virial_stress")

#: Where component (a, b) of the matrix stands among xx, yy, zz and three others.
_PLACES_VASP: Final = ((0, 3, 5), (3, 1, 4), (5, 4, 2))
_PLACES_SORTED: Final = ((0, 3, 4), (3, 1, 5), (4, 5, 2))

#: The places of mlearn's files, by atomic number.
_PLACES_OF: Final[Mapping[int, tuple[tuple[int, ...], ...]]] = {
    3: _PLACES_VASP,
    14: _PLACES_VASP,
    28: _PLACES_SORTED,
    29: _PLACES_SORTED,
    42: _PLACES_SORTED,
}


def stress_from_fields(
    file: Path, fields: Mapping[str, np.ndarray], energy_unit_eV: float
) -> Tensor | None:
    """Read the stresses of an npz file.

    Args:
        file: named in errors.
        fields: its arrays.
        energy_unit_eV: the file's energy unit, eV.

    Returns:
        `(n_frames, 3, 3)` float64, eV/Å^3, or None if there are none.

    Raises:
        ValueError: if it has two kinds of stress, one of a wrong shape, or one whose order is not
            known.
    """
    present = [key for key in STRESS_KEYS if key in fields]
    if not present:
        return None
    if len(present) > 1:
        raise ValueError(f"{file}: has both {present[0]} and {present[1]}; keep one of them")
    (key,) = present
    values = fields[key]
    shape = (3, 3) if key == "stress" else (6,)
    if values.dtype.kind != "f" or values.shape[1:] != shape:
        raise ValueError(
            f"{file}: {key} must be real numbers of shape (n_frames, "
            f"{', '.join(map(str, shape))}), got {values.dtype} of shape {values.shape}"
        )
    found = torch.from_numpy(values.astype(np.float64))
    if key == "stress":
        return found * energy_unit_eV
    # 1 kBar is 0.1 GPa; VASP counts compression as positive.
    return -0.1 * GPA * found[:, _places(file, fields)]


def _places(file: Path, fields: Mapping[str, np.ndarray]) -> Tensor:
    """Which component of `virial_stress` stands where in the matrix, `(3, 3)`."""
    numbers = fields.get("numbers", fields.get("z"))
    elements = [] if numbers is None else [int(z) for z in np.unique(numbers)]
    if len(elements) != 1 or elements[0] not in _PLACES_OF:
        raise ValueError(
            f"{file}: the order of virial_stress is known for mlearn's files of Li, Si, Ni, Cu and "
            f"Mo, each alone; this one has atomic numbers {elements}. Give matrices (n_frames, 3, "
            "3) as field stress instead, in the energy unit per Å^3, tension positive"
        )
    return torch.tensor(_PLACES_OF[elements[0]])


def stress_from_ase(images: Sequence[Any]) -> Tensor | None:
    """Stresses of ASE's atoms, where all of them have one.

    Args:
        images: `ase.Atoms` with calculators.

    Returns:
        `(n_frames, 3, 3)` float64, eV/Å^3, or None if a frame has none.
    """
    from ase.calculators.calculator import PropertyNotImplementedError

    try:
        found = [
            atoms.get_stress(voigt=False, apply_constraint=False, include_ideal_gas=False)
            for atoms in images
        ]
    except (RuntimeError, PropertyNotImplementedError):
        return None
    return torch.from_numpy(np.stack(found).astype(np.float64))
