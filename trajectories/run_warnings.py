"""What a run warns of: said once on stderr, and kept for run.json and the report."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO


class RunWarnings:
    """Collects the warnings of a run.

    Two that differ in their numbers only are one: an equilibration and the run after it find
    slightly different vibrations.
    """

    def __init__(self) -> None:
        """Start without any."""
        self._said: list[str] = []
        self._kinds: set[str] = set()

    @property
    def lines(self) -> tuple[str, ...]:
        """What was warned of, in order."""
        return tuple(self._said)

    def say(self, text: str) -> None:
        """Print a warning and keep it, unless it was said.

        Args:
            text: one sentence without a full stop.
        """
        if self.keep([text]):
            print(f"egno-md: warning: {text}", file=sys.stderr)

    def keep(self, lines: Iterable[str]) -> bool:
        """Keep warnings without a word, those of earlier sittings for example.

        Args:
            lines: sentences.

        Returns:
            Whether any was new.
        """
        before = len(self._said)
        for text in lines:
            kind = re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", text)
            if kind not in self._kinds:
                self._kinds.add(kind)
                self._said.append(text)
        return len(self._said) > before

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Say the library's `RuntimeWarning`s like the run's own, and leave others alone."""

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, RuntimeWarning):
                self.say(" ".join(str(message).split()))
            else:
                shown(message, category, filename, lineno, file, line)

        with warnings.catch_warnings():
            shown = warnings.showwarning
            warnings.filterwarnings("always", category=RuntimeWarning, module=r"egno_md\b")
            warnings.showwarning = show
            yield
