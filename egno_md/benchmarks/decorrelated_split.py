"""Three sets of frames of one trajectory whose order in time was lost.

A published set may hold the frames of one trajectory in shuffled order: neighbours in the file
are then far apart in time, and near-twins stand anywhere. The farther two frames of a liquid are
apart in time, the farther its atoms have wandered; so frames are ordered by their distance from
one end of the trajectory, and cut into blocks with gaps.

| quantity | here |
|---|---|
| distance of two frames | rms over atoms of the displacement between nearest images, Å |
| one end | a frame of the pair that is farthest apart |
"""

from __future__ import annotations

import torch
from torch import Tensor

from egno_md.data.splits import Split, split_by_blocks


def frame_distances(positions: Tensor, lengths_A: Tensor) -> Tensor:
    """Distances between all frames, `(n_frames, n_frames)`, Å.

    Args:
        positions: `(n_frames, n_atoms, 3)`, Å.
        lengths_A: `(3,)`, edges of the fixed rectangular cell, Å.
    """
    rows = []
    for frame in positions:
        apart = positions - frame
        apart = apart - lengths_A * torch.round(apart / lengths_A)
        rows.append(apart.square().sum(-1).mean(-1).sqrt())
    return torch.stack(rows)


def split_by_distance(distances: Tensor, validation: float, test: float, gap: int) -> Split:
    """Cut frames into blocks by their distance from one end of the trajectory.

    Args:
        distances: `(n_frames, n_frames)`, Å.
        validation: share for validation, above 0.
        test: share for the test, above 0.
        gap: frames left out between blocks.

    Returns:
        Training frames are nearest to that end, test frames farthest from it.

    Raises:
        ValueError: if nothing is left for a set.
    """
    end = int(distances.amax(1).argmax())
    order = torch.argsort(distances[end], stable=True)
    blocks = split_by_blocks(len(order), validation, test, gap)
    return Split(order[blocks.training], order[blocks.validation], order[blocks.test])


def closest(distances: Tensor, first: Tensor, second: Tensor) -> float:
    """Smallest distance between a frame of one set and one of another, Å.

    Args:
        distances: `(n_frames, n_frames)`, Å.
        first: `(n,)` int64, frames of one set.
        second: `(m,)` int64, frames of the other.
    """
    return float(distances[first][:, second].min())
