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
from typing import IO, Any, Self

import torch
import zarr
from torch import Tensor
from zarr.codecs import Crc32cCodec, ZstdCodec

from egno_md.segment import MadeBy, Segment
from egno_md.state import State, kinetic_energy
from egno_md.trajectories import restart as restart_file
from egno_md.trajectories.restart import Restart
from egno_md.trajectories.store_format import (
    COMMIT_FILE,
    EVENTS_FILE,
    HEADER_KEY,
    JOURNAL,
    Commit,
    StoreHeader,
    array_layouts,
    replace_file,
    sync_file,
)
from egno_md.trajectories.store_reader import TrajectoryReader

_LOCK_FILE = "lock"


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
        _check_fits(header, start)
        path.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{path.name}.creating-", dir=path.parent))
        lock: IO[bytes] | None = None
        try:
            _create_arrays(building, header)
            lock = _take_lock(building)
            writer = cls(
                building,
                header,
                lock=lock,
                restart=Restart.snapshot(start, propagator_state),
                commit=None,
                flush_every_s=flush_every_s,
                flush_every_MB=flush_every_MB,
            )
            writer._hold(_given(start))
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
            lock = _take_lock(path)
        except BlockingIOError:
            raise
        except OSError as error:
            raise _explained(path, commit, error) from error
        try:
            reader = TrajectoryReader(path)  # again: what it said before the lock may be old
            commit = reader.commit
            saved = restart_file.read(
                path / JOURNAL / commit.restart_file, commit.restart_sha256, reader.molecule
            )
            events = reader.event_bytes()
            try:
                _drop_beyond(path, reader.header, commit)
            except OSError as error:
                raise _explained(path, commit, error) from error
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
        _check_follows(self.state, segment)
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
            raise _explained(self.path, self._commit, error) from error
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
        columns = _columns(segment, self.header)
        for layout in self._layouts:
            array = _array(group, layout.name)
            array.resize(layout.with_frames(last))
            where = tuple(
                slice(first, last) if axis == layout.frame_axis else slice(None)
                for axis in range(len(layout.dimensions))
            )
            array[where] = columns[layout.name].to(getattr(torch, layout.dtype)).numpy()
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


def _explained(path: Path, safe: Commit | None, error: OSError) -> OSError:
    """Say what failed and what is safe."""
    kept = (
        "nothing was written yet"
        if safe is None
        else f"the first {safe.n_frames} frames (to {safe.time_fs / 1000:g} ps) are safe: "
        "make room or mend the cause, then continue with --resume"
    )
    return OSError(f"cannot write to {path}: {error.strerror or error}; {kept}")


def _given(start: State) -> Segment:
    """Return the start as a segment of one frame."""
    return Segment(
        start.molecule,
        torch.tensor([start.time_fs], dtype=torch.float64),
        start.positions[:, None],
        start.velocities[:, None],
        torch.full((start.n_replicas, 1), int(MadeBy.GIVEN), dtype=torch.int8),
        cell=start.cell,
    )


def _columns(segment: Segment, header: StoreHeader) -> dict[str, Tensor]:
    """Return what goes into each array, on the CPU."""
    columns = {
        "positions": segment.positions,
        "velocities": segment.velocities,
        "times_fs": segment.times_fs,
        "potential_energies": segment.potential_energies,
        "kinetic_energies": kinetic_energy(segment.molecule, segment.velocities),
        "made_by": segment.made_by,
    }
    if header.has_cell and segment.cell is not None:
        shape = (segment.n_replicas, segment.n_frames, 3, 3)
        columns["cells"] = segment.cell[:, None].expand(shape)
    return {name: values.detach().cpu() for name, values in columns.items()}


def _check_fits(header: StoreHeader, start: State) -> None:
    if (start.n_replicas, start.molecule.n_atoms) != (header.n_replicas, header.molecule.n_atoms):
        raise ValueError(
            f"the start has {start.n_replicas} replicas of {start.molecule.n_atoms} atoms, "
            f"the store is for {header.n_replicas} of {header.molecule.n_atoms}"
        )
    if header.has_cell != (start.cell is not None):
        raise ValueError("the start and the store disagree on whether there is a cell")


def _check_follows(state: State, segment: Segment) -> None:
    if segment.positions.shape[0] != state.n_replicas:
        raise ValueError(
            f"the segment has {segment.n_replicas} replicas, the store {state.n_replicas}"
        )
    if not float(segment.times_fs[0]) > state.time_fs:
        raise ValueError(
            f"the segment starts at {float(segment.times_fs[0])} fs, "
            f"not after the last stored frame at {state.time_fs} fs"
        )
    finite = torch.isfinite(segment.positions) & torch.isfinite(segment.velocities)
    good = finite.all(3).all(2).all(0)
    if not bool(good.all()):
        k = int((~good).nonzero()[0])
        try:
            segment.frame(k)
        except ValueError as error:
            raise ValueError(
                f"the frame at {float(segment.times_fs[k]):g} fs is no state: {error}; the store "
                f"ends at {state.time_fs:g} fs, and going on from there fails in the same way"
            ) from error


def _create_arrays(path: Path, header: StoreHeader) -> None:
    group = zarr.create_group(path, zarr_format=3, attributes={HEADER_KEY: header.to_json()})
    for layout in array_layouts(header):
        group.create_array(
            layout.name,
            shape=layout.shape,
            chunks=layout.chunks,
            dtype=layout.dtype,
            compressors=[ZstdCodec(level=1), Crc32cCodec()],
            fill_value=layout.fill,
            dimension_names=layout.dimensions,
        )
    group.create_group(JOURNAL)


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """Return an array that writes chunks of nothing but fill value too: none may be missing."""
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array.with_config({"write_empty_chunks": True})


def _drop_beyond(path: Path, header: StoreHeader, commit: Commit) -> None:
    """Cut everything back to what counts, and remove what a kill may have left."""
    journal = path / JOURNAL
    for leftover in [*path.rglob("*.partial"), *path.rglob(".*.partial")]:
        leftover.unlink(missing_ok=True)
    for old in journal.glob("restart-*.safetensors"):
        if old.name != commit.restart_file:
            old.unlink()
    os.truncate(journal / EVENTS_FILE, commit.events_bytes)
    group = zarr.open_group(path, mode="r+", zarr_format=3)
    for layout in array_layouts(header):
        array, shape = _array(group, layout.name), layout.with_frames(commit.n_frames)
        if array.shape != shape:
            array.resize(shape)


def _take_lock(path: Path) -> IO[bytes]:
    """Hold the store for this process; a kill lets go of it."""
    file: Any = (path / JOURNAL / _LOCK_FILE).open("ab")
    try:
        import fcntl
    except ImportError:  # not on this system: go without
        return file  # type: ignore[no-any-return]
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise BlockingIOError(
            f"another process is writing {path}; wait for it, or choose another output"
        ) from error
    return file  # type: ignore[no-any-return]
