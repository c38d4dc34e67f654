"""Writing a trajectory so that neither a kill nor a full disk costs what was committed.

Segments are buffered; every few seconds, or after so many megabytes, they are written and
then *committed*: chunks first, events next, the restart file after them, and last the record
that makes it all count, each forced to the disk before the next. A kill at any moment leaves
the previous commit whole, and the run goes on from there bit for bit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import torch
import zarr
from torch import Tensor

from egno_md.segment import Segment
from egno_md.state import State
from egno_md.trajectories import restart as restart_file
from egno_md.trajectories.restart import Restart
from egno_md.trajectories.store_content import check_fits, check_follows, columns, start_segment
from egno_md.trajectories.store_folder import (
    create_arrays,
    drop_beyond,
    explained,
    open_array,
    take_lock,
)
from egno_md.trajectories.store_format import (
    COMMIT_FILE,
    EVENTS_FILE,
    JOURNAL,
    Commit,
    StoreHeader,
    array_layouts,
    replace_file,
    sync_file,
)
from egno_md.trajectories.store_reader import TrajectoryReader


class TrajectoryWriter:
    """A store being written; use `create` or `resume`, and close it (or use `with`).

    Attributes:
        path: folder of the store.
        header: what was known before the first frame.
    """

    def __init__(
        self,
        path: Path,
        header: StoreHeader,
        *,
        lock: IO[bytes],
        restart: Restart,
        commit: Commit | None,
        flush_every_s: float,
        flush_every_MB: float,
    ) -> None:
        """Take the parts; `create` and `resume` call this."""
        self.path = path
        self.header = header
        self._lock = lock
        self._layouts = array_layouts(header)
        self._restart = restart
        self._commit = commit
        self._pending: list[Segment] = []
        self._pending_bytes = 0
        self._pending_frames = 0
        self._failed = False
        self._flush_every_s = flush_every_s
        self._flush_every_bytes = flush_every_MB * 1e6
        self._last_flush = time.monotonic()
        self._events_hash = hashlib.sha256()
        self._wall_start = time.perf_counter()
        self._cpu_start = time.process_time()

    @classmethod
    def create(
        cls,
        path: str | Path,
        header: StoreHeader,
        start: State,
        propagator_state: Mapping[str, Tensor],
        *,
        flush_every_s: float = 5.0,
        flush_every_MB: float = 64.0,
    ) -> TrajectoryWriter:
        """Make a store that holds the start as its frame 0, already committed.

        The folder appears under its name only when it is whole.

        Args:
            path: folder to make; must not exist.
            header: what is known before the first frame.
            start: frame 0, marked `MadeBy.GIVEN`.
            propagator_state: what `Propagator.restart_state` gives before the first segment.
            flush_every_s: longest time between commits.
            flush_every_MB: most data held back between commits.

        Raises:
            FileExistsError: if the folder exists.
            ValueError: if the start does not fit the header.
            OSError: if the folder cannot be written.
        """
        path = Path(path)
        if path.exists():
            raise FileExistsError(
                f"{path} already exists; continue it with --resume, or choose another output"
            )
        check_fits(header, start)
        path.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{path.name}.creating-", dir=path.parent))
        lock: IO[bytes] | None = None
        try:
            create_arrays(building, header)
            lock = take_lock(building)
            writer = cls(
                building,
                header,
                lock=lock,
                restart=Restart.snapshot(start, propagator_state),
                commit=None,
                flush_every_s=flush_every_s,
                flush_every_MB=flush_every_MB,
            )
            writer._hold(start_segment(start))
            writer.flush()
            building.chmod(0o755)
            os.rename(building, path)
        except BaseException:
            if lock is not None:
                lock.close()
            shutil.rmtree(building, ignore_errors=True)
            raise
        writer.path = path
        sync_file(path.parent)
        return writer

    @classmethod
    def resume(
        cls, path: str | Path, *, flush_every_s: float = 5.0, flush_every_MB: float = 64.0
    ) -> TrajectoryWriter:
        """Open a store to go on from its last commit; what lies beyond it is dropped.

        Args:
            path: folder of the store.
            flush_every_s: longest time between commits.
            flush_every_MB: most data held back between commits.

        Raises:
            FileNotFoundError: if there is no such folder.
            BlockingIOError: if another process is writing it.
            StoreDamagedError: if a file is not what was written.
            ValueError: if a newer format wrote it.
        """
        path = Path(path)
        commit = TrajectoryReader(path).commit
        try:
            lock = take_lock(path)
        except BlockingIOError:
            raise
        except OSError as error:
            raise explained(path, commit, error) from error
        try:
            reader = TrajectoryReader(path)  # again: what it said before the lock may be old
            commit = reader.commit
            saved = restart_file.read(
                path / JOURNAL / commit.restart_file, commit.restart_sha256, reader.molecule
            )
            events = reader.event_bytes()
            try:
                drop_beyond(path, reader.header, commit)
            except OSError as error:
                raise explained(path, commit, error) from error
            writer = cls(
                path,
                reader.header,
                lock=lock,
                restart=saved,
                commit=commit,
                flush_every_s=flush_every_s,
                flush_every_MB=flush_every_MB,
            )
            writer._events_hash.update(events)
        except BaseException:
            lock.close()
            raise
        return writer

    @property
    def n_committed(self) -> int:
        """Frames that are safe, the start among them."""
        return 0 if self._commit is None else self._commit.n_frames

    @property
    def n_frames(self) -> int:
        """Frames handed over so far, safe or not yet."""
        return self.n_committed + self._pending_frames

    @property
    def state(self) -> State:
        """The state after the last frame handed over."""
        return self._restart.state

    @property
    def propagator_state(self) -> Mapping[str, Tensor]:
        """What the propagator has to restore to go on from `state`."""
        return self._restart.propagator

    @property
    def wall_s(self) -> float:
        """Wall-clock time spent so far, earlier sittings included."""
        before = 0.0 if self._commit is None else self._commit.wall_s
        return before + time.perf_counter() - self._wall_start

    @property
    def cpu_s(self) -> float:
        """CPU time of the process spent so far, earlier sittings included."""
        before = 0.0 if self._commit is None else self._commit.cpu_s
        return before + time.process_time() - self._cpu_start

    def append(self, segment: Segment, propagator_state: Mapping[str, Tensor]) -> None:
        """Take a segment; write and commit when it is time.

        Args:
            segment: follows the frames handed over before.
            propagator_state: what `Propagator.restart_state` gives after this segment.

        Raises:
            ValueError: if the segment does not follow, or its frames are not finite.
            OSError: if the disk is full or fails; everything committed is safe.
        """
        check_follows(self.state, segment)
        after = Restart.snapshot(segment.last, propagator_state)
        self._hold(segment)
        self._restart = after
        waited = time.monotonic() - self._last_flush
        if waited >= self._flush_every_s or self._pending_bytes >= self._flush_every_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what is held back and commit it.

        Raises:
            OSError: if the disk is full or fails; everything committed is safe.
        """
        if not self._pending:
            return
        try:
            self._write(Segment.join(self._pending))
        except OSError as error:
            self._failed = True
            raise explained(self.path, self._commit, error) from error
        self._pending = []
        self._pending_bytes = self._pending_frames = 0
        self._last_flush = time.monotonic()

    def close(self) -> None:
        """Commit what is held back and let go of the store; twice does no harm."""
        if self._lock.closed:
            return
        try:
            if not self._failed:
                self.flush()
        finally:
            self._lock.close()

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close; after an error too, because all that was handed over is good."""
        if error is None:
            self.close()
            return
        with contextlib.suppress(OSError):
            self.close()

    def _hold(self, segment: Segment) -> None:
        self._pending.append(segment)
        self._pending_frames += segment.n_frames
        self._pending_bytes += 2 * segment.positions.nbytes

    def _write(self, segment: Segment) -> None:
        """Write arrays, events, restart file, record, in this order."""
        first, last = self.n_committed, self.n_committed + segment.n_frames
        group = zarr.open_group(self.path, mode="r+", zarr_format=3)
        content = columns(segment, self.header)
        for layout in self._layouts:
            array = open_array(group, layout.name)
            array.resize(layout.with_frames(last))
            where = tuple(
                slice(first, last) if axis == layout.frame_axis else slice(None)
                for axis in range(len(layout.dimensions))
            )
            array[where] = content[layout.name].to(getattr(torch, layout.dtype)).numpy()
            for name in layout.chunk_files(first, last):
                sync_file(self.path / name)
            sync_file(self.path / layout.name / "zarr.json")
        self._commit_frames(last, segment)

    def _commit_frames(self, n_frames: int, segment: Segment) -> None:
        journal, old = self.path / JOURNAL, self._commit
        lines = "".join(json.dumps(asdict(event)) + "\n" for event in segment.events).encode()
        with (journal / EVENTS_FILE).open("ab") as file:
            # Leftovers of a failed write are overtaken: the committed length is the end.
            file.truncate(0 if old is None else old.events_bytes)
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        events_hash = self._events_hash.copy()
        events_hash.update(lines)
        number = 0 if old is None else old.number + 1
        name = f"restart-{number}.safetensors"
        content = restart_file.to_bytes(self._restart)
        replace_file(journal / name, content)
        commit = Commit(
            number=number,
            n_frames=n_frames,
            time_fs=float(segment.times_fs[-1]),
            n_events=len(segment.events) + (0 if old is None else old.n_events),
            events_bytes=len(lines) + (0 if old is None else old.events_bytes),
            events_sha256=events_hash.hexdigest(),
            wall_s=self.wall_s,
            cpu_s=self.cpu_s,
            restart_file=name,
            restart_sha256=hashlib.sha256(content).hexdigest(),
        )
        replace_file(journal / COMMIT_FILE, commit.to_bytes())
        self._commit, self._events_hash = commit, events_hash
        self._wall_start, self._cpu_start = time.perf_counter(), time.process_time()
        if old is not None:
            (journal / old.restart_file).unlink(missing_ok=True)
