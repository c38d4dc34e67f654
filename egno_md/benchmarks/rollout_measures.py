"""Measures of long runs, taken while they go on: nothing of a trajectory is kept.

The same code counts a learned run and the classical one it is held against; a record of either
is a dictionary of tensors: the statistics of `trajectories/statistics.py`, the spectra of
`trajectories/vibrations.py`, and

| key | shape, type | meaning |
|---|---|---|
| `failed_fs` | `(n_replicas,)` float64 | when a replica failed, NaN where it did not |
| `element_temperature_error_K` | `(n_elements,)` float64 | standard error of the mean |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from egno_md.propagators.total_energy import total_energies
from egno_md.roles import Potential, Propagator
from egno_md.segment import Segment
from egno_md.state import State
from egno_md.trajectories.histograms import Bins, bond_lengths
from egno_md.trajectories.inefficiency import statistical_inefficiency
from egno_md.trajectories.statistics import StatisticsCounter
from egno_md.trajectories.vibrations import VibrationCounter

#: A bond further than this from its reference length is a failure, Å.
BOND_LIMIT_A = 0.5

#: Frames counted at once.
_FRAMES_AT_ONCE = 256

Record = dict[str, Tensor]
Tick = Callable[[int], None]


class Survivors:
    """Moves replicas on and tells which have failed.

    From its failure on a replica's frames are NaN, so that no statistic counts them; underneath
    it starts anew from where it began, because the others need an arithmetic that goes on.
    """

    def __init__(self, propagator: Propagator, start: State, lengths_A: Tensor) -> None:
        """Begin.

        Args:
            propagator: moves the replicas.
            start: where they begin.
            lengths_A: `(n_bonds,)`, what bonds are judged by.
        """
        self.propagator, self.start, self.lengths_A = propagator, start, lengths_A
        self.state = start
        self.failed_fs = torch.full((start.n_replicas,), float("nan"), dtype=torch.float64)

    def advance(self, n_frames: int) -> tuple[Tensor, Tensor]:
        """Make the next frames.

        Args:
            n_frames: how many.

        Returns:
            Positions and velocities, `(n_replicas, n_frames, n_atoms, 3)`.
        """
        parts: list[tuple[Tensor, Tensor]] = []
        left = n_frames
        while left > 0:
            segment = self.propagator.advance(self.state, min(left, self.propagator.n_frames))
            left -= segment.n_frames
            parts.append(self._judged(segment))
        x, v = (torch.cat(column, 1) for column in zip(*parts, strict=True))
        return x, v

    def _judged(self, segment: Segment) -> tuple[Tensor, Tensor]:
        x, v = segment.positions, segment.velocities
        off = (bond_lengths(x, segment.molecule.bonds) - self.lengths_A).abs()
        # NaN is within no limit.
        good = (off <= BOND_LIMIT_A).all(-1) & torch.isfinite(v).flatten(2).all(-1)
        good &= torch.isfinite(x).flatten(2).all(-1)
        good = good.cumprod(1).bool()
        good[~torch.isnan(self.failed_fs)] = False
        lost = ~good[:, -1]
        if not bool(lost.any()):
            self.state = segment.last
            return x, v
        new = lost & torch.isnan(self.failed_fs)
        first = good.sum(1)[new]
        self.failed_fs[new] = segment.times_fs[first] - self.start.time_fs
        end = float(segment.times_fs[-1])
        here = lost[:, None, None]
        self.state = self.start.with_(
            positions=torch.where(here, self.start.positions, x[:, -1].to(self.start.positions)),
            velocities=torch.where(here, self.start.velocities, v[:, -1].to(self.start.velocities)),
            time_fs=end,
        )
        hide = ~good[..., None, None]
        return x.masked_fill(hide, float("nan")), v.masked_fill(hide, float("nan"))


def roll(
    propagator: Propagator,
    start: State,
    n_frames: int,
    bins: Bins,
    lengths_A: Tensor,
    n_window: int,
    tick: Tick | None = None,
) -> Record:
    """Run on and count.

    Args:
        propagator: moves the replicas.
        start: where they begin.
        n_frames: frames of each replica.
        bins: of the histograms.
        lengths_A: `(n_bonds,)`, what bonds are judged by.
        n_window: frames of a window of the spectra.
        tick: called with the number of frames per replica as they are made.

    Returns:
        The record; of statistics only what can be told if no replica gave a frame.
    """
    interval, n = propagator.frame_interval_fs, start.n_replicas
    counter = StatisticsCounter(
        start.molecule, bins, n_replicas=n, n_frames=n_frames, frame_interval_fs=interval
    )
    vibrations = VibrationCounter(
        start.molecule, n_replicas=n, frame_interval_fs=interval, n_window=n_window
    )
    moving = Survivors(propagator, start, lengths_A)
    left, any_good = n_frames, False
    while left > 0:
        now = min(_FRAMES_AT_ONCE, left)
        x, v = moving.advance(now)
        counter.add(x, v)
        vibrations.add(v)
        any_good = any_good or bool(torch.isfinite(x).any())
        left -= now
        if tick is not None:
            tick(now)
        if not bool(torch.isnan(moving.failed_fs).any()):
            break  # nobody is left
    record = vibrations.result() | {"failed_fs": moving.failed_fs}
    series = counter.temperature_series()
    if any_good and series is not None:
        errors = [standard_error(series[..., k]) for k in range(series.shape[-1])]
        record |= counter.result()
        record["element_temperature_error_K"] = torch.tensor(errors, dtype=torch.float64)
    return record


def standard_error(series: Tensor) -> float:
    """Standard error of the mean of correlated frames of independent replicas.

    Args:
        series: `(n_replicas, n_frames)`; replicas that are not finite throughout are left out.

    Returns:
        The error; NaN where no replica is left.
    """
    whole = series[torch.isfinite(series).all(1)]
    if whole.numel() < 2:
        return float("nan")
    independent = whole.numel() / float(statistical_inefficiency(whole))
    return float(whole.std() / max(1.0, independent) ** 0.5)


@dataclass(frozen=True, slots=True)
class Heating:
    """Drift of the true total energy of a run without a bath.

    Attributes:
        per_replica: slope of each replica that did not fail, meV per atom and ps.
        n_failed: replicas that failed.
    """

    per_replica: tuple[float, ...]
    n_failed: int


def heating(
    propagator: Propagator,
    potential: Potential,
    start: State,
    n_frames: int,
    lengths_A: Tensor,
    tick: Tick | None = None,
    n_points: int = 50,
) -> Heating:
    """Fit a line to the true total energy of each replica.

    Args:
        propagator: moves the replicas, without a bath.
        potential: the true one.
        start: where they begin.
        n_frames: frames of each replica.
        lengths_A: `(n_bonds,)`, what bonds are judged by.
        tick: called with the number of frames per replica as they are made.
        n_points: how often the energy is looked at, about.
    """
    molecule, every = start.molecule, max(1, n_frames // n_points)
    moving = Survivors(propagator, start, lengths_A)
    times, energies = [0.0], [total_energies(potential, start)]
    for done in range(every, n_frames + 1, every):
        moving.advance(every)
        times.append(done * propagator.frame_interval_fs * 1e-3)
        energies.append(total_energies(potential, moving.state))
        if tick is not None:
            tick(every)
    alive = torch.isnan(moving.failed_fs)
    t = torch.tensor(times, dtype=torch.float64)
    t = t - t.mean()
    slopes = (t[:, None] * torch.stack(energies)).sum(0) / t.square().sum()
    per_atom = 1000.0 * slopes[alive] / molecule.n_atoms
    return Heating(tuple(per_atom.tolist()), int((~alive).sum()))
