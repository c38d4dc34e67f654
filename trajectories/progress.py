"""A progress bar on stderr with rate and remaining time; silent when nobody watches."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from egno_md.segment import MadeBy, Segment


class Progress(Protocol):
    """Follows a run; entered before the first segment and left after the last."""

    def __enter__(self) -> Self:
        """Start."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        ...

    def advance(self, segment: Segment) -> None:
        """Take note of a segment."""
        ...


class _Silent:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        return None

    def advance(self, segment: Segment) -> None:
        return None


def silent(n_wanted: int, n_there: int) -> Progress:
    """Show nothing."""
    return _Silent()


class _Bar:
    """Progress of all replicas together."""

    def __init__(self, n_wanted: int, n_there: int, frame_interval_fs: float, label: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._ps = frame_interval_fs / 1000.0
        self._network = self._made = 0
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %  {task.completed:.4g}/{task.total:.4g} ps"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(label, total=n_wanted * self._ps, rate="")
        self._bar.update(self._task, completed=n_there * self._ps)

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def advance(self, segment: Segment) -> None:
        self._made += segment.made_by.numel()
        self._network += int((segment.made_by == int(MadeBy.NETWORK)).sum())
        self._bar.update(self._task, advance=segment.n_frames * self._ps)
        speed = self._bar.tasks[self._task].speed
        if speed is not None:
            share = self._network / self._made
            rate = f"{speed * segment.n_replicas:.3g} ps/s"
            self._bar.update(
                self._task, rate=rate + (f", network {share:.1%}" if self._network else "")
            )


def bar(n_wanted: int, n_there: int, frame_interval_fs: float, label: str = "running") -> Progress:
    """Show a bar on stderr if it is a terminal, nothing otherwise.

    Args:
        n_wanted: frames to make in all.
        n_there: frames made before.
        frame_interval_fs: time between frames.
        label: what is going on, in a word.
    """
    import sys

    if not sys.stderr.isatty():
        return silent(n_wanted, n_there)
    return _Bar(n_wanted, n_there, frame_interval_fs, label)
