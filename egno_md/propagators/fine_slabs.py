"""Many slabs of time, each from a start of its own, run side by side by one trusted propagator.

In this process, in worker processes, or wherever an executor takes them (a dask cluster). Workers
make the propagator themselves from a recipe, so that no model travels; what travels are arrays.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from egno_md.propagators.classical import VelocityVerlet
from egno_md.roles import Potential, Propagator
from egno_md.state import Molecule, State

#: Makes the trusted propagator. To be sent to workers it must be importable by name: a function
#: of a module, or `functools.partial` of one with names and numbers.
Recipe = Callable[[], Propagator]


class _Made(threading.local):
    """The last propagator made for a task, with the token of its recipe.

    Threads of a worker may run tasks of several recipes, and propagators remember forces, so each
    thread has its own.
    """

    token: str | None = None
    propagator: Propagator | None = None


_MADE = _Made()


def verlet_with(
    open_potential: Callable[[], Potential], timestep_fs: float, frame_interval_fs: float
) -> Propagator:
    """Make velocity Verlet; with `functools.partial`, the usual recipe.

    Args:
        open_potential: opens the potential, for example
            `functools.partial(ESCNPotential.from_bundle, "ethanol-escn")`.
        timestep_fs: integration step.
        frame_interval_fs: time between frames.

    Raises:
        ValueError: if the interval is not a multiple of the step.
        FileNotFoundError: if there is no such potential.
    """
    return VelocityVerlet(open_potential(), timestep_fs, frame_interval_fs, 1)


@dataclass(frozen=True, slots=True, eq=False)
class SolvedSlab:
    """What the trusted propagator made of one start.

    Attributes:
        positions: `(n_replicas, n_frames, n_atoms, 3)`, Å.
        velocities: same shape, Å/fs.
        potential_energies: `(n_replicas, n_frames)` float64, eV.
        cpu_s: processor time, the slab's share where several ran together.
        wall_s: wall-clock time likewise.
        together: how many ran together.
    """

    positions: Tensor
    velocities: Tensor
    potential_energies: Tensor
    cpu_s: float
    wall_s: float
    together: int


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """Starts of slabs of equal length, stacked as replicas, as arrays."""

    token: str
    recipe: Recipe | None
    n_threads: int
    deterministic: int
    numbers: np.ndarray
    masses: np.ndarray
    bonds: np.ndarray
    pbc: tuple[bool, bool, bool]
    positions: np.ndarray
    velocities: np.ndarray
    cell: np.ndarray | None
    n_frames: int


#: Positions, velocities and potential energies; processor and wall-clock time.
_Answer = tuple[np.ndarray, np.ndarray, np.ndarray, float, float]


def _solve_here(propagator: Propagator, state: State, n_frames: int) -> _Answer:
    """Run one task with a propagator of this process."""
    cpu, wall = time.process_time(), time.perf_counter()
    segment = propagator.advance(state, n_frames)
    arrays = (segment.positions, segment.velocities, segment.potential_energies)
    x, v, e = (a.detach().cpu().numpy() for a in arrays)
    return x, v, e, time.process_time() - cpu, time.perf_counter() - wall


def solve_task(task: _Task) -> _Answer:
    """Run one task in a worker; the propagator is made at the first and kept.

    Args:
        task: what to run.

    Raises:
        ValueError: as the propagator does.
    """
    torch.set_num_threads(task.n_threads)
    torch.set_deterministic_debug_mode(task.deterministic)
    propagator = _made_for(task)
    molecule = Molecule(
        torch.from_numpy(task.numbers.copy()),
        torch.from_numpy(task.masses.copy()),
        torch.from_numpy(task.bonds.copy()),
        pbc=task.pbc,
    )
    cell = None if task.cell is None else torch.from_numpy(task.cell.copy())
    x, v = torch.from_numpy(task.positions.copy()), torch.from_numpy(task.velocities.copy())
    return _solve_here(propagator, State(molecule, x, v, 0.0, cell), task.n_frames)


def _made_for(task: _Task) -> Propagator:
    """The propagator of a task: the last one of this thread, or a new one in its place."""
    known = _MADE.propagator
    if known is not None and _MADE.token == task.token:
        return known
    if task.recipe is None:
        raise ValueError("the worker was given no recipe for the trusted propagator")
    fresh = task.recipe()
    _MADE.token, _MADE.propagator = task.token, fresh
    return fresh


def _leave_interrupts_to_the_parent() -> None:
    """Go on at Ctrl-C: the run ends its segment, and then its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class FineSlabs:
    """Runs slabs with the trusted propagator, over workers where there are any.

    The numbers do not depend on where a slab runs, nor on how many workers there are. They may
    depend, in the last digits, on `slabs_at_once`, since a potential may sum a batch in another
    order.
    """

    def __init__(
        self,
        fine: Propagator | Recipe,
        *,
        n_workers: int = 1,
        executor: Any = None,  # noqa: ANN401 - anything with submit or map
        slabs_at_once: int = 1,
        n_threads: int | None = None,
    ) -> None:
        """Say who runs the slabs.

        Args:
            fine: the trusted propagator, or a recipe that makes it; workers need a recipe.
            n_workers: processes to start; 1 runs everything here.
            executor: used in place of processes of our own: anything with `submit` (an executor
                of `concurrent.futures`, a `dask.distributed.Client`) or `map`.
            slabs_at_once: slabs that one task runs together as replicas.
            n_threads: torch threads of a worker; those of this process when None.

        Raises:
            ValueError: if a number is out of range, workers are asked for without a recipe, or
                the executor can neither submit nor map.
        """
        for name, value in (("n_workers", n_workers), ("slabs_at_once", slabs_at_once)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        is_made = isinstance(fine, Propagator)
        if is_made and (n_workers > 1 or executor is not None):
            raise ValueError(
                "workers make the trusted propagator themselves: give a function that makes it, "
                "in place of the propagator"
            )
        can = [name for name in ("submit", "map") if callable(getattr(executor, name, None))]
        if executor is not None and not can:
            raise ValueError(
                f"executor is a {type(executor).__name__}, which has neither submit nor map"
            )
        self.fine: Propagator = fine if isinstance(fine, Propagator) else fine()
        self._recipe: Recipe | None = None if isinstance(fine, Propagator) else fine
        self.n_workers, self.slabs_at_once = n_workers, slabs_at_once
        self._executor, self._own = executor, executor is None and n_workers > 1
        self._n_threads = n_threads or torch.get_num_threads()
        self._token = uuid.uuid4().hex

    @property
    def remote(self) -> bool:
        """Whether slabs run outside this process."""
        return self._own or self._executor is not None

    def close(self) -> None:
        """End our own workers; the next `solve` starts new ones."""
        if self._own and self._executor is not None:
            self._executor.shutdown()
            self._executor = None

    def solve(
        self, starts: Sequence[State], n_frames: Sequence[int], *, first_alone: bool = False
    ) -> list[SolvedSlab | ValueError]:
        """Run a slab from each start.

        Args:
            starts: with as many replicas each.
            n_frames: frames of each slab.
            first_alone: run the first slab as a task of its own.

        Returns:
            For each start its slab, or the error with which the propagator gave it up.

        Raises:
            RuntimeError: if the workers fail, not the propagator.
        """
        groups = self._groups(n_frames, first_alone)
        jobs = [([starts[n] for n in group], n_frames[group[0]]) for group in groups]
        found: list[SolvedSlab | ValueError] = []
        for (group, length), answer in zip(jobs, self._answers(jobs), strict=True):
            if not isinstance(answer, ValueError):
                found += _apart(answer, len(group), group[0])
            elif len(group) == 1:
                found.append(answer)
            else:  # one bad start must not take the others along
                alone = self._answers([([start], length) for start in group])
                for one in alone:
                    found += [one] if isinstance(one, ValueError) else _apart(one, 1, group[0])
        return found

    def _groups(self, n_frames: Sequence[int], first_alone: bool) -> list[list[int]]:
        """Neighbours of equal length that run together."""
        groups: list[list[int]] = []
        for n, length in enumerate(n_frames):
            opens = not groups or len(groups[-1]) == self.slabs_at_once
            opens = opens or (first_alone and n == 1) or n_frames[groups[-1][0]] != length
            if opens:
                groups.append([])
            groups[-1].append(n)
        return groups

    def _answers(self, jobs: Sequence[tuple[list[State], int]]) -> list[_Answer | ValueError]:
        """Run one task for each group of starts."""
        stacked = [(_together(group), length) for group, length in jobs]
        if self.remote:
            return self._remote_answers([self._task(*job) for job in stacked])
        answers: list[_Answer | ValueError] = []
        for state, length in stacked:
            try:
                answers.append(_solve_here(self.fine, state, length))
            except ValueError as error:
                answers.append(error)
        return answers

    def _remote_answers(self, tasks: Sequence[_Task]) -> list[_Answer | ValueError]:
        """Send tasks out and wait for all."""
        if self._executor is None:
            spawn = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(
                self.n_workers, mp_context=spawn, initializer=_leave_interrupts_to_the_parent
            )
        if callable(getattr(self._executor, "submit", None)):
            waiting: Iterable[Any] = [self._executor.submit(solve_task, task) for task in tasks]
        else:
            waiting = self._executor.map(solve_task, tasks)
        answers: list[_Answer | ValueError] = []
        try:
            for one in waiting:
                try:
                    answers.append(one.result() if hasattr(one, "result") else one)
                except ValueError as error:
                    answers.append(error)
        except Exception as error:
            self.close()
            raise RuntimeError(
                f"a worker could not run a slab: {type(error).__name__}: {error}; the recipe must "
                "be importable by name and small, such as functools.partial of a function of a "
                "module, and the main program guarded by `if __name__ == '__main__'`"
            ) from error
        return answers

    def _task(self, state: State, n_frames: int) -> _Task:
        m = state.molecule
        return _Task(
            self._token,
            self._recipe,
            self._n_threads,
            torch.get_deterministic_debug_mode(),
            m.numbers.cpu().numpy(),
            m.masses.cpu().numpy(),
            m.bonds.cpu().numpy(),
            m.pbc,
            state.positions.detach().cpu().numpy(),
            state.velocities.detach().cpu().numpy(),
            None if state.cell is None else state.cell.cpu().numpy(),
            n_frames,
        )


def _together(group: Sequence[State]) -> State:
    """Stack starts as replicas; forces do not depend on the time, which is set to zero."""
    first = group[0]
    return first.with_(
        positions=torch.cat([s.positions for s in group]),
        velocities=torch.cat([s.velocities for s in group]),
        time_fs=0.0,
        cell=None if first.cell is None else first.cell.repeat(len(group), 1, 1),
    )


def _apart(answer: _Answer, n_slabs: int, like: State) -> list[SolvedSlab]:
    """Cut what `_together` stacked."""
    x, v, e, cpu_s, wall_s = answer
    home = like.positions
    parts = zip(
        torch.from_numpy(x).to(home).chunk(n_slabs),
        torch.from_numpy(v).to(home).chunk(n_slabs),
        torch.from_numpy(e).to(home.device).chunk(n_slabs),
        strict=True,
    )
    return [SolvedSlab(*part, cpu_s / n_slabs, wall_s / n_slabs, n_slabs) for part in parts]
