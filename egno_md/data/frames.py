"""Labelled frames: geometries with the energies, forces and stresses a potential gave them.

Frames of different molecules may stand in one set: atoms are laid end to end, and `ptr`
says where each frame begins. `dense()` gives the plain `(n_frames, n_atoms, 3)` arrays when
all frames are of one molecule. Files are read by `egno_md.data.frame_files`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from egno_md.roles import Potential
from egno_md.state import State


@dataclass(frozen=True, slots=True, eq=False)
class DenseFrames:
    """Frames of one molecule.

    Attributes:
        numbers: `(n_atoms,)` int64, atomic numbers.
        positions: `(n_frames, n_atoms, 3)` float64, Å.
        energies: `(n_frames,)` float64, eV.
        forces: `(n_frames, n_atoms, 3)` float64, eV/Å.
    """

    numbers: Tensor
    positions: Tensor
    energies: Tensor
    forces: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFrames:
    """Frames with energies and forces, checked at birth.

    Attributes:
        numbers: `(n_rows,)` int64, atomic numbers of all frames, end to end.
        positions: `(n_rows, 3)` float64, Å.
        energies: `(n_frames,)` float64, eV.
        forces: `(n_rows, 3)` float64, eV/Å.
        ptr: `(n_frames + 1,)` int64; frame k owns rows `ptr[k]` to `ptr[k + 1]`.
        cell: `(n_frames, 3, 3)` float64, Å, or None.
        pbc: `(n_frames, 3)` bool, or None.
        trajectory: `(n_frames,)` int64, which trajectory a frame comes from; frames of one
            trajectory are neighbours in time and must not be split between sets carelessly.
        source: where the frames come from, for error messages and cards.
        stress: `(n_frames, 3, 3)` float64, eV/Å^3, or None; dE/d(strain) over the volume, as in
            ASE: negative on the diagonal where the cell is compressed. Needs a cell.
    """

    numbers: Tensor
    positions: Tensor
    energies: Tensor
    forces: Tensor
    ptr: Tensor
    cell: Tensor | None = None
    pbc: Tensor | None = None
    trajectory: Tensor | None = None
    source: str = "frames"
    stress: Tensor | None = None

    def __post_init__(self) -> None:
        """Check shapes, elements and that every number is finite.

        Raises:
            ValueError: naming the source, the field and the frame that is wrong.
        """
        rows, frames = self.numbers.shape[0], self.energies.shape[0]
        if self.trajectory is None:
            object.__setattr__(self, "trajectory", torch.zeros(frames, dtype=torch.int64))
        expected: list[tuple[str, Tensor | None, tuple[int, ...], torch.dtype]] = [
            ("numbers", self.numbers, (rows,), torch.int64),
            ("positions", self.positions, (rows, 3), torch.float64),
            ("energies", self.energies, (frames,), torch.float64),
            ("forces", self.forces, (rows, 3), torch.float64),
            ("ptr", self.ptr, (frames + 1,), torch.int64),
            ("cell", self.cell, (frames, 3, 3), torch.float64),
            ("pbc", self.pbc, (frames, 3), torch.bool),
            ("trajectory", self.trajectory, (frames,), torch.int64),
            ("stress", self.stress, (frames, 3, 3), torch.float64),
        ]
        for name, values, shape, dtype in expected:
            if values is not None and (tuple(values.shape) != shape or values.dtype != dtype):
                raise ValueError(
                    f"{self.source}: {name} must be {dtype} of shape {shape}, "
                    f"got {values.dtype} of shape {tuple(values.shape)}"
                )
        self._check_ptr()
        wrong = ((self.numbers < 1) | (self.numbers > 118)).nonzero()
        if len(wrong):
            row = int(wrong[0])
            raise ValueError(
                f"{self.source}: frame {self._frame_of(row)} has atomic number "
                f"{int(self.numbers[row])}; allowed are 1 to 118"
            )
        self._check_finite()
        self._check_stress()

    def _check_ptr(self) -> None:
        ptr, rows = self.ptr, self.numbers.shape[0]
        if self.n_frames < 1:
            raise ValueError(f"{self.source}: no frames; at least one is needed")
        if int(ptr[0]) != 0 or int(ptr[-1]) != rows or bool((ptr[1:] <= ptr[:-1]).any()):
            raise ValueError(
                f"{self.source}: ptr must rise from 0 to {rows} with at least one atom per frame"
            )

    def _check_finite(self) -> None:
        for name, values in (("positions", self.positions), ("forces", self.forces)):
            bad = (~torch.isfinite(values)).any(-1).nonzero()
            if len(bad):
                row = int(bad[0])
                frame = self._frame_of(row)
                raise ValueError(
                    f"{self.source}: {name} of atom {row - int(self.ptr[frame])} in frame {frame} "
                    "are not finite; remove that frame"
                )
        unlabelled = (~torch.isfinite(self.energies)).nonzero()
        if len(unlabelled):
            raise ValueError(
                f"{self.source}: energies of frame {int(unlabelled[0])} are not finite; "
                "remove that frame"
            )

    def _check_stress(self) -> None:
        if self.stress is None:
            return
        if self.cell is None:
            raise ValueError(f"{self.source}: stresses need a cell; there is none")
        size = self.stress.abs().amax((1, 2))
        crooked = (self.stress - self.stress.mT).abs().amax((1, 2)) > 1e-6 * size
        for what, bad in (
            ("is not finite", ~torch.isfinite(size)),
            ("is not symmetric", crooked),
            ("needs a cell of three vectors", torch.linalg.det(self.cell).abs() < 1e-9),
        ):
            if bool(bad.any()):
                frame = int(bad.nonzero()[0])
                raise ValueError(
                    f"{self.source}: the stress of frame {frame} {what}; correct or remove it"
                )

    def _frame_of(self, row: int) -> int:
        return int(torch.searchsorted(self.ptr, torch.tensor(row), right=True)) - 1

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return int(self.energies.shape[0])

    @property
    def sizes(self) -> Tensor:
        """Atoms per frame, `(n_frames,)` int64."""
        return self.ptr[1:] - self.ptr[:-1]

    @property
    def one_molecule(self) -> bool:
        """Whether all frames have the same atoms in the same order."""
        first = int(self.ptr[1])
        if bool((self.sizes != first).any()):
            return False
        return bool((self.numbers.view(-1, first) == self.numbers[:first]).all())

    @property
    def elements(self) -> list[int]:
        """Atomic numbers that occur, ascending."""
        return [int(z) for z in torch.unique(self.numbers)]

    def dense(self) -> DenseFrames:
        """Return the frames of one molecule as `(n_frames, n_atoms, 3)` arrays.

        Raises:
            ValueError: if the frames are not all of one molecule.
        """
        if not self.one_molecule:
            raise ValueError(
                f"{self.source}: the frames are not all of one molecule (same atoms, same order)"
            )
        n = int(self.ptr[1])
        return DenseFrames(
            self.numbers[:n],
            self.positions.view(-1, n, 3),
            self.energies,
            self.forces.view(-1, n, 3),
        )

    def rows_of(self, frames: Tensor) -> Tensor:
        """Rows of the given frames, end to end in the order asked for.

        Args:
            frames: `(k,)` int64, frame numbers.
        """
        sizes = self.sizes[frames]
        starts = self.ptr[:-1][frames]
        before = sizes.cumsum(0) - sizes
        within = torch.arange(int(sizes.sum())) - before.repeat_interleave(sizes)
        return starts.repeat_interleave(sizes) + within

    def select(self, frames: Tensor | Sequence[int]) -> LabelledFrames:
        """Return some frames, in the order asked for.

        Args:
            frames: frame numbers `(k,)`, or a boolean mask `(n_frames,)`.
        """
        index = torch.as_tensor(frames)
        if index.dtype == torch.bool:
            index = index.nonzero()[:, 0]
        rows = self.rows_of(index)
        ends = self.sizes[index].cumsum(0)
        return replace(
            self,
            numbers=self.numbers[rows],
            positions=self.positions[rows],
            energies=self.energies[index],
            forces=self.forces[rows],
            ptr=torch.cat([ends.new_zeros(1), ends]),
            cell=None if self.cell is None else self.cell[index],
            pbc=None if self.pbc is None else self.pbc[index],
            trajectory=None if self.trajectory is None else self.trajectory[index],
            stress=None if self.stress is None else self.stress[index],
        )

    def sha256(self) -> str:
        """Hash of the atoms, geometries and labels, whatever file they came from."""
        digest = hashlib.sha256()
        for values in (self.ptr, self.numbers, self.positions, self.energies, self.forces):
            digest.update(values.contiguous().numpy().tobytes())
        for extra in (self.cell, self.pbc, self.stress):
            if extra is not None:
                digest.update(extra.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @classmethod
    def stack(
        cls,
        numbers: Tensor,
        positions: Tensor,
        energies: Tensor,
        forces: Tensor,
        *,
        trajectory: Tensor | None = None,
        source: str = "frames",
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        stress: Tensor | None = None,
    ) -> LabelledFrames:
        """Make a set of frames of one molecule.

        Args:
            numbers: `(n_atoms,)` int64.
            positions: `(n_frames, n_atoms, 3)`, Å.
            energies: `(n_frames,)`, eV.
            forces: `(n_frames, n_atoms, 3)`, eV/Å.
            trajectory: `(n_frames,)` int64, or None.
            source: where they come from.
            cell: `(n_frames, 3, 3)` float64, Å, or None.
            pbc: `(n_frames, 3)` bool, or None.
            stress: `(n_frames, 3, 3)` float64, eV/Å^3, or None.

        Raises:
            ValueError: if shapes do not fit together or a number is not finite.
        """
        n, frames = int(numbers.shape[0]), int(energies.shape[0])
        for name, values in (("positions", positions), ("forces", forces)):
            if tuple(values.shape) != (frames, n, 3):
                raise ValueError(
                    f"{source}: {name} must have shape ({frames}, {n}, 3) to go with {frames} "
                    f"energies and {n} atoms, got {tuple(values.shape)}"
                )
        return cls(
            numbers.to(torch.int64).repeat(frames),
            positions.to(torch.float64).reshape(-1, 3),
            energies.to(torch.float64),
            forces.to(torch.float64).reshape(-1, 3),
            torch.arange(frames + 1) * n,
            cell=cell,
            pbc=pbc,
            trajectory=trajectory,
            source=source,
            stress=stress,
        )

    @staticmethod
    def join(parts: Sequence[LabelledFrames]) -> LabelledFrames:
        """Join sets of frames; their trajectories stay apart, stresses stay if all have them.

        Args:
            parts: at least one, all with a cell or all without.

        Raises:
            ValueError: if some have a cell and others none.
        """
        if len(parts) == 1:
            return parts[0]
        if len({part.cell is None for part in parts}) > 1:
            raise ValueError("frames with and without a cell cannot stand in one set")
        trajectories, ends, labels, rows = [], [], 0, 0
        for part in parts:
            own = torch.zeros(0).long() if part.trajectory is None else part.trajectory
            trajectories.append(own + labels)
            labels = int(trajectories[-1].max()) + 1
            ends.append(part.ptr[1:] + rows)
            rows += int(part.ptr[-1])
        cells = [part.cell for part in parts if part.cell is not None]
        pbcs = [part.pbc for part in parts if part.pbc is not None]
        stresses = [part.stress for part in parts if part.stress is not None]
        return LabelledFrames(
            torch.cat([part.numbers for part in parts]),
            torch.cat([part.positions for part in parts]),
            torch.cat([part.energies for part in parts]),
            torch.cat([part.forces for part in parts]),
            torch.cat([torch.zeros(1, dtype=torch.int64), *ends]),
            cell=torch.cat(cells) if cells else None,
            pbc=torch.cat(pbcs) if len(pbcs) == len(parts) else None,
            trajectory=torch.cat(trajectories),
            source=", ".join(part.source for part in parts),
            stress=torch.cat(stresses) if len(stresses) == len(parts) else None,
        )

    @classmethod
    def labelled_by(
        cls,
        potential: Potential,
        state: State,
        *,
        trajectory: Tensor | None = None,
        batch: int = 256,
    ) -> LabelledFrames:
        """Label the replicas of a state with a potential.

        Args:
            potential: gives energies and forces.
            state: the geometries, one frame per replica; without a cell.
            trajectory: `(n_replicas,)` int64, or None.
            batch: replicas per call of the potential.

        Raises:
            ValueError: if the state has a cell, or as the potential does.
        """
        if state.cell is not None:
            raise ValueError("frames are labelled on the spot for molecules without a cell only")
        parts = [
            potential.evaluate(state.replica(chunk))
            for chunk in torch.split(torch.arange(state.n_replicas), batch)
        ]
        return cls.stack(
            state.molecule.numbers,
            state.positions,
            torch.cat([p.energy for p in parts]),
            torch.cat([p.forces for p in parts]),
            trajectory=trajectory,
            source=f"frames labelled by {type(potential).__name__}",
        )
