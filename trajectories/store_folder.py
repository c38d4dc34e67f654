"""What a store is made of on disk: its arrays, its lock, and how it is cut back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from egno_md.trajectories.store_format import (
    EVENTS_FILE,
    HEADER_KEY,
    JOURNAL,
    Commit,
    StoreHeader,
    array_layouts,
)

_LOCK_FILE = "lock"


def create_arrays(path: Path, header: StoreHeader) -> None:
    """Make the group and its empty arrays, checksums behind the compressor.

    Args:
        path: folder of the store.
        header: molecule, replicas, precision and labels.
    """
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


def open_array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """Return an array that writes chunks of nothing but fill value too: none may be missing."""
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array.with_config({"write_empty_chunks": True})


def drop_beyond(path: Path, header: StoreHeader, commit: Commit) -> None:
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
        array, shape = open_array(group, layout.name), layout.with_frames(commit.n_frames)
        if array.shape != shape:
            array.resize(shape)


def take_lock(path: Path) -> IO[bytes]:
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


def explained(path: Path, safe: Commit | None, error: OSError) -> OSError:
    """Say what failed and what is safe."""
    kept = (
        "nothing was written yet"
        if safe is None
        else f"the first {safe.n_frames} frames (to {safe.time_fs / 1000:g} ps) are safe: "
        "make room or mend the cause, then continue with --resume"
    )
    return OSError(f"cannot write to {path}: {error.strerror or error}; {kept}")
