"""Batches of labelled frames as flat graphs, with neighbours found once for all epochs.

Frames do not move while a potential is trained, so their neighbour lists are made before the
first step; a batch only gathers them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from egno_md.data.frames import LabelledFrames
from egno_md.models.neighbours import filled_edges, find_neighbours

#: Frames of one molecule per call of the neighbour search.
_CHUNK = 512


@dataclass(frozen=True, slots=True, eq=False)
class FrameBatch:
    """Some frames as one flat graph.

    Attributes:
        positions: `(n, 3)` float64, Å.
        numbers: `(n,)` int64.
        edge_index: `(2, n_edges)` int64, source row, target row.
        shifts: `(n_edges, 3)` float64, Å.
        batch: `(n,)` int64, frame of each atom.
        sizes: `(n_graphs,)` int64, atoms per frame.
        energies: `(n_graphs,)` float64, eV.
        forces: `(n, 3)` float64, eV/Å.
        stresses: `(n_graphs, 3, 3)` float64, eV/Å^3, or None.
        volumes: `(n_graphs,)` float64, Å^3, where there are stresses.
    """

    positions: Tensor
    numbers: Tensor
    edge_index: Tensor
    shifts: Tensor
    batch: Tensor
    sizes: Tensor
    energies: Tensor
    forces: Tensor
    stresses: Tensor | None = None
    volumes: Tensor | None = None

    @property
    def n_graphs(self) -> int:
        """Number of frames."""
        return int(self.sizes.shape[0])


class FrameGraphs:
    """Labelled frames with the neighbours of every atom."""

    def __init__(
        self, frames: LabelledFrames, cutoff_A: float, device: torch.device | str = "cpu"
    ) -> None:
        """Find all neighbours.

        Args:
            frames: the frames.
            cutoff_A: neighbours are closer than this, Å.
            device: where batches go.

        Raises:
            ValueError: if atoms coincide or a cell is missing or degenerate; the frame is named.
        """
        self.frames = frames
        self.cutoff_A = float(cutoff_A)
        self.device = torch.device(device)
        edges, shifts, counts = _edges(frames, cutoff_A)
        self.edge_index, self.shifts = edges, shifts
        self.edge_ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return self.frames.n_frames

    @property
    def one_size(self) -> bool:
        """Whether all frames have as many atoms."""
        return bool((self.frames.sizes == self.frames.sizes[0]).all())

    @property
    def most_edges(self) -> int:
        """Edges of the frame that has most."""
        return int(self.edge_ptr.diff().max())

    @property
    def mean_neighbours(self) -> float:
        """Neighbours of an average atom."""
        return self.edge_index.shape[1] / self.frames.numbers.shape[0]

    def batch(self, frames: Tensor, n_edges: int | None = None) -> FrameBatch:
        """Gather some frames.

        Args:
            frames: `(k,)` int64, frame numbers.
            n_edges: fill up to so many edges with ones beyond the cutoff, which change nothing,
                so that all batches of equal frames have one shape; None fills nothing.

        Raises:
            ValueError: if the frames have more edges than that.
        """
        picked = self.frames.select(frames)
        counts = (self.edge_ptr[1:] - self.edge_ptr[:-1])[frames]
        before = counts.cumsum(0) - counts
        within = torch.arange(int(counts.sum())) - before.repeat_interleave(counts)
        edges = self.edge_ptr[:-1][frames].repeat_interleave(counts) + within
        offsets = picked.ptr[:-1].repeat_interleave(counts)
        edge_index, shifts = self.edge_index[:, edges] + offsets, self.shifts[edges]
        if n_edges is not None:
            edge_index, shifts = filled_edges(edge_index, shifts, n_edges, 2.0 * self.cutoff_A)
        parts = [
            picked.positions,
            picked.numbers,
            edge_index,
            shifts,
            torch.arange(picked.n_frames).repeat_interleave(picked.sizes),
            picked.sizes,
            picked.energies,
            picked.forces,
        ]
        if picked.stress is not None and picked.cell is not None:
            parts += [picked.stress, torch.linalg.det(picked.cell).abs()]
        return FrameBatch(*(part.to(self.device) for part in parts))


def _edges(frames: LabelledFrames, cutoff_A: float) -> tuple[Tensor, Tensor, Tensor]:
    """Edges with atoms counted from the frame's first, shifts, and edges per frame."""
    edges, shifts, counts = [], [], []
    if frames.cell is None and frames.one_molecule:
        positions = frames.dense().positions
        n = positions.shape[1]
        for chunk in torch.split(positions, _CHUNK):
            found = find_neighbours(chunk, cutoff_A)
            frame = found.edge_index[0] // n
            edges.append(found.edge_index - frame * n)
            shifts.append(found.shifts)
            counts.append(torch.bincount(frame, minlength=len(chunk)))
    else:
        for k in range(frames.n_frames):
            rows = slice(int(frames.ptr[k]), int(frames.ptr[k + 1]))
            try:
                found = find_neighbours(
                    frames.positions[rows][None],
                    cutoff_A,
                    None if frames.cell is None else frames.cell[k : k + 1],
                    _pbc(frames, k),
                )
            except ValueError as error:
                raise ValueError(f"{frames.source}, frame {k}: {error}") from error
            edges.append(found.edge_index)
            shifts.append(found.shifts)
            counts.append(torch.tensor([found.edge_index.shape[1]]))
    return torch.cat(edges, 1), torch.cat(shifts), torch.cat(counts)


def _pbc(frames: LabelledFrames, k: int) -> tuple[bool, bool, bool]:
    if frames.pbc is None:
        return (False, False, False)
    a, b, c = (bool(p) for p in frames.pbc[k])
    return (a, b, c)


def epoch_sampler(
    graphs: FrameGraphs, batch_size: int, seed: int, *, filled: bool = False
) -> Callable[[int, torch.Generator], FrameBatch]:
    """Return the batch of a step: every frame once per epoch.

    Args:
        graphs: the frames.
        batch_size: frames per batch, cut to their number.
        seed: shuffles the epochs.
        filled: give all batches of frames of one size the same number of edges.
    """
    batches = EpochBatches(graphs.n_frames, batch_size, seed)
    n_edges = batches.batch_size * graphs.most_edges if filled else None

    def sample(step: int, generator: torch.Generator) -> FrameBatch:
        return graphs.batch(batches.indices(step), n_edges)

    return sample


class EpochBatches:
    """Draws batches so that every frame comes once per epoch; the step alone decides which."""

    def __init__(self, n_frames: int, batch_size: int, seed: int) -> None:
        """Prepare.

        Args:
            n_frames: frames to draw from.
            batch_size: frames per batch, cut to `n_frames`.
            seed: shuffles the epochs.
        """
        self.n_frames = n_frames
        self.batch_size = min(batch_size, n_frames)
        self.seed = seed
        self._epoch = -1
        self._order = torch.zeros(0, dtype=torch.int64)

    def indices(self, step: int) -> Tensor:
        """Frame numbers of a step, `(batch_size,)` int64.

        Args:
            step: number of the step, from 0.
        """
        per_epoch = self.n_frames // self.batch_size
        epoch, place = divmod(step, per_epoch)
        if epoch != self._epoch:
            shuffler = torch.Generator().manual_seed((self.seed * 999_983 + epoch) % 2**63)
            self._order = torch.randperm(self.n_frames, generator=shuffler)
            self._epoch = epoch
        return self._order[place * self.batch_size : (place + 1) * self.batch_size]
