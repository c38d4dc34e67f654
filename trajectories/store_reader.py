"""Reading a trajectory store: only what was committed, and never a damaged number."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor

from egno_md.segment import Event, Segment
from egno_md.state import Molecule, State
from egno_md.trajectories.store_format import (
    EVENTS_FILE,
    HEADER_KEY,
    JOURNAL,
    ArrayLayout,
    Commit,
    StoreDamagedError,
    StoreHeader,
    array_layouts,
)


class TrajectoryReader:
    """The committed part of a store, as it was when the reader was made.

    Works while the run goes on; make a new reader to see more frames.

    Attributes:
        path: folder of the store.
        header: molecule, settings, bundles, seed, versions.
        commit: the record that says how much counts, with wall-clock and CPU time.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a store and check everything but the numbers themselves.

        Args:
            path: folder of the store.

        Raises:
            FileNotFoundError: if there is no such folder.
            ValueError: if it is no store, or a newer format wrote it.
            StoreDamagedError: if a file is missing or is not what was written.
        """
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"there is no trajectory store at {self.path}")
        group, attributes = _open(self.path)
        self.header = StoreHeader.from_json(attributes, str(self.path))
        self.commit = Commit.read(self.path)
        self._layouts = {layout.name: layout for layout in array_layouts(self.header)}
        self._arrays = {name: self._open_array(group, name) for name in self._layouts}

    @property
    def molecule(self) -> Molecule:
        """The fixed part."""
        return self.header.molecule

    @property
    def n_frames(self) -> int:
        """Committed frames; the first is the start."""
        return self.commit.n_frames

    @property
    def n_replicas(self) -> int:
        """Number of replicas."""
        return self.header.n_replicas

    @property
    def length_ps(self) -> float:
        """Time from the first to the last committed frame of each replica."""
        return float(self.times_fs[-1] - self.times_fs[0]) / 1000.0

    @cached_property
    def times_fs(self) -> np.ndarray:
        """Times of all frames, `(n_frames,)` float64, fs."""
        return self.array("times_fs")

    def array(
        self,
        name: str,
        frames: slice = slice(None),
        replicas: slice = slice(None),
    ) -> np.ndarray:
        """Read a part of one array.

        Args:
            name: "positions" or "velocities", `(n_replicas, n_frames, n_atoms, 3)`, Å or Å/fs;
                "potential_energies" or "kinetic_energies", `(n_replicas, n_frames)`, eV;
                "made_by", `(n_replicas, n_frames)` int8; "times_fs", `(n_frames,)`, fs;
                "cells", `(n_replicas, n_frames, 3, 3)`, Å, where there is a cell.
            frames: which frames, of the committed ones.
            replicas: which replicas.

        Raises:
            ValueError: if there is no such array.
            StoreDamagedError: if a chunk is not what was written; it names array and frames.
        """
        if name not in self._layouts:
            raise ValueError(
                f"{self.path} has no array {name!r}; there are {', '.join(sorted(self._layouts))}"
            )
        start, stop, step = frames.indices(self.n_frames)
        if step < 1:
            raise ValueError(f"frames must go forward, got a step of {step}")
        layout = self._layouts[name]
        try:
            values = self._read(layout, slice(start, stop, step), replicas)
        except Exception as error:
            raise StoreDamagedError(self._where_damaged(layout, start, stop)) from error
        if name not in ("potential_energies", "made_by") and not np.isfinite(values).all():
            raise StoreDamagedError(f"array {name!r} of {self.path} holds numbers not finite")
        return values

    def segment(self, start: int, stop: int, replicas: slice = slice(None)) -> Segment:
        """Read frames start..stop-1 as a segment, without its events.

        Args:
            start: first frame.
            stop: one after the last.
            replicas: which replicas.

        Raises:
            ValueError: if these are not committed frames.
            StoreDamagedError: if a chunk is not what was written.
        """
        if not 0 <= start < stop <= self.n_frames:
            raise ValueError(
                f"frames {start} to {stop} asked of {self.path}, which has 0 to {self.n_frames}"
            )
        part = slice(start, stop)

        def tensor(name: str) -> Tensor:
            return torch.from_numpy(self.array(name, part, replicas))

        cells = tensor("cells")[:, 0] if self.header.has_cell else None
        return Segment(
            self.molecule,
            torch.from_numpy(self.times_fs[part].copy()),
            tensor("positions"),
            tensor("velocities"),
            tensor("made_by"),
            tensor("potential_energies"),
            cells,
        )

    def segments(self, n_frames: int | None = None) -> Iterator[Segment]:
        """Read all frames in order, a block at a time.

        Args:
            n_frames: most frames per block; what one chunk of positions holds when None.
        """
        size = n_frames or self._layouts["positions"].chunks[1]
        for start in range(0, self.n_frames, size):
            yield self.segment(start, min(start + size, self.n_frames))

    def states(self, stride: int = 1) -> Iterator[State]:
        """Read every `stride`-th frame as a state.

        Args:
            stride: at least 1.
        """
        if stride < 1:
            raise ValueError(f"stride must be at least 1, got {stride}")
        index = 0
        for block in self.segments():
            for k in range(block.n_frames):
                if index % stride == 0:
                    yield block.frame(k)
                index += 1

    def event_bytes(self) -> bytes:
        """Return the committed part of the event file.

        Raises:
            StoreDamagedError: if it is not what was written.
        """
        path = self.path / JOURNAL / EVENTS_FILE
        try:
            with path.open("rb") as file:
                content = file.read(self.commit.events_bytes)
        except FileNotFoundError as error:
            raise StoreDamagedError(f"{path} is missing") from error
        if hashlib.sha256(content).hexdigest() != self.commit.events_sha256:
            raise StoreDamagedError(f"{path} is damaged: its checksum does not match")
        return content

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """What the guard did, in the order in which it happened."""
        return tuple(Event(**json.loads(line)) for line in self.event_bytes().splitlines())

    def verify(self) -> None:
        """Read everything once.

        Raises:
            StoreDamagedError: naming the first array that is not what was written.
        """
        for name, layout in self._layouts.items():
            size = layout.chunks[layout.frame_axis]
            for start in range(0, self.n_frames, size):
                self.array(name, slice(start, start + size))
        self.event_bytes()

    def _open_array(self, group: zarr.Group, name: str) -> zarr.Array[Any]:
        layout = self._layouts[name]
        try:
            array = group[name]
            assert isinstance(array, zarr.Array)
            same = (
                array.dtype == np.dtype(layout.dtype)
                and array.chunks == layout.chunks
                and array.metadata.encode_chunk_key((0,) * array.ndim) == layout.first_key
                and array.shape == layout.with_frames(array.shape[layout.frame_axis])
                and array.shape[layout.frame_axis] >= self.n_frames
            )
        except Exception as error:
            raise StoreDamagedError(
                f"array {name!r} of {self.path} is damaged: its zarr.json cannot be read"
            ) from error
        if not same:
            raise StoreDamagedError(
                f"array {name!r} of {self.path} is damaged: its zarr.json is not what was written"
            )
        for file in layout.chunk_files(0, self.n_frames):
            if not (self.path / file).is_file():
                raise StoreDamagedError(
                    f"array {name!r} of {self.path} is damaged: its chunk {file} is missing"
                )
        return array

    def _read(self, layout: ArrayLayout, frames: slice, replicas: slice) -> np.ndarray:
        key = tuple(
            {"frame": frames, "replica": replicas}.get(axis, slice(None))
            for axis in layout.dimensions
        )
        return np.asarray(self._arrays[layout.name][key])

    def _where_damaged(self, layout: ArrayLayout, start: int, stop: int) -> str:
        """Find the first block of frames that cannot be read."""
        size = layout.chunks[layout.frame_axis]
        for first in range(start // size * size, stop, size):
            last = min(first + size, self.n_frames)
            try:
                self._read(layout, slice(first, last), slice(None))
            except Exception as error:
                reason = str(error).split(". ")[0]
                return (
                    f"array {layout.name!r} of {self.path} is damaged "
                    f"in frames {first} to {last - 1}: {reason}"
                )
        return f"array {layout.name!r} of {self.path} could not be read"


def _open(path: Path) -> tuple[zarr.Group, dict[str, Any]]:
    """Open the group and return it with the header's JSON."""
    if not (path / "zarr.json").is_file():
        raise ValueError(f"{path} is not a trajectory store: it has no zarr.json")
    try:
        group = zarr.open_group(path, mode="r", zarr_format=3)
        attributes = group.attrs.asdict()
    except Exception as error:
        raise StoreDamagedError(f"{path}/zarr.json is damaged: it cannot be read") from error
    header = attributes.get(HEADER_KEY)
    if not isinstance(header, dict):
        raise ValueError(f"{path} is a Zarr group but not a trajectory store of egno-md")
    return group, header
