"""What parareal did, what it cost, and what it would cost with more workers.

The cost model: n slabs, K iterations, P workers, f and g the times of a slab by the trusted and by
the coarse propagator, o the overhead of a task,

    T_serial = n f
    T_P = n g + sum over k = 1 .. K of [ceil((n - k + 1) / P) (f + o) + (n - k) g]

because in iteration k the first k - 1 slabs are exact already, all others are run by the trusted
propagator side by side, and the coarse one follows the correction in order. (Lions, Maday and
Turinici, C. R. Acad. Sci. Paris 332, 661 (2001), doi:10.1016/S0764-4442(00)01793-6, whose n/K is
the limit of many workers and g = o = 0.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Final, Self

import torch
from torch import Tensor

from egno_md.propagators.fine_slabs import SolvedSlab
from egno_md.propagators.slab_window import SlabWindow

#: Windows and slab times that are remembered.
_MEMORY = 1000

#: Fields of a report by their kind, in the order of restart records.
_COUNTS: Final = (
    "slabs",
    "serial_slabs",
    "iterations",
    "fine_solves",
    "coarse_solves",
    "refusals",
)
_SECONDS: Final = ("wall_s", "fine_cpu_s", "coarse_cpu_s", "start_s", "remote_cpu_s")
_LATEST: Final = ("coarse_alone_cpu_s", "alone_cpu_s", "alone_wall_s")


@dataclass(frozen=True, slots=True)
class WindowReport:
    """One window: slabs that were iterated together.

    Attributes:
        n_slabs: slabs at its start.
        n_accepted: slabs whose frames were kept; less where the window was cut.
        iterations: rounds of the trusted propagator.
        changes_A: largest change of a position in each round, over what was left of the window.
        fine_solves: slabs run by the trusted propagator.
        coarse_solves: slabs run by the coarse one.
        reason: why it was cut; empty when it was not.
    """

    n_slabs: int
    n_accepted: int
    iterations: int
    changes_A: tuple[float, ...]
    fine_solves: int
    coarse_solves: int
    reason: str = ""


@dataclass(slots=True)
class PararealReport:
    """Sums over all windows since the propagator was made.

    Attributes:
        windows: the latest ones, in order.
        slabs: slabs whose frames were kept.
        serial_slabs: those among them that were run one after the other, after a refusal.
        iterations: rounds of the trusted propagator.
        fine_solves: slabs it ran, the serial ones too.
        coarse_solves: slabs the coarse one ran.
        refusals: how often the coarse model was found too poor.
        wall_s: wall-clock time of it all.
        fine_cpu_s: processor time of the trusted propagator, wherever it ran.
        coarse_cpu_s: processor time of the coarse one.
        start_s: wall-clock time of a first slab by the coarse one, before all that: it may compile.
        remote_cpu_s: the part of `fine_cpu_s` that was spent in other processes.
        coarse_alone_cpu_s: processor times of the coarse one's latest slabs of full length.
        alone_cpu_s: processor times of the latest slabs of full length that ran alone.
        alone_wall_s: their wall-clock times.
    """

    windows: list[WindowReport] = field(default_factory=list)
    slabs: int = 0
    serial_slabs: int = 0
    iterations: int = 0
    fine_solves: int = 0
    coarse_solves: int = 0
    refusals: int = 0
    wall_s: float = 0.0
    fine_cpu_s: float = 0.0
    coarse_cpu_s: float = 0.0
    start_s: float = 0.0
    remote_cpu_s: float = 0.0
    coarse_alone_cpu_s: list[float] = field(default_factory=list)
    alone_cpu_s: list[float] = field(default_factory=list)
    alone_wall_s: list[float] = field(default_factory=list)

    @property
    def fine_slab_cpu_s(self) -> float:
        """Processor time of one slab by the trusted propagator, the median; NaN before any."""
        return median(self.alone_cpu_s) if self.alone_cpu_s else math.nan

    @property
    def coarse_slab_cpu_s(self) -> float:
        """Processor time of one slab by the coarse propagator, the median; NaN before any."""
        return median(self.coarse_alone_cpu_s) if self.coarse_alone_cpu_s else math.nan

    @property
    def wall_speed_up(self) -> float:
        """Time that the slabs would have taken one after the other, over the time they took."""
        if not self.alone_wall_s or self.wall_s <= 0:
            return math.nan
        return self.slabs * median(self.alone_wall_s) / self.wall_s

    @property
    def work_ratio(self) -> float:
        """Processor time spent over that of the serial trusted run: the price of parallelism."""
        serial = self.slabs * self.fine_slab_cpu_s
        return (self.fine_cpu_s + self.coarse_cpu_s) / serial if serial > 0 else math.nan

    def projected(self, n_workers: int, task_overhead_s: float = 0.0) -> float:
        """Return the speed-up with so many workers, by the cost model, windows as they were.

        Args:
            n_workers: workers, each as fast as this machine's core.
            task_overhead_s: sending and fetching one slab.
        """
        f, g = self.fine_slab_cpu_s, self.coarse_slab_cpu_s
        times = [
            parallel_time(w.n_slabs, w.iterations, n_workers, f, g, task_overhead_s)
            for w in self.windows
        ]
        serial = f * sum(w.n_accepted for w in self.windows)
        return serial / sum(times) if times else math.nan

    def add(self, window: SlabWindow, n_tried: int) -> None:
        """Count a window that is done; the oldest is forgotten after a thousand.

        Args:
            window: the latest.
            n_tried: slabs it was to have.
        """
        done = WindowReport(
            n_tried,
            len(window.slabs),
            window.rounds,
            tuple(window.worst_A),
            window.fine_solves,
            window.coarse_solves,
            window.reason,
        )
        self.windows = [*self.windows[1 - _MEMORY :], done]
        self.slabs += done.n_accepted
        self.iterations += done.iterations
        self.fine_solves += done.fine_solves
        self.coarse_solves += done.coarse_solves

    def note(self, slab: SolvedSlab, *, whole: bool, remote: bool = False) -> None:
        """Count what a slab by the trusted propagator cost.

        Args:
            slab: as it came back.
            whole: whether it was of full length.
            remote: whether another process ran it.
        """
        self.fine_cpu_s += slab.cpu_s
        self.remote_cpu_s += slab.cpu_s if remote else 0.0
        if whole and slab.together == 1:
            self.alone_cpu_s = [*self.alone_cpu_s[1 - _MEMORY :], slab.cpu_s]
            self.alone_wall_s = [*self.alone_wall_s[1 - _MEMORY :], slab.wall_s]

    def note_coarse(self, cpu_s: float, *, whole: bool) -> None:
        """Count what a slab by the coarse propagator cost.

        Args:
            cpu_s: its processor time.
            whole: whether it was of full length.
        """
        self.coarse_cpu_s += cpu_s
        if whole:
            self.coarse_alone_cpu_s = [*self.coarse_alone_cpu_s[1 - _MEMORY :], cpu_s]

    def refused(self, n_slabs: int, cpu_s: float) -> None:
        """Count slabs run in series after a refusal.

        Args:
            n_slabs: how many.
            cpu_s: what they cost.
        """
        self.refusals += 1
        self.slabs += n_slabs
        self.serial_slabs += n_slabs
        self.fine_solves += n_slabs
        self.fine_cpu_s += cpu_s

    def to_tensors(self) -> dict[str, Tensor]:
        """Return all of it as tensors of a restart record; `from_tensors` reads them."""
        windows = [
            (
                w.n_slabs,
                w.n_accepted,
                w.iterations,
                w.fine_solves,
                w.coarse_solves,
                len(w.changes_A),
            )
            for w in self.windows
        ]
        reasons = "\n".join(w.reason.replace("\n", " ") for w in self.windows)
        seconds = {name: getattr(self, name) for name in (*_SECONDS, *_LATEST)}
        return {
            "counts": torch.tensor([getattr(self, name) for name in _COUNTS]),
            "windows": torch.tensor(windows, dtype=torch.int64).reshape(-1, 6),
            "changes_A": torch.tensor(
                [c for w in self.windows for c in w.changes_A], dtype=torch.float64
            ),
            "reasons": torch.tensor(list(reasons.encode()), dtype=torch.uint8),
        } | {name: torch.tensor(value, dtype=torch.float64) for name, value in seconds.items()}

    @classmethod
    def from_tensors(cls, saved: Mapping[str, Tensor]) -> Self:
        """Read what `to_tensors` gave.

        Args:
            saved: the tensors; an empty report where there are none.
        """
        report = cls()
        if "counts" not in saved:
            return report
        for name, count in zip(_COUNTS, saved["counts"].tolist(), strict=True):
            setattr(report, name, count)
        for name in (*_SECONDS, *_LATEST):
            if name in saved:  # an earlier version did not keep all of them
                setattr(report, name, saved[name].tolist())
        reasons = bytes(saved["reasons"].tolist()).decode().split("\n")
        changes = saved["changes_A"].tolist()
        for row, reason in zip(saved["windows"].tolist(), reasons, strict=False):
            n_slabs, n_accepted, iterations, fine_solves, coarse_solves, n = row
            mine, changes = tuple(changes[:n]), changes[n:]
            report.windows.append(
                WindowReport(
                    n_slabs, n_accepted, iterations, mine, fine_solves, coarse_solves, reason
                )
            )
        return report

    def text(self) -> str:
        """Return a few lines for people."""
        n = max(1, len(self.windows))
        last = self.windows[-1] if self.windows else None
        lines = [
            f"parareal: {self.slabs} slabs in {len(self.windows)} windows, "
            f"{self.iterations / n:.1f} iterations each; {self.serial_slabs} slabs in series after "
            f"{self.refusals} refusals"
        ]
        if last is not None and last.changes_A:
            changes = ", ".join(f"{c:.1e}" for c in last.changes_A)
            lines.append(f"last window: largest changes {changes} Å")
        if self.alone_cpu_s and self.windows:
            more = ", ".join(f"{p}: {self.projected(p):.1f}" for p in (2, 16, 64, 256))
            first = f" after a start of {self.start_s:.0f} s" if self.start_s >= 1.0 else ""
            lines.append(
                f"speed-up measured {self.wall_speed_up:.2f}{first}, work {self.work_ratio:.2f} "
                f"times the serial run's; projected by workers {more}"
            )
        return "\n".join(lines)


def parallel_time(
    n_slabs: int, iterations: int, n_workers: int, fine: float, coarse: float, overhead: float = 0.0
) -> float:
    """Time of a window by the cost model above.

    Args:
        n_slabs: n.
        iterations: K.
        n_workers: P.
        fine: f, any unit of time.
        coarse: g, same unit.
        overhead: o, same unit.

    Raises:
        ValueError: if there is not at least one slab and one worker.
    """
    if n_slabs < 1 or n_workers < 1:
        raise ValueError(f"{n_slabs} slabs on {n_workers} workers: there must be one at least")
    total = n_slabs * coarse
    for k in range(1, min(iterations, n_slabs) + 1):
        total += math.ceil((n_slabs - k + 1) / n_workers) * (fine + overhead)
        total += (n_slabs - k) * coarse
    return total
