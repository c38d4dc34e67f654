"""How long proposals should be: the most effective samples for a second of processor time.

Long proposals go far and ask the target seldom; short ones are accepted more often and cost
less. Each length is tried for a share of the time, and counted are samples that are independent
in the slow internal coordinates: N / g with the statistical inefficiency g = 1 + 2 sum of
correlations (see `egno_md.trajectories.inefficiency`), the correlation averaged over distances of
atoms three bonds apart and more, each in units of its spread. The trials are thrown away and the
choice is never changed again: sampling that went on adapting would not be exact.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor

from egno_md.propagators.metropolised import Metropolised
from egno_md.state import State
from egno_md.trajectories.inefficiency import statistical_inefficiency
from egno_md.trajectories.slow_coordinates import Coordinates, slow_distances

#: Proposals of each replica in a trial, at least; correlations cannot be told from fewer.
_FEWEST: Final = 10

#: Proposals of each replica in a trial, at most: more would only fill the memory.
_MOST: Final = 2000

#: Longer proposals are accepted still less, so there is no use in trying them.
_HOPELESS: Final = 0.02


@dataclass(frozen=True, slots=True)
class ProposalTrial:
    """What a length came to.

    Attributes:
        proposal_fs: the length.
        n_proposals: proposals of all replicas together.
        acceptance: share of them that was accepted.
        cpu_s_per_proposal: processor time of one.
        inefficiency: proposals that count as one independent sample.
        effective_per_cpu_s: independent samples per second of processor time.
        relative_error: of the last two, about.
    """

    proposal_fs: float
    n_proposals: int
    acceptance: float
    cpu_s_per_proposal: float
    inefficiency: float
    effective_per_cpu_s: float
    relative_error: float


@dataclass(frozen=True, slots=True)
class ProposalTuning:
    """The lengths that were tried and the best of them.

    Attributes:
        proposal_fs: the best.
        trials: in the order of their length.
        cpu_s: processor time that all this took.
    """

    proposal_fs: float
    trials: tuple[ProposalTrial, ...]
    cpu_s: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields for notes and run.json."""
        return {
            "proposal_fs": self.proposal_fs,
            "trials": [asdict(trial) for trial in self.trials],
            "cpu_s": self.cpu_s,
        }

    def sentence(self) -> str:
        """Say what was chosen out of what."""
        tried = ", ".join(
            f"{t.proposal_fs:g} fs {t.effective_per_cpu_s:.3g}/s at {t.acceptance:.0%}"
            for t in self.trials
        )
        return (
            f"proposals of {self.proposal_fs:g} fs, tuned in {self.cpu_s:.0f} CPU-seconds "
            f"(effective samples per CPU-second and acceptance: {tried})"
        )


def tune_proposal(
    make: Callable[[float], Metropolised],
    start: State,
    lengths_fs: Sequence[float],
    *,
    cpu_s: float = 20.0,
    coordinates: Coordinates | None = None,
) -> ProposalTuning:
    """Try lengths, from the shortest on, and choose the one with most effective samples.

    A length that its share of the time cannot hold ten proposals of is not tried, and none
    beyond one that is hardly ever accepted. The time is measured, so another try may choose
    differently; a run with the chosen length is repeatable.

    Args:
        make: makes the sampler for a length, fs, with randomness of its own.
        start: near equilibrium; more replicas tell more.
        lengths_fs: to choose from.
        cpu_s: processor time to spend, about; at least the shortest length is tried.
        coordinates: what is to be independent; distances three bonds apart and more when None.

    Raises:
        ValueError: if there are no lengths or the time is not positive, or as the sampler does.
    """
    if not lengths_fs or not 0.0 < cpu_s < math.inf:
        raise ValueError(
            f"tuning needs lengths and a time, got {len(lengths_fs)} lengths and {cpu_s} s"
        )
    seen = coordinates or slow_distances(start)
    began, share = time.process_time(), cpu_s / len(lengths_fs)
    trials: list[ProposalTrial] = []
    state = start
    for length in sorted(lengths_fs):
        if trials:
            last = trials[-1]
            longer = length / last.proposal_fs
            expected = last.cpu_s_per_proposal * start.n_replicas * longer
            if _FEWEST * expected > share or last.acceptance < _HOPELESS:
                break
        trial, state = _tried(make(length), state, share, seen)
        trials.append(trial)
    best = max(trials, key=lambda trial: trial.effective_per_cpu_s)
    return ProposalTuning(best.proposal_fs, tuple(trials), time.process_time() - began)


def _tried(
    sampler: Metropolised, start: State, cpu_s: float, coordinates: Coordinates
) -> tuple[ProposalTrial, State]:
    """Sample for some time with one length."""
    # The first proposal tries the way back and fills caches; it is not timed.
    state = sampler.advance(start, 1).last
    before = sampler.statistics()
    rows: list[Tensor] = []
    began = time.process_time()
    spent = 0.0
    while len(rows) < _FEWEST or (spent < cpu_s and len(rows) < _MOST):
        state = sampler.advance(state, 1).last
        rows.append(coordinates(state).to("cpu", torch.float64))
        spent = time.process_time() - began
    after = sampler.statistics()
    n = after.proposals - before.proposals
    g, error = _inefficiency(torch.stack(rows, 1))
    trial = ProposalTrial(
        proposal_fs=sampler.frame_interval_fs,
        n_proposals=n,
        acceptance=(after.accepted - before.accepted) / n,
        cpu_s_per_proposal=spent / n,
        inefficiency=g,
        effective_per_cpu_s=n / g / max(spent, 1e-9),
        relative_error=error,
    )
    return trial, state


def _inefficiency(series: Tensor) -> tuple[float, float]:
    """Inefficiency of coordinates `(n_replicas, n, n_coordinates)`, and its relative error.

    The error is that of Sokal's windowed sum, sqrt(2 (2 W + 1) / N) with a window of g, as if
    all coordinates were one.
    """
    x = series - series.mean((0, 1))
    spread = x.square().mean((0, 1)).sqrt()
    moving = spread > 0
    if not bool(moving.any()):
        return float(series.shape[1]), 1.0
    scaled = (x[..., moving] / spread[moving]).movedim(-1, 0).flatten(0, 1)
    g = float(statistical_inefficiency(scaled))
    n = series.shape[0] * series.shape[1]
    return g, min(1.0, math.sqrt(2.0 * (2.0 * g + 1.0) / n))
