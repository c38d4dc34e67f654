"""From the turns of each row to the tables of `egno-md benchmark acceleration`.

Break-even: a row spends its training once and c' seconds of processor time for each effective
sample, Langevin dynamics spends c. After training / (c - c') samples the row has been cheaper;
said in the length of Langevin dynamics, summed over replicas, that holds as many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from egno_md.benchmarks.acceleration_rows import BY_OPENMM, ROWS, YARDSTICK, Contestant
from egno_md.benchmarks.rollout_measures import BOND_LIMIT_A, Record
from egno_md.benchmarks.rollout_reference import TIMESTEP_FS, RolloutPlan
from egno_md.benchmarks.rollout_subject import Subject
from egno_md.benchmarks.table import Cell, Table
from egno_md.state import Molecule
from egno_md.trajectories.comparison import Comparison, Difference, bins_for, compare
from egno_md.trajectories.cost_ledger import duration
from egno_md.trajectories.effective_samples import (
    FEWEST,
    FEWEST_EACH,
    EffectiveSamples,
    SlowSeries,
)
from egno_md.trajectories.run_setup import seeded
from egno_md.trajectories.statistics import trajectory_statistics

#: Blocks that the errors of a row come from, at least.
_MIN_BLOCKS: Final = 16

#: Frames of all replicas together that fill histograms of 60 bins, at least.
_FEWEST_FRAMES: Final = 60

_TOO_SHORT: Final = "too short"


@dataclass(frozen=True, slots=True)
class Counted:
    """Effective samples of a run, and how long it was.

    Attributes:
        name: what the run is called in a sentence.
        replica_ps: length of all replicas together.
        n_failed: replicas that failed.
        effective: independent samples, or None.
    """

    name: str
    replica_ps: float
    n_failed: int
    effective: EffectiveSamples | None


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """All turns of a row.

    Attributes:
        contestant: the row.
        positions: `(n_replicas, n_frames, n_atoms, 3)` float32, Å, NaN of failed replicas.
        temperatures_K: `(n_replicas, n_frames, 2)`, of hydrogens and of others.
        failed_fs: `(n_replicas,)`, when a replica failed, or NaN.
        cpu_s: processor time.
        proposals: of all replicas; 0 where nothing is proposed.
        accepted: likewise.
        effective: independent samples, or None.
        lender: a run of alike dynamics, whose samples per ps are taken where it is the longer one:
            a run hardly longer than its correlations takes them for shorter than they are.
        longest_row: most proposals in a row that one replica had rejected.
    """

    contestant: Contestant
    positions: Tensor
    temperatures_K: Tensor
    failed_fs: Tensor
    cpu_s: float
    proposals: int
    accepted: int
    effective: EffectiveSamples | None
    lender: Counted | None = None
    longest_row: int = 0

    @property
    def n_failed(self) -> int:
        """Replicas that failed."""
        return int((~torch.isnan(self.failed_fs)).sum())

    @property
    def replica_ps(self) -> float:
        """Length of all replicas together."""
        n, frames = self.positions.shape[:2]
        return n * frames * self.contestant.interval_fs * 1e-3

    def as_lender(self, name: str) -> Counted:
        """This row as a lender of samples per ps."""
        return Counted(name, self.replica_ps, self.n_failed, self.effective)

    @property
    def counted(self) -> Counted:
        """The run that samples per ps are counted in: this one, or the lender if that is longer."""
        longer = self.lender is not None and self.lender.replica_ps > self.replica_ps
        return self.lender if self.lender is not None and longer else self.as_lender("this row")

    def per_ps(self, slowest: bool) -> float | None:
        """Effective samples per ps; None where a replica failed or there are too few."""
        one = self.counted
        if one.effective is None or one.n_failed or self.n_failed:
            return None
        n = one.effective.slowest if slowest else one.effective.mean
        return n / one.replica_ps if n >= one.effective.needed else None

    def rate(self, slowest: bool) -> float | None:
        """Effective samples per CPU-second; None where a replica failed or there are too few."""
        found = self.per_ps(slowest)
        return None if found is None or self.cpu_s <= 0 else found * self.replica_ps / self.cpu_s

    @property
    def relative_error(self) -> float:
        """Of the rate by the mean correlation, about: sqrt(2 (2 g + 1) / N), Sokal's window."""
        found = self.counted.effective
        if found is None:
            return math.nan
        n, g = found.n_frames, found.n_frames / found.mean
        return min(1.0, math.sqrt(2.0 * (2.0 * g + 1.0) / n))


def joined(contestant: Contestant, turns: Sequence[Record]) -> Sampled:
    """Put the turns of a row together.

    Args:
        contestant: the row.
        turns: its records, in order.
    """
    x = torch.cat([turn["positions"] for turn in turns], 1)
    slow = SlowSeries(
        contestant.molecule,
        n_replicas=x.shape[0],
        n_frames=x.shape[1],
        frame_interval_fs=contestant.interval_fs,
    )
    slow.add(x)
    return Sampled(
        contestant,
        x,
        torch.cat([turn["temperatures_K"] for turn in turns], 1),
        turns[-1]["failed_fs"],
        float(sum(float(turn["cpu_s"]) for turn in turns)),
        int(sum(int(turn["proposals"]) for turn in turns)),
        int(sum(int(turn["accepted"]) for turn in turns)),
        slow.result(),
        longest_row=int(turns[-1].get("restart.longest_row", torch.zeros(1)).max()),
    )


def tables_of(
    found: Mapping[str, Sampled],
    reference: Record,
    subject: Subject,
    plan: RolloutPlan,
    minutes: float,
    notes: Sequence[str],
) -> list[Table]:
    """Make the tables.

    Args:
        found: the rows.
        reference: the classical run.
        subject: what was measured.
        plan: the protocol.
        minutes: processor time of each row.
        notes: of the cheap potential.
    """
    molecule = subject.start.molecule
    speed, quality = _speed(subject, plan, minutes), _quality(reference, subject)
    speed.notes += [*notes, *_remarks(found)]
    yardstick = found[YARDSTICK]
    for row, one in found.items():
        speed.add(ROWS[row][0], *_speeds(one, yardstick))
        draws = seeded(plan.seed, f"{row} comparison")
        against = _compared(one, reference, molecule, draws)
        quality.add(ROWS[row][0], *_qualities(one, against))
    return [speed, quality]


def _speed(subject: Subject, plan: RolloutPlan, minutes: float) -> Table:
    return Table(
        "acceleration",
        f"{subject.name} on {subject.potential_name}, {plan.temperature_K:g} K: "
        f"{plan.n_replicas} replicas in one batch, one thread, {minutes:g} CPU minutes for each "
        "row, all rows in turn. Baths have a friction of "
        f"{plan.friction_per_ps:g}/ps; seed {plan.seed}. Effective samples: N / g of slow "
        "coordinates (distances three bonds apart, torsions), by their mean correlation ± its "
        f"error, and of the slowest; {_TOO_SHORT}: fewer than {FEWEST:g}, or {FEWEST_EACH:g} for "
        "each replica. Failed: a bond "
        f"{BOND_LIMIT_A:g} Å off, or not finite. Break-even: with the training counted, "
        "the length of 0.5 fs Langevin dynamics that costs as much for as many effective samples.",
        (
            "row",
            "accepted",
            "ps",
            "CPU s/ps",
            "effective samples per CPU-s",
            "times Langevin 0.5 fs",
            "of the slowest, per CPU-s",
            "times Langevin 0.5 fs, slowest",
            "replicas failed",
            "first failure, ps",
            "break-even",
        ),
    )


def _quality(reference: Record, subject: Subject) -> Table:
    n, frames = (int(reference[key]) for key in ("n_replicas", "n_frames"))
    interval_fs = float(reference["frame_interval_fs"])
    what = (
        f"Langevin dynamics with the true potential ({TIMESTEP_FS:g} fs; {n} replicas of "
        f"{1e-3 * frames * interval_fs:.3g} ps)"
    )
    if "effective_share" in reference:
        mean_ps = 1e-3 * interval_fs * float(reference["block_frames"].double().mean())
        what = (
            f"Langevin dynamics with the cheap potential ({TIMESTEP_FS:g} fs; {n} replicas of "
            f"{mean_ps:.3g} ps), whose frames, {interval_fs:g} fs apart, are weighed by energies "
            f"of {subject.potential_name} (effective share of the frames: "
            f"{float(reference['effective_share']):.0%}), which makes them samples of it"
        )
    return Table(
        "acceleration-divergences",
        f"The runs of the table `acceleration` against {what}: Jensen-Shannon divergence (natural "
        "logarithm), mean of the classes of alike bonds and torsions; floor: of pieces of the "
        "reference as long as the run, against the rest. Temperatures: kinetic.",
        (
            "row",
            "bond JSD",
            "its floor",
            "torsion JSD",
            "its floor",
            "worst torsion JSD / floor",
            "T of hydrogens, K",
            "T of other atoms, K",
        ),
        notes=[
            "Fixed bonds have no distribution, so the bond divergence of rows with constraints "
            "is what they cost; their kinetic temperatures by element are not those of free atoms. "
            "Rows in which replicas failed: the frames before."
        ],
    )


def _remarks(found: Mapping[str, Sampled]) -> list[str]:
    """What readers of the ratios must know."""
    yardstick = found[YARDSTICK]
    said, lender = [], yardstick.counted
    if lender is yardstick.lender:
        own = replace(yardstick, lender=None).rate(slowest=False)
        counted = "are too few to count" if own is None else f"would make that {own:.3g} per CPU-s"
        said.append(
            f"Langevin dynamics at 0.5 fs: samples per ps as in the {lender.replica_ps:.0f} ps of "
            f"{lender.name}, cost as measured. Its own "
            f"{yardstick.replica_ps:.0f} ps {counted}; a run hardly longer than its correlations "
            "takes them for shorter than they are."
        )
    if yardstick.rate(slowest=True) is None:
        said.append(
            "Langevin dynamics at 0.5 fs is too short here to count the samples of the slowest "
            "coordinate: give more --cpu-minutes."
        )
    rows = [f'"{ROWS[row][0]}" {one.longest_row}' for row, one in found.items() if one.proposals]
    if rows:
        said.append(f"Most proposals in a row that one replica had rejected: {'; '.join(rows)}.")
    each = [f'"{ROWS[row][0]}" {_said(found[row])}' for row in BY_OPENMM if row in found]
    if each:
        said.append(
            f"OpenMM by itself, effective samples per CPU-second: {'; '.join(each)}. On this "
            "potential that is what other rows have to beat, not the first, which is slower by "
            "taking its steps in Python."
        )
    return said


def _said(one: Sampled) -> str:
    """The rate of a row, or why there is none."""
    rate = one.rate(slowest=False)
    if rate is None:
        return f"none, {one.n_failed} replicas failed" if one.n_failed else _TOO_SHORT
    return f"{rate:.3g}"


def _speeds(one: Sampled, yardstick: Sampled) -> tuple[str | float | Cell | None, ...]:
    mean, slowest = one.rate(slowest=False), one.rate(slowest=True)
    error = one.relative_error
    first = one.failed_fs[~torch.isnan(one.failed_fs)]
    short = None if one.n_failed else _TOO_SHORT
    return (
        f"{one.accepted / one.proposals:.1%}" if one.proposals else None,
        one.replica_ps,
        one.cpu_s / one.replica_ps if one.replica_ps else None,
        short if mean is None else Cell(mean, mean * error),
        _ratio(mean, yardstick.rate(slowest=False), math.hypot(error, yardstick.relative_error)),
        short if slowest is None else slowest,
        _ratio(slowest, yardstick.rate(slowest=True), None),
        f"{one.n_failed} of {len(one.failed_fs)}",
        float(first.min()) * 1e-3 if len(first) else None,
        break_even(one, yardstick),
    )


def _ratio(mine: float | None, theirs: float | None, error: float | None) -> Cell | None:
    if mine is None or theirs is None:
        return None
    ratio = mine / theirs
    return Cell(ratio, None if error is None else ratio * error)


def break_even(one: Sampled, yardstick: Sampled) -> str | None:
    """Length of the yardstick's dynamics from which on a row is cheaper, training included.

    Args:
        one: the row.
        yardstick: Langevin dynamics.

    Returns:
        A length, "at once" without training, "never", or None where it cannot be told.
    """
    mine, theirs = one.rate(slowest=False), yardstick.rate(slowest=False)
    training = one.contestant.training_cpu_s
    if mine is None or theirs is None or training is None or one is yardstick:
        return None
    saved = 1.0 / theirs - 1.0 / mine
    if saved <= 0.0:
        return "never"
    if training == 0.0:
        return "at once"
    per_ps = yardstick.per_ps(slowest=False)
    assert per_ps is not None
    return duration(training / saved / per_ps)


def _compared(
    one: Sampled, reference: Record, molecule: Molecule, draws: torch.Generator
) -> Comparison | None:
    """The row against the reference; None with too few frames for a histogram."""
    # Frames no closer than the reference's, so that its pieces are as noisy as the run.
    every = max(1, round(float(reference["frame_interval_fs"]) / one.contestant.interval_fs))
    frames = one.positions[:, every - 1 :: every]
    if int(torch.isfinite(frames).flatten(2).all(2).sum()) < _FEWEST_FRAMES:
        return None
    statistics = trajectory_statistics(
        molecule,
        frames,
        frame_interval_fs=every * one.contestant.interval_fs,
        bins=bins_for(reference, molecule),
        blocks_per_replica=-(-_MIN_BLOCKS // one.positions.shape[0]),
    )
    return compare(statistics, reference, molecule, draws)


def _qualities(one: Sampled, against: Comparison | None) -> tuple[str | float | Cell | None, ...]:
    kelvins: list[Cell | None] = [None, None]
    if one.contestant.equal_temperatures:
        kelvins = [_mean(one.temperatures_K[..., k]) for k in range(2)]
    if against is None:
        return (None, None, None, None, None, *kelvins)
    bonds, torsions = against.bond_mean, against.torsions
    return (
        _value(bonds),
        bonds.floor if bonds else None,
        sum(d.value for d in torsions) / len(torsions) if torsions else None,
        sum(d.floor for d in torsions) / len(torsions) if torsions else None,
        max((d.ratio for d in torsions), default=None),
        *kelvins,
    )


def _value(found: Difference | None) -> Cell | None:
    if found is None:
        return None
    return Cell(found.value, None if math.isnan(found.error) else found.error)


def _mean(series: Tensor) -> Cell | None:
    """Mean over replicas of their means, with its standard error; NaN left out."""
    means = series.nanmean(1)
    means = means[torch.isfinite(means)]
    if not len(means):
        return None
    if len(means) == 1:
        return Cell(float(means[0]))
    return Cell(float(means.mean()), float(means.std() / len(means) ** 0.5), len(means))
