"""The loop that turns a propagator and a start into a trajectory on disk."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from egno_md.roles import Propagator
from egno_md.segment import Segment
from egno_md.state import State
from egno_md.trajectories.progress import Progress, silent
from egno_md.trajectories.store import TrajectoryWriter
from egno_md.trajectories.store_format import Precision, StoreHeader


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a run; everything made so far is in the store."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run came to, earlier sittings included.

    Attributes:
        store: folder of the store.
        n_frames: frames in the store, the start among them.
        n_replicas: number of replicas.
        length_ps: time covered by each replica.
        wall_s: wall-clock time spent on it.
        cpu_s: CPU time likewise.
        n_frames_now: frames made in this sitting.
    """

    store: Path
    n_frames: int
    n_replicas: int
    length_ps: float
    wall_s: float
    cpu_s: float
    n_frames_now: int

    @property
    def ps_per_s(self) -> float:
        """Simulated time of all replicas together over the wall-clock time."""
        return self.length_ps * self.n_replicas / self.wall_s if self.wall_s > 0 else math.inf


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How a new store is labelled and written.

    Attributes:
        precision: dtype of positions and velocities on disk.
        config: settings to keep with the trajectory.
        bundles: bundle name -> sha256 of its weights.
        seed: seed of the run.
        versions: package -> version.
        notes: what else the run wants to find again when it is continued, as JSON.
        flush_every_s: longest time between commits.
        flush_every_MB: most data held back between commits.
    """

    precision: Precision = "float32"
    config: Mapping[str, Any] = field(default_factory=dict)
    bundles: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    flush_every_s: float = 5.0
    flush_every_MB: float = 64.0


def generate(
    propagator: Propagator,
    start: State | None,
    *,
    length_ps: float,
    store: str | Path,
    resume: bool = False,
    options: StoreOptions | None = None,
    progress: Callable[[int, int], Progress] = silent,
    on_segment: Callable[[Segment], None] | None = None,
) -> RunSummary:
    """Run a propagator from a start and keep every frame.

    Frame 0 of the store is the start. The last segment is cut to the length asked for, which
    is rounded to whole frames. A run that was ended by a kill, a full disk or Ctrl-C goes on
    with `resume=True` as if nothing had happened, bit for bit. It may also be made longer.

    Args:
        propagator: makes the segments.
        start: first frame; not looked at, and may be None, when a store is continued.
        length_ps: time to cover, from the start.
        store: folder to make.
        resume: continue the store if it is there.
        options: labels and flushing; used at creation, flushing also on resume.
        progress: makes a progress display from (frames wanted, frames there).
        on_segment: called with each segment once the store has it.

    Raises:
        FileExistsError: if the store is there and `resume` is false.
        FileNotFoundError: if there is neither a store nor a start.
        ValueError: if the length is not positive, or a frame is not finite: the store then
            ends before the segment that failed, and resuming makes it fail again.
        OSError: if the disk is full or fails.
        RunInterrupted: on Ctrl-C or SIGTERM, after all that was made is safe.
    """
    n_wanted = frames_for(length_ps, propagator.frame_interval_fs)
    writer = _open_writer(propagator, start, Path(store), resume, options or StoreOptions())
    with writer, _stop_requests() as stop, progress(n_wanted, writer.n_frames - 1) as display:
        already = writer.n_frames
        while writer.n_frames - 1 < n_wanted and not stop.asked:
            segment = _advance(propagator, writer.state, n_wanted - (writer.n_frames - 1))
            writer.append(segment, propagator.restart_state())
            display.advance(segment)
            if on_segment is not None:
                on_segment(segment)
        writer.flush()
        summary = _summarise(writer, propagator.frame_interval_fs, already)
    if stop.asked and summary.n_frames - 1 < n_wanted:
        raise RunInterrupted(
            f"stopped at {summary.length_ps:g} of {length_ps:g} ps; everything is in "
            f"{summary.store}, continue with --resume"
        )
    return summary


def frames_for(length_ps: float, frame_interval_fs: float) -> int:
    """Return the number of frames after the start that cover a length, at least 1.

    Raises:
        ValueError: if the length is not positive and finite.
    """
    if not 0.0 < length_ps < math.inf:
        raise ValueError(f"length_ps must be a positive number, got {length_ps}")
    return max(1, round(length_ps * 1000.0 / frame_interval_fs))


def _open_writer(
    propagator: Propagator, start: State | None, path: Path, resume: bool, options: StoreOptions
) -> TrajectoryWriter:
    flushing = {
        "flush_every_s": options.flush_every_s,
        "flush_every_MB": options.flush_every_MB,
    }
    if resume and path.exists():
        writer = TrajectoryWriter.resume(path, **flushing)
        try:
            _check_interval(writer, propagator)
            propagator.restore(writer.propagator_state)
        except BaseException:
            writer.close()
            raise
        return writer
    if start is None:
        raise FileNotFoundError(f"there is no store at {path} to continue and no start is given")
    header = StoreHeader(
        start.molecule,
        start.n_replicas,
        propagator.frame_interval_fs,
        options.precision,
        start.cell is not None,
        options.config,
        options.bundles,
        options.seed,
        options.versions,
        options.notes,
    )
    return TrajectoryWriter.create(path, header, start, propagator.restart_state(), **flushing)


def _check_interval(writer: TrajectoryWriter, propagator: Propagator) -> None:
    stored, given = writer.header.frame_interval_fs, propagator.frame_interval_fs
    if stored != given:
        raise ValueError(
            f"{writer.path} has a frame every {stored} fs, the propagator gives one every "
            f"{given} fs: continue with the settings the store was made with"
        )


def _advance(propagator: Propagator, state: State, n_left: int) -> Segment:
    """Make the next segment, cut to what is left."""
    part = n_left if n_left < propagator.n_frames else None
    segment = propagator.advance(state, part)
    if segment.n_frames > n_left:
        raise ValueError(
            f"{type(propagator).__name__} gave {segment.n_frames} frames where {n_left} were asked"
        )
    return segment


def _summarise(writer: TrajectoryWriter, frame_interval_fs: float, already: int) -> RunSummary:
    return RunSummary(
        store=writer.path,
        n_frames=writer.n_committed,
        n_replicas=writer.header.n_replicas,
        length_ps=(writer.n_committed - 1) * frame_interval_fs / 1000.0,
        wall_s=writer.wall_s,
        cpu_s=writer.cpu_s,
        n_frames_now=writer.n_committed - already,
    )


class _StopRequest:
    """Whether the user asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.asked:  # the second time, do not wait for the segment
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def _stop_requests() -> Iterator[_StopRequest]:
    """Turn Ctrl-C and SIGTERM into a request that is honoured between segments."""
    request = _StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, request) for number in signals]
    try:
        yield request
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
