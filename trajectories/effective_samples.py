"""How many independent samples of slow coordinates a run holds, and for what processor time.

N frames that follow one another are worth N / g independent ones, g = 1 + 2 sum of correlations
(`inefficiency.py`). Counted are the distances of atoms three bonds apart and the torsions of
`slow_coordinates.py`, twice: with the correlation averaged over all of them, and for the slowest
alone, which is what the worst average may count on. Replicas are taken together about one common
mean: where each keeps to a basin of its own, correlations do not fall off and no more than about
one sample per replica is counted.

What vibrates fast between frames that are far apart looks independent, so the mean may flatter a
run whose distances vibrate more than they wander; the slowest does not.

A run cannot know of a basin that no replica has visited, and from a few effective samples g
itself cannot be told. Replicas shorter than g count as one sample each, which is not of their
making but of their starts. So below ten samples, or three for each replica, the answer is "too
short to tell".
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor

from egno_md.state import Molecule
from egno_md.trajectories.histograms import nearest_in
from egno_md.trajectories.inefficiency import statistical_inefficiency
from egno_md.trajectories.judges import atom_name
from egno_md.trajectories.slow_coordinates import slow_pairs, slow_torsions, slow_values

#: With fewer effective samples a run is too short to tell how many they are.
FEWEST: Final = 10.0

#: Likewise for each replica.
FEWEST_EACH: Final = 3.0

#: Values kept in memory; of a longer run every second, third, ... frame is looked at.
_MOST_VALUES: Final = 8_000_000

#: Coordinates worked out at once.
_CHUNK_VALUES: Final = 4_000_000


@dataclass(frozen=True, slots=True)
class EffectiveSamples:
    """Independent samples of all replicas together.

    Attributes:
        mean: by the correlation averaged over the slow coordinates.
        slowest: of the slowest of them.
        slowest_name: which that is.
        n_frames: frames that were looked at, of all replicas together.
        spacing_fs: time between them.
        n_coordinates: slow coordinates that change.
        n_replicas: replicas that were looked at.
    """

    mean: float
    slowest: float
    slowest_name: str
    n_frames: int
    spacing_fs: float
    n_coordinates: int
    n_replicas: int

    @property
    def needed(self) -> float:
        """Samples below which their number cannot be told: ten, or three for each replica."""
        return max(FEWEST, FEWEST_EACH * self.n_replicas)

    @property
    def too_short(self) -> bool:
        """Whether the slowest coordinate has fewer samples than needed."""
        return self.slowest < self.needed

    def to_json(self, cpu_s: float) -> dict[str, Any]:
        """Return the fields for run.json, with rates per second of processor time.

        A run that is too short to tell has no rates.

        Args:
            cpu_s: processor time of the run; NaN when unknown.
        """
        known = 0.0 < cpu_s < math.inf and not self.too_short
        return {
            **asdict(self),
            "too_short_to_tell": self.too_short,
            "mean_per_cpu_s": self.mean / cpu_s if known else None,
            "slowest_per_cpu_s": self.slowest / cpu_s if known else None,
        }

    def sentence(self, cpu_s: float) -> str:
        """Say how many samples there are, or that the run is too short to tell.

        Args:
            cpu_s: processor time of the run; NaN when unknown.
        """
        replicas = "1 replica" if self.n_replicas == 1 else f"{self.n_replicas} replicas"
        few = f"{self.needed:g} in {replicas}"
        if self.mean < self.needed:
            return f"effective samples of slow coordinates: too short to tell (below {few})"
        text = f"{self.mean:.0f} effective samples of slow coordinates"
        if self.too_short:
            # A rate would be that of a run hardly longer than its correlations, which flatters.
            return (
                f"{text} on average; too short to tell for the slowest, {self.slowest_name} "
                f"(below {few}), so no rate is given"
            )
        slowest = f"{self.slowest:.0f}{_rate(self.slowest, cpu_s)}"
        return f"{text}{_rate(self.mean, cpu_s)}; {slowest}, of the slowest, {self.slowest_name}"


def _rate(n: float, cpu_s: float) -> str:
    return f", {n / cpu_s:.3g} per CPU-second" if 0.0 < cpu_s < math.inf else ""


class SlowSeries:
    """Collects slow coordinates of frames as they come, every so many of them in a long run."""

    def __init__(
        self, molecule: Molecule, *, n_replicas: int, n_frames: int, frame_interval_fs: float
    ) -> None:
        """Start.

        Args:
            molecule: what moves.
            n_replicas: replicas of every chunk.
            n_frames: frames per replica that will come in all, about.
            frame_interval_fs: time between them.
        """
        self.molecule = molecule
        self._pairs, self._torsions = slow_pairs(molecule), slow_torsions(molecule)
        n = len(self._pairs) + 2 * len(self._torsions)
        self._every = max(1, -(-n_replicas * n_frames * n // _MOST_VALUES))
        self.spacing_fs = self._every * frame_interval_fs
        self._seen = 0
        self._parts: list[Tensor] = []

    def add(self, positions: Tensor, cell: Tensor | None = None) -> None:
        """Look at the frames that follow those seen so far.

        Args:
            positions: `(n_replicas, n, n_atoms, 3)`, Å.
            cell: `(n_replicas, 3, 3)`, Å, or None without periodicity.
        """
        picked = positions[:, (-self._seen) % self._every :: self._every]
        self._seen += positions.shape[1]
        per_frame = max(1, len(self._pairs) + 2 * len(self._torsions)) * positions.shape[0]
        for part in torch.split(picked, max(1, _CHUNK_VALUES // per_frame), 1):
            r, n = part.shape[:2]
            if n == 0:
                continue
            boxes = None if cell is None else cell.to(torch.float64).repeat_interleave(n, 0)
            frames = part.reshape(r * n, -1, 3)
            nearest = nearest_in(self.molecule, boxes)
            values = slow_values(frames, self._pairs, self._torsions, nearest)
            self._parts.append(values.reshape(r, n, -1).to("cpu", torch.float32))

    def result(self) -> EffectiveSamples | None:
        """Count; None without frames, replicas that stay finite, or anything that changes."""
        if not self._parts:
            return None
        series = torch.cat(self._parts, 1)
        series = series[torch.isfinite(series).flatten(1).all(1)].to(torch.float64)
        if series.numel() == 0:
            return None
        return count_effective(series, self._names(), self.spacing_fs)

    def _names(self) -> tuple[str, ...]:
        """What each column is, "distance C0-H5" or "torsion H3-C0-C1-O2"."""

        def named(kind: str, atoms: list[int]) -> str:
            return f"{kind} " + "-".join(atom_name(self.molecule, i) for i in atoms)

        pairs = [named("distance", pair) for pair in self._pairs.tolist()]
        torsions = [named("torsion", four) for four in self._torsions.tolist()]
        return (*pairs, *torsions, *torsions)


def count_effective(
    series: Tensor, names: tuple[str, ...], spacing_fs: float
) -> EffectiveSamples | None:
    """Count the independent samples of some coordinates.

    Args:
        series: `(n_replicas, n_frames, n_coordinates)` float64, finite.
        names: of the coordinates.
        spacing_fs: time between frames.

    Returns:
        The counts; None where nothing changes.
    """
    x = series - series.mean((0, 1))
    spread = x.square().mean((0, 1)).sqrt()
    # Rounding is no motion.
    moving = (spread > 1e-5).nonzero()[:, 0]
    if len(moving) == 0:
        return None
    scaled = (x[..., moving] / spread[moving]).movedim(-1, 0)
    n = series.shape[0] * series.shape[1]
    each = torch.stack([statistical_inefficiency(one) for one in scaled])
    together = float(statistical_inefficiency(scaled.flatten(0, 1)))
    worst = int(each.argmax())
    return EffectiveSamples(
        mean=n / together,
        slowest=n / float(each[worst]),
        slowest_name=names[int(moving[worst])],
        n_frames=n,
        spacing_fs=spacing_fs,
        n_coordinates=len(moving),
        n_replicas=series.shape[0],
    )
