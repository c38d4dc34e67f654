"""Processor time inside a door and inside the model behind it, told apart as they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


class ModelClock:
    """Adds up the processor time that calls of a model take.

    Attributes:
        seconds: so far.
        calls: so many.
    """

    def __init__(self) -> None:
        """Start at zero."""
        self.seconds, self.calls = 0.0, 0
        self._inside = False

    def watch(self, model: object, *names: str) -> None:
        """Time some methods of one object from now on.

        Args:
            model: its methods are replaced by ones that are timed.
            names: of the methods; calls from one to another count once.
        """
        for name in names:
            setattr(model, name, self._timed(getattr(model, name)))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:  # noqa: ANN401
            if self._inside:
                return method(*given, **named)
            self._inside = True
            start = time.process_time()
            try:
                return method(*given, **named)
            finally:
                self.seconds += time.process_time() - start
                self.calls += 1
                self._inside = False

        return timed


@dataclass(frozen=True, slots=True)
class Door:
    """Something that asks a model.

    Attributes:
        name: of its row.
        per: what one unit of its work is, such as a step.
        act: does some units.
        units: how many.
        prepare: done before every act, not timed.
    """

    name: str
    per: str
    act: Callable[[], object]
    units: int = 1
    prepare: Callable[[], object] | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One act of a door.

    Attributes:
        outside: processor time outside the model, s per unit.
        inside: inside, s per unit.
    """

    outside: float
    inside: float


def take_turns(
    doors: Sequence[Door], clock: ModelClock, rounds: int, warm: int = 2
) -> list[list[Turn]]:
    """Let every door act in turn, so that what else the machine does falls on all alike.

    Args:
        doors: with one clock among them.
        clock: watches the models of all.
        rounds: timed turns of each.
        warm: rounds before.

    Returns:
        The turns of each door.
    """
    turns: list[list[Turn]] = [[] for _ in doors]
    for k in range(warm + rounds):
        for door, mine in zip(doors, turns, strict=True):
            if door.prepare is not None:
                door.prepare()
            before = clock.seconds
            start = time.process_time()
            door.act()
            total = time.process_time() - start
            inside = clock.seconds - before
            if k >= warm:
                mine.append(Turn((total - inside) / door.units, inside / door.units))
    return turns
