"""Windows of trajectories: where a molecule was, and where it went.

A window is what a segment model learns from: a start with velocities and the frames that
truly followed it. Velocities are never made up by differences of positions: a file without
them is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egno_md.data.cache import read_tensors, write_tensors
from egno_md.segment import MadeBy, Segment
from egno_md.state import Molecule, State

#: Fields with one entry per window.
_COLUMNS = (
    "positions0",
    "velocities0",
    "positions",
    "velocities",
    "energies0",
    "energies",
    "trajectory",
    "begins_fs",
    "cell",
)


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Starts and the frames that followed them, checked at birth.

    Attributes:
        molecule: the fixed part.
        positions0: `(n_windows, n_atoms, 3)` float64, Å, the starts.
        velocities0: same shape, Å/fs.
        times_fs: `(n_frames,)` float64, times after the start, increasing from above 0.
        positions: `(n_windows, n_frames, n_atoms, 3)` float64, Å.
        velocities: same shape, Å/fs.
        energies0: `(n_windows,)` float64, potential energy at the start, eV, NaN if unknown.
        energies: `(n_windows, n_frames)` float64, eV, NaN where unknown.
        trajectory: `(n_windows,)` int64, which trajectory a window comes from.
        begins_fs: `(n_windows,)` float64, time of the start in its trajectory.
        cell: `(n_windows, 3, 3)` float64, Å, rows are cell vectors, the same in all frames of a
            window; None without periodicity.
        source: where they come from.
    """

    molecule: Molecule
    positions0: Tensor
    velocities0: Tensor
    times_fs: Tensor
    positions: Tensor
    velocities: Tensor
    energies0: Tensor | None = None
    energies: Tensor | None = None
    trajectory: Tensor | None = None
    begins_fs: Tensor | None = None
    cell: Tensor | None = None
    source: str = "windows"

    def __post_init__(self) -> None:
        """Check shapes and that every number is finite; fill what is unknown.

        Raises:
            ValueError: naming the source, the field and the window that is wrong.
        """
        n, f, atoms = self.positions0.shape[0], self.times_fs.shape[0], self.molecule.n_atoms
        nan = float("nan")
        fill = {
            "energies0": torch.full((n,), nan, dtype=torch.float64),
            "energies": torch.full((n, f), nan, dtype=torch.float64),
            "trajectory": torch.zeros(n, dtype=torch.int64),
            "begins_fs": torch.arange(n, dtype=torch.float64),
        }
        for name, values in fill.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, values)
            elif getattr(self, name).shape != values.shape:
                raise ValueError(
                    f"{self.source}: {name} must have shape {tuple(values.shape)}, "
                    f"got {tuple(getattr(self, name).shape)}"
                )
        if n < 1 or f < 1:
            raise ValueError(f"{self.source}: no windows; at least one with one frame is needed")
        steps = torch.diff(self.times_fs, prepend=torch.zeros(1, dtype=self.times_fs.dtype))
        if bool((steps <= 0).any()):
            raise ValueError(f"{self.source}: times_fs must rise from above 0")
        for name in ("positions0", "velocities0", "positions", "velocities"):
            values = getattr(self, name)
            shape = (n, atoms, 3) if name.endswith("0") else (n, f, atoms, 3)
            if tuple(values.shape) != shape:
                raise ValueError(
                    f"{self.source}: {name} must have shape {shape}, got {tuple(values.shape)}"
                )
            bad = (~torch.isfinite(values)).flatten(1).any(1).nonzero()
            if len(bad):
                raise ValueError(f"{self.source}: {name} of window {int(bad[0])} are not finite")
        if (self.cell is None) == any(self.molecule.pbc):
            raise ValueError(f"{self.source}: a cell is for periodic systems, and needed there")
        self.starts()  # checks the cell

    @property
    def n_windows(self) -> int:
        """Number of windows."""
        return int(self.positions0.shape[0])

    @property
    def n_frames(self) -> int:
        """Frames of a window."""
        return int(self.times_fs.shape[0])

    def select(self, windows: Tensor | Sequence[int]) -> Windows:
        """Return some windows.

        Args:
            windows: indices `(k,)`, or a boolean mask `(n_windows,)`.
        """
        index = torch.as_tensor(windows)
        columns = ((name, getattr(self, name)) for name in _COLUMNS)
        picked: dict[str, Any] = {n: None if c is None else c[index] for n, c in columns}
        return replace(self, **picked)

    def upto(self, n_frames: int) -> Windows:
        """Return the windows cut after their first `n_frames` frames."""
        energies = self.energies
        return replace(
            self,
            times_fs=self.times_fs[:n_frames],
            positions=self.positions[:, :n_frames],
            velocities=self.velocities[:, :n_frames],
            energies=None if energies is None else energies[:, :n_frames],
        )

    def sha256(self) -> str:
        """Hash of the atoms, starts and frames, whatever file they came from."""
        digest = hashlib.sha256()
        for values in (
            self.molecule.numbers,
            self.positions0,
            self.velocities0,
            self.times_fs,
            self.positions,
            self.velocities,
            *(() if self.cell is None else (self.cell,)),
        ):
            digest.update(values.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def labels(self) -> Tensor:
        """Trajectory of each window, `(n_windows,)` int64."""
        unknown = torch.zeros(self.n_windows, dtype=torch.int64)
        return unknown if self.trajectory is None else self.trajectory

    def in_time_order(self) -> Windows:
        """The same windows, those of all trajectories that begin first coming first.

        Cut into blocks, they keep windows of one time together, so that replicas with a
        common start do not face each other across sets.
        """
        if self.begins_fs is None:
            return self
        return self.select(torch.argsort(self.begins_fs, stable=True))

    def starts(self) -> State:
        """The starts as one state, a replica per window."""
        return State(self.molecule, self.positions0, self.velocities0, 0.0, self.cell)

    def segment(self) -> Segment:
        """The frames after the starts as one segment, a replica per window."""
        made_by = torch.full(self.positions.shape[:2], int(MadeBy.INTEGRATOR), dtype=torch.int8)
        return Segment(
            self.molecule, self.times_fs, self.positions, self.velocities, made_by, cell=self.cell
        )

    @staticmethod
    def join(parts: Sequence[Windows], source: str | None = None) -> Windows:
        """Join windows of the same molecule and times; trajectories stay apart.

        Args:
            parts: at least one.
            source: where they come from; that of the first when None.

        Raises:
            ValueError: if molecule or times differ.
        """
        first = parts[0]
        for part in parts[1:]:
            same = torch.equal(part.molecule.numbers, first.molecule.numbers)
            if not same or part.molecule.pbc != first.molecule.pbc:
                raise ValueError(f"{part.source} and {first.source} hold different molecules")
            if part.times_fs.shape != first.times_fs.shape or not torch.allclose(
                part.times_fs, first.times_fs
            ):
                raise ValueError(f"{part.source} and {first.source} have different frame times")
        offset, trajectories = 0, []
        for part in parts:
            labels = part.trajectory if part.trajectory is not None else torch.zeros(0).long()
            trajectories.append(labels + offset)
            offset = int(trajectories[-1].max()) + 1
        columns = [
            {name: getattr(part, name) for name in _COLUMNS if getattr(part, name) is not None}
            | {"trajectory": labels}
            for part, labels in zip(parts, trajectories, strict=True)
        ]
        joined: dict[str, Any] = {
            name: torch.cat([column[name] for column in columns]) for name in columns[0]
        }
        return replace(first, **joined, source=source or first.source)

    def tensors(self) -> dict[str, Tensor]:
        """Everything as named tensors, for `from_tensors`."""
        parts: dict[str, Tensor | None] = {
            "numbers": self.molecule.numbers,
            "masses": self.molecule.masses,
            "bonds": self.molecule.bonds,
            "positions0": self.positions0,
            "velocities0": self.velocities0,
            "times_fs": self.times_fs,
            "positions": self.positions,
            "velocities": self.velocities,
            "energies0": self.energies0,
            "energies": self.energies,
            "trajectory": self.trajectory,
            "begins_fs": self.begins_fs,
            "cell": self.cell,
            "pbc": torch.tensor(self.molecule.pbc) if any(self.molecule.pbc) else None,
        }
        return {name: values for name, values in parts.items() if values is not None}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], source: str) -> Windows:
        """Make windows of what `tensors` gave.

        Args:
            tensors: named as the fields; `numbers`, `masses`, `bonds` give the molecule.
            source: where they come from.

        Raises:
            ValueError: if a field is missing or wrong.
        """
        rest: dict[str, Any] = dict(tensors)
        try:
            a, b, c = rest.pop("pbc", torch.zeros(3, dtype=torch.bool)).tolist()
            molecule = Molecule(
                rest.pop("numbers"), rest.pop("masses"), rest.pop("bonds"), pbc=(a, b, c)
            )
            return cls(molecule, source=source, **rest)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{source}: not a file of windows ({error})") from error


def save_windows(path: Path, windows: Windows) -> None:
    """Write windows to a safetensors file.

    Args:
        path: the file.
        windows: what to write.
    """
    write_tensors(path, windows.tensors(), {"content": "windows", "source": windows.source})


def load_windows(path: Path) -> Windows:
    """Read windows from a safetensors file.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no windows.
    """
    tensors, notes = read_tensors(path)
    if notes.get("content") != "windows":
        raise ValueError(f"{path} holds no windows")
    return Windows.from_tensors(tensors, str(path))
