"""The data of the N-body benchmark: from a file, or simulated.

A frame is 0.1 units of time, and of each trajectory frames 30 to 40 are kept. The file
`nbody_charged5_seed43.npz` holds the first 3000, 2000 and 2000 trajectories of the published
training, validation and test sets, made by a replay of the published generator's random stream.
Simulated data has the same distribution but other trajectories.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from egno_md.data.cache import remember
from egno_md.data.nbody_simulation import (
    STEPS_PER_FRAME,
    TIME_STEP,
    random_starts,
    simulate_charges,
)

FILE_NAME: Final = "nbody_charged5_seed43.npz"
#: Frames kept of each trajectory, as numbered in the published sets.
FRAMES: Final = tuple(range(30, 41))
#: Time between frames.
FRAME_TIME: Final = TIME_STEP * STEPS_PER_FRAME
#: Our names of the splits, the file's, and the published numbers of trajectories.
SPLIT_SIZES: Final[Mapping[str, tuple[str, int]]] = {
    "training": ("train", 3000),
    "validation": ("valid", 2000),
    "test": ("test", 2000),
}


@dataclass(frozen=True, slots=True, eq=False)
class NBodyTrajectories:
    """Trajectories of one split.

    Attributes:
        positions: `(n, 11, n_particles, 3)` float32, frames 30 to 40.
        velocities: same shape, float32.
        charges: `(n, n_particles)` float32, each 1 or -1.
    """

    positions: Tensor
    velocities: Tensor
    charges: Tensor

    def __post_init__(self) -> None:
        """Check shapes and numbers.

        Raises:
            ValueError: naming what is wrong.
        """
        shape = tuple(self.positions.shape)
        if len(shape) != 4 or shape[1] != len(FRAMES) or shape[3] != 3 or 0 in shape:
            raise ValueError(f"positions must be (n, {len(FRAMES)}, n_particles, 3), got {shape}")
        if tuple(self.velocities.shape) != shape:
            raise ValueError(f"velocities have shape {tuple(self.velocities.shape)}, not {shape}")
        if tuple(self.charges.shape) != (shape[0], shape[2]):
            raise ValueError(
                f"charges must have shape {(shape[0], shape[2])}, got {tuple(self.charges.shape)}"
            )
        for name in ("positions", "velocities"):
            if not bool(torch.isfinite(getattr(self, name)).all()):
                raise ValueError(f"{name} has numbers that are not finite")
        if not bool((self.charges.abs() == 1).all()):
            raise ValueError("charges must be 1 or -1")


NBodySplits = dict[str, NBodyTrajectories]


def find_nbody_file(data: str | Path) -> Path:
    """Find the file: itself, in the folder, or in the folder's `nbody`.

    Args:
        data: file or folder.

    Raises:
        FileNotFoundError: saying where it was looked for.
    """
    given = Path(data)
    places = (given, given / FILE_NAME, given / "nbody" / FILE_NAME)
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"no N-body data at {', '.join(map(str, places))}; give the file or its folder, or "
        "leave the data out to simulate it"
    )


def read_nbody(path: str | Path) -> NBodySplits:
    """Read the three splits.

    Args:
        path: an npz file with arrays `train_positions`, `valid_velocities`, `test_charges` and
            so on, and `frames`.

    Returns:
        "training", "validation" and "test".

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            frames = tuple(int(k) for k in file["frames"])
            arrays = {
                split: [
                    torch.from_numpy(np.asarray(file[f"{word}_{part}"], dtype=np.float32))
                    for part in ("positions", "velocities", "charges")
                ]
                for split, (word, _) in SPLIT_SIZES.items()
            }
    except (zipfile.BadZipFile, KeyError, TypeError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is not an N-body file: {error}") from error
    if frames != FRAMES:
        raise ValueError(f"{path} has frames {frames}, needed are {FRAMES}")
    try:
        return {split: NBodyTrajectories(*parts) for split, parts in arrays.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def simulate_nbody(
    seed: int,
    folder: Path | None = None,
    sizes: Mapping[str, int] | None = None,
    n_particles: int = 5,
) -> NBodySplits:
    """Simulate the three splits; they share no trajectory.

    Args:
        seed: of the starts.
        folder: where to keep what was made; None keeps nothing.
        sizes: trajectories per split; None takes the published numbers.
        n_particles: particles of a trajectory.

    Returns:
        "training", "validation" and "test".
    """
    counts = dict(sizes or {split: count for split, (_, count) in SPLIT_SIZES.items()})

    def make() -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        start = random_starts(sum(counts.values()), n_particles, generator)
        # The published frame k is step 100 (k + 1).
        x, v = simulate_charges(*start, len(FRAMES), first_frame=FRAMES[0] + 1)
        return {"positions": x.float(), "velocities": v.float(), "charges": start[2].float()}

    description = {"seed": seed, "sizes": list(counts.values()), "n_particles": n_particles}
    made = remember(folder, "nbody", description, make)
    ends = torch.tensor([0, *counts.values()]).cumsum(0).tolist()
    return {
        split: NBodyTrajectories(
            *(made[name][first:end] for name in ("positions", "velocities", "charges"))
        )
        for split, first, end in zip(counts, ends[:-1], ends[1:], strict=True)
    }
