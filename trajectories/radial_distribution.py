r"""The radial distribution g(r) of every pair of elements in a periodic cell.

.. math::
    g_{ab}(r_k) = \frac{V}{N_{ab}} \frac{\langle n_{ab}(k) \rangle}{v_k}

| symbol | here |
|---|---|
| n_ab(k) | pairs of elements a and b whose nearest images are r_k apart |
| N_ab | all pairs: N_a N_b, and N_a (N_a - 1) / 2 of one element |
| v_k | volume of the spherical shell of the bin, Å^3 |
| V | volume of the cell, Å^3 |

Atoms that know nothing of each other have g = 1. Bins reach to half the thickness of the cell,
where nearest images end, or to 10 Å. A last bin counts all pairs beyond, so that the counts of
any stretch sum to N_ab times its frames and say how many frames it has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from ase.data import chemical_symbols
from torch import Tensor

from egno_md.trajectories.divergence import normalised
from egno_md.trajectories.inefficiency import slowest_inefficiencies
from egno_md.trajectories.nearest_images import half_thickness_A, nearest_images

#: Bins of g(r), without the one beyond.
RADIAL_BINS: Final = 200

#: Largest distance that is counted, in Å.
RADIAL_HIGH_A: Final = 10.0

#: Systems of more atoms are not counted: all pairs are looked at.
MOST_ATOMS: Final = 3000

#: Fine bins that go into one bin of the series that the correlation time comes from.
_COARSE: Final = 20

#: Frames kept of that series.
_SERIES_FRAMES = 8192


def radial_range_A(cell: Tensor) -> float:
    """Return how far g(r) can be told, Å.

    Args:
        cell: `(n, 3, 3)`, Å, of systems periodic in all directions.
    """
    return min(RADIAL_HIGH_A, half_thickness_A(cell, (True, True, True)))


def mean_volume_A3(cell: Tensor) -> float:
    """Return the mean volume of some cells, Å^3.

    Args:
        cell: `(n, 3, 3)`, Å.
    """
    return float(torch.linalg.det(cell.to(torch.float64)).abs().mean())


def element_pairs(numbers: Tensor) -> Tensor:
    """List the pairs of elements that some atoms make.

    Args:
        numbers: `(n_atoms,)` atomic numbers.

    Returns:
        `(n_pairs, 2)` int64, lighter element first, ascending; one element alone makes a pair
        with itself only if there are two atoms of it.
    """
    i, j = torch.triu_indices(len(numbers), len(numbers), 1)
    z = torch.stack([numbers[i], numbers[j]], 1).sort(dim=1).values
    pairs: Tensor = torch.unique(z, dim=0)
    return pairs


def radial_labels(pairs: Tensor) -> tuple[str, ...]:
    """Name pairs of elements, such as "H-O".

    Args:
        pairs: from `element_pairs`.
    """
    return tuple(f"{chemical_symbols[a]}-{chemical_symbols[b]}" for a, b in pairs.tolist())


class RadialCounter:
    """Counts the distances of nearest images, frame by frame."""

    def __init__(self, numbers: Tensor, high_A: float) -> None:
        """Sort the pairs of atoms by element.

        Args:
            numbers: `(n_atoms,)` atomic numbers, at least two.
            high_A: where the bins end.

        Raises:
            ValueError: if there are no pairs or the end is not positive.
        """
        if len(numbers) < 2 or not 0.0 < high_A < math.inf:
            raise ValueError(
                f"g(r) needs two atoms and a range, got {len(numbers)} atoms and {high_A} Å"
            )
        self.pairs = element_pairs(numbers)
        self.high_A = high_A
        self._i, self._j = torch.triu_indices(len(numbers), len(numbers), 1)
        z = torch.stack([numbers[self._i], numbers[self._j]], 1).sort(dim=1).values
        self._row = (z[:, None] == self.pairs).all(-1).long().argmax(1)

    def __call__(self, positions: Tensor, cell: Tensor) -> Tensor:
        """Count some frames.

        Args:
            positions: `(n_frames, n_atoms, 3)`, Å, finite.
            cell: `(n_frames, 3, 3)`, Å, periodic in all directions.

        Returns:
            `(n_frames, n_pairs, RADIAL_BINS + 1)` int64, the last bin for all beyond.
        """
        x = positions.to(torch.float64)
        arrows = nearest_images(x[:, self._i] - x[:, self._j], cell, (True, True, True))
        at = (arrows.norm(dim=-1) * (RADIAL_BINS / self.high_A)).long().clamp_(max=RADIAL_BINS)
        n, rows, width = len(x), len(self.pairs), RADIAL_BINS + 1
        flat = (torch.arange(n)[:, None] * rows + self._row) * width + at
        counts = torch.bincount(flat.reshape(-1), minlength=n * rows * width)
        return counts.reshape(n, rows, width)


class RadialTally:
    """Adds up g(r) by blocks, and keeps what its correlation time comes from."""

    def __init__(self, numbers: Tensor, high_A: float, n_blocks: int, n_replicas: int) -> None:
        """Start with nothing.

        Args:
            numbers: `(n_atoms,)` atomic numbers.
            high_A: where the bins end.
            n_blocks: blocks that frames belong to.
            n_replicas: replicas in every piece.
        """
        self._count, self._n_replicas = RadialCounter(numbers, high_A), n_replicas
        shape = (n_blocks, len(self._count.pairs), RADIAL_BINS + 1)
        self._total = torch.zeros(shape, dtype=torch.int64)
        self._series: list[Tensor] = []
        self._volume_A3, self._n_frames = 0.0, 0

    def add(self, frames: Tensor, cell: Tensor, block: Tensor, good: Tensor) -> None:
        """Count a piece of all replicas, one replica after the other.

        Args:
            frames: `(n_replicas * n, n_atoms, 3)`, Å.
            cell: `(n_replicas * n, 3, 3)`, Å.
            block: `(n_replicas * n,)` int64, the block of each frame.
            good: `(n_replicas * n,)` bool, frames that are finite; others count nothing.
        """
        counts = self._count(frames.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0), cell)
        counts[~good] = 0
        self._total.index_add_(0, block, counts)
        self._volume_A3 += mean_volume_A3(cell) * int(good.sum())
        self._n_frames += int(good.sum())
        if sum(part.shape[1] for part in self._series) < _SERIES_FRAMES:
            # Few and wide bins: their correlation times are those of g(r).
            n, rows = counts.shape[:2]
            wide = counts[..., :-1].reshape(n, rows, -1, _COARSE).sum(-1).to(torch.float32)
            self._series.append(wide.reshape(self._n_replicas, n // self._n_replicas, -1))

    def result(self, frame_interval_fs: float) -> dict[str, Tensor]:
        """Return what `statistics.py` keeps of g(r); nothing if no finite frame came.

        Args:
            frame_interval_fs: time between frames.
        """
        if not self._n_frames:
            return {}
        slowest = slowest_inefficiencies(self._series).amax()
        return {
            "radial_counts": self._total,
            "radial_elements": self._count.pairs,
            "radial_high_A": torch.tensor(self._count.high_A, dtype=torch.float64),
            "radial_inefficiency_fs": slowest * frame_interval_fs,
            "volume_A3": torch.tensor(self._volume_A3 / self._n_frames, dtype=torch.float64),
        }


def shell_shares(high_A: float, volume_A3: float) -> Tensor:
    """Return the share of the cell's volume that each spherical shell has, `(RADIAL_BINS,)`.

    Args:
        high_A: where the bins end.
        volume_A3: of the cell.
    """
    edges = torch.linspace(0.0, high_A, RADIAL_BINS + 1, dtype=torch.float64)
    return 4.0 / 3.0 * math.pi * edges.pow(3).diff() / volume_A3


def radial_distribution(counts: Tensor, high_A: float, volume_A3: float) -> Tensor:
    """Return g(r), `(..., RADIAL_BINS)` float64.

    Args:
        counts: `(..., RADIAL_BINS + 1)`, of any number of frames.
        high_A: where the bins end.
        volume_A3: of the cell.

    Raises:
        ValueError: if there are no counts.
    """
    found: Tensor = normalised(counts)[..., :-1] / shell_shares(high_A, volume_A3)
    return found


@dataclass(frozen=True, slots=True)
class RadialDifference:
    """Mean absolute difference of two g(r) over all bins, a measure as in `divergence.py`.

    Attributes:
        high_A: where the bins end.
        volume_A3: of the cell, the same for both.
        mean: average over the pairs of elements too.
    """

    high_A: float
    volume_A3: float
    mean: bool = False

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Compare counts `(..., n_pairs, RADIAL_BINS + 1)`; gives `(..., n_pairs)` or `(...)`."""
        one, other = (radial_distribution(c, self.high_A, self.volume_A3) for c in (first, second))
        found: Tensor = (one - other).abs().mean(-1)
        return found.mean(-1) if self.mean else found
