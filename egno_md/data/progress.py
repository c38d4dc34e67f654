"""A progress bar on stderr with rate and remaining time; silent when not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, str], None]


def _ignore(amount: int, note: str) -> None:
    """Stand in for the bar when nobody is watching."""


@contextmanager
def progress_bar(description: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Show how far a long job is.

    Args:
        description: what is being done.
        total: amount of work in all.
        done: amount already done, as after a resume.

    Yields:
        `advance(amount, note)`: adds to the amount done and shows a short note.
    """
    if not sys.stderr.isatty():
        yield _ignore
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total, completed=done, note="", rate="")

        def advance(amount: int, note: str) -> None:
            speed = bar.tasks[0].speed
            rate = f"{speed:.3g}/s" if speed else ""
            bar.update(task, advance=amount, note=note, rate=rate)

        yield advance
