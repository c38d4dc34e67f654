"""MD17 trajectories, and the starts of the published EGNO benchmark in them.

MD17 (Chmiela et al. 2017, doi:10.1126/sciadv.1603015) holds one long trajectory per molecule,
a frame every 0.5 fs, in files `md17_<molecule>.npz`:

| key | content |
|---|---|
| `z` | `(n_atoms,)` atomic numbers |
| `R` | `(n_frames, n_atoms, 3)` positions, Å |
| `E` | `(n_frames,)` or `(n_frames, 1)` energies, kcal/mol; may be missing |
| `F` | shape of `R`, forces, kcal/mol/Å; may be missing |

The EGNO benchmark takes a start `x(t)`, as its velocity the step `x(t + 1) - x(t)` to the next
frame, and asks for `P` later frames at equal intervals, `P times stride` frames in all.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from egno_md.bonds import guess_bonds
from egno_md.state import Molecule
from egno_md.units import KCAL_PER_MOL

#: Time between two frames of MD17.
FRAME_FS: Final = 0.5

#: Splits of the benchmark and how many starts of each it uses.
N_STARTS: Final = {"train": 500, "val": 2000, "test": 2000}

#: Time points, and frames between two of them, as published: 3000 frames in all.
N_POINTS: Final = 8
STRIDE: Final = 375

#: Frames left out at both ends by the published splits.
_MARGIN: Final = 10_000

#: Consecutive frames are 0.005 to 0.02 Å apart; shuffled ones about 1 Å.
_FAR_APART_A: Final = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class MD17Trajectory:
    """One MD17 file.

    Attributes:
        molecule: the atoms; bonds are guessed from the first frame.
        positions: `(n_frames, n_atoms, 3)` float64, Å, one frame every 0.5 fs.
        energies: `(n_frames,)` float64, eV, or None if the file has none.
        forces: shape of the positions, eV/Å, or None.
        source: the file.
    """

    molecule: Molecule
    positions: Tensor
    energies: Tensor | None
    forces: Tensor | None
    source: str

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return int(self.positions.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class PositionWindows:
    """Starts of the benchmark and the positions that followed.

    Attributes:
        molecule: the atoms.
        positions0: `(n, n_atoms, 3)` float64, Å.
        steps0: same shape, Å: the step to the next frame, 0.5 fs later.
        positions: `(n, n_points, n_atoms, 3)` float64, Å, at equal intervals after the start.
        stride: frames of 0.5 fs between these.
        source: where they come from.
    """

    molecule: Molecule
    positions0: Tensor
    steps0: Tensor
    positions: Tensor
    stride: int
    source: str

    def heavy(self) -> PositionWindows:
        """The same without hydrogen, as the benchmark has it.

        Raises:
            ValueError: if nothing but hydrogen is there.
        """
        z = self.molecule.numbers
        kept = (z > 1).nonzero()[:, 0]
        if not len(kept):
            raise ValueError(f"{self.source}: the molecule has no atom heavier than hydrogen")
        row = torch.full((len(z),), -1, dtype=torch.int64)
        row[kept] = torch.arange(len(kept))
        bonds = row[self.molecule.bonds]
        bonds = bonds[(bonds >= 0).all(1)]
        return replace(
            self,
            molecule=Molecule(z[kept], self.molecule.masses[kept], bonds),
            positions0=self.positions0[:, kept],
            steps0=self.steps0[:, kept],
            positions=self.positions[:, :, kept],
        )

    def sha256(self) -> str:
        """Hash of atoms, starts and what followed."""
        digest = hashlib.sha256()
        for values in (self.molecule.numbers, self.positions0, self.steps0, self.positions):
            digest.update(values.contiguous().numpy().tobytes())
        return digest.hexdigest()


def read_md17(path: str | Path) -> MD17Trajectory:
    """Read an original MD17 file.

    Args:
        path: `md17_<molecule>.npz`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a whole MD17 trajectory: keys, shapes, numbers that are not
            finite, or frames that do not follow one another.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}")
    fields = _fields(file)
    numbers = fields["z"].astype(np.int64).flatten()
    positions = _floats(file, "R", fields["R"])
    if positions.ndim != 3 or positions.shape[1:] != (len(numbers), 3) or len(positions) < 2:
        raise ValueError(
            f"{file}: R has shape {positions.shape}; {len(numbers)} atoms (z) need "
            f"(n_frames, {len(numbers)}, 3) with at least two frames"
        )
    _check_contiguous(file, positions)
    energies, forces = None, None
    if "E" in fields:
        energies = _floats(file, "E", fields["E"]).reshape(-1)
        if energies.shape != (len(positions),):
            raise ValueError(f"{file}: {len(energies)} energies (E) for {len(positions)} frames")
    if "F" in fields:
        forces = _floats(file, "F", fields["F"])
        if forces.shape != positions.shape:
            raise ValueError(f"{file}: F has shape {forces.shape}, R {positions.shape}")
    x, z = torch.from_numpy(positions), torch.from_numpy(numbers)
    return MD17Trajectory(
        Molecule.from_numbers(z, bonds=guess_bonds(z, x[0])),
        x,
        None if energies is None else torch.from_numpy(energies * KCAL_PER_MOL),
        None if forces is None else torch.from_numpy(forces * KCAL_PER_MOL),
        str(file),
    )


def published_starts(path: str | Path, molecule: str, n_frames: int) -> dict[str, Tensor]:
    """Read the published start frames: keys `<molecule>_train`, `_val` and `_test`.

    Args:
        path: npz file of the start frames of all molecules.
        molecule: name, as in the keys.
        n_frames: frames of the trajectory that they are for.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has no such molecule, or names frames the trajectory does not have.
    """
    with np.load(path, allow_pickle=False) as archive:
        known = sorted({key.rsplit("_", 1)[0] for key in archive.files if key.endswith("_train")})
        if molecule not in known:
            raise ValueError(f"{path} has no starts for {molecule}; it has {', '.join(known)}")
        starts = {
            part: torch.from_numpy(archive[f"{molecule}_{part}"].astype(np.int64))
            for part in N_STARTS
        }
    last = max(int(rows.max()) for rows in starts.values()) + N_POINTS * STRIDE
    if last >= n_frames:
        raise ValueError(
            f"{path} names frames up to {last} of {molecule}, the trajectory has {n_frames}; "
            "the published starts are for the original, whole MD17 file"
        )
    return starts


def random_starts(
    n_frames: int, seed: int, n_starts: Mapping[str, int] = N_STARTS
) -> dict[str, Tensor]:
    """Draw starts as published: 10, 5 and 5 % of the frames, and the first few of each.

    Starts of all splits lie in one trajectory, side by side, as in the published benchmark.

    Args:
        n_frames: frames of the trajectory.
        seed: seed of the permutation.
        n_starts: how many of each split.

    Raises:
        ValueError: if the trajectory is too short.
    """
    inner = n_frames - 2 * _MARGIN
    shares = {part: inner // 10 if part == "train" else inner // 20 for part in n_starts}
    wanted = max(n * (10 if part == "train" else 20) for part, n in n_starts.items())
    if inner < wanted:
        raise ValueError(
            f"the trajectory has {n_frames} frames; the published protocol needs at least "
            f"{wanted + 2 * _MARGIN}"
        )
    generator = torch.Generator().manual_seed(seed)
    order = _MARGIN + torch.randperm(inner, generator=generator)
    starts, first = {}, 0
    for part, share in shares.items():
        starts[part] = order[first : first + n_starts[part]]
        first += share
    return starts


def windows_at(
    trajectory: MD17Trajectory, starts: Tensor, *, n_points: int = N_POINTS, stride: int = STRIDE
) -> PositionWindows:
    """Cut the windows that begin at some frames.

    Args:
        trajectory: the trajectory.
        starts: `(n,)` int64, frames to start from.
        n_points: time points.
        stride: frames between them.

    Raises:
        ValueError: naming the start whose window leaves the trajectory.
    """
    outside = ((starts < 0) | (starts + n_points * stride >= trajectory.n_frames)).nonzero()
    if len(outside):
        raise ValueError(
            f"{trajectory.source}: a window of {n_points * stride} frames from frame "
            f"{int(starts[outside[0, 0]])} leaves the {trajectory.n_frames} frames"
        )
    x = trajectory.positions
    follow = starts[:, None] + stride * torch.arange(1, n_points + 1)
    return PositionWindows(
        trajectory.molecule,
        x[starts],
        x[starts + 1] - x[starts],
        x[follow],
        stride,
        trajectory.source,
    )


def _fields(file: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            present = list(archive.files)
            fields = {key: archive[key] for key in ("z", "R", "E", "F") if key in present}
    except (zipfile.BadZipFile, ValueError, EOFError, AttributeError) as error:
        raise ValueError(f"{file}: not a readable npz file of numbers ({error})") from error
    if missing := [key for key in ("z", "R") if key not in fields]:
        revised = (
            " (revised MD17 holds shuffled frames, no trajectory)" if "coords" in present else ""
        )
        raise ValueError(
            f"{file}: has no field {missing[0]}, but {', '.join(sorted(present))}; an MD17 file "
            f"has z, R and often E, F{revised}"
        )
    return fields


def _floats(file: Path, name: str, values: NDArray[np.generic]) -> NDArray[np.float64]:
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{file}: {name} holds {values.dtype}, not numbers")
    numbers = np.ascontiguousarray(values, dtype=np.float64)
    finite = np.isfinite(numbers.reshape(len(numbers), -1)).all(1)
    if not finite.all():
        raise ValueError(f"{file}: {name} of frame {int(np.argmin(finite))} is not finite")
    return numbers


def _check_contiguous(file: Path, positions: NDArray[np.float64]) -> None:
    """Refuse frames that do not follow one another, as in samples and shuffled sets."""
    for first in range(0, len(positions) - 1, 10_000):
        block = positions[first : first + 10_001]
        step = np.sqrt(np.square(np.diff(block, axis=0)).sum(-1).mean(-1))
        if step.max() > _FAR_APART_A:
            k = first + int(step.argmax())
            raise ValueError(
                f"{file}: frames {k} and {k + 1} are {step.max():.3g} Å apart (rms over atoms); "
                f"in a trajectory with a frame every {FRAME_FS} fs it is at most {_FAR_APART_A}. "
                "This is a sample of frames, not the trajectory that the benchmark needs"
            )
