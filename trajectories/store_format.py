"""How a trajectory lies on disk: names, shapes, checksums, and the record that makes it count.

A store is a Zarr v3 group::

    run.zarr/
      zarr.json                 attributes: the header below, with its own sha256
      positions/ velocities/    (replica, frame, atom, axis)     Å, Å/fs
      times_fs/                 (frame,)                         fs
      potential_energies/       (replica, frame)                 eV, NaN where not evaluated
      kinetic_energies/         (replica, frame)                 eV
      made_by/                  (replica, frame)                 values of `MadeBy`
      cells/                    (replica, frame, vector, axis)   Å, only with a cell
      journal/committed.json    how many frames count, and which restart file goes with them
      journal/restart-*.safetensors, events.jsonl, lock

Frames beyond the committed count may exist, half written, after a kill: nobody reads them.

Format versions: 1 is the first.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import torch

from egno_md.state import Molecule

#: Version written by this code, and the newest it reads.
FORMAT_VERSION: Final = 1

#: Key of the header among the attributes of the group.
HEADER_KEY: Final = "egno_md"

#: Subgroup that holds everything that is not an array.
JOURNAL: Final = "journal"

COMMIT_FILE: Final = "committed.json"
EVENTS_FILE: Final = "events.jsonl"

_CHUNK_BYTES: Final = 1_000_000
_SCALAR_CHUNK_FRAMES: Final = 4096

UNITS: Final[Mapping[str, str]] = {
    "positions": "angstrom",
    "velocities": "angstrom/fs",
    "times_fs": "fs",
    "potential_energies": "eV",
    "kinetic_energies": "eV",
    "made_by": "0 given, 1 network, 2 integrator",
    "cells": "angstrom",
    "masses": "amu",
}

Precision = Literal["float32", "float64"]


class StoreDamagedError(ValueError):
    """A store holds something else than what was written."""


@dataclass(frozen=True, slots=True, eq=False)
class StoreHeader:
    """What is known of a run before its first frame.

    Attributes:
        molecule: the fixed part.
        n_replicas: number of replicas.
        frame_interval_fs: time between frames.
        precision: dtype of positions and velocities on disk.
        has_cell: whether the frames have a cell.
        config: the settings of the run, as JSON.
        bundles: name of each model bundle used -> sha256 of its weights.
        seed: seed of the run, or None.
        versions: package -> version.
        notes: what else the run wants to find again when it is continued, as JSON.
    """

    molecule: Molecule
    n_replicas: int
    frame_interval_fs: float
    precision: Precision = "float32"
    has_cell: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    bundles: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the attributes of the group, checksum included."""
        m = self.molecule
        body: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "units": dict(UNITS),
            "molecule": {
                "numbers": m.numbers.tolist(),
                "masses": m.masses.tolist(),
                "bonds": m.bonds.tolist(),
                "names": list(m.names),
                "pbc": list(m.pbc),
            },
            "n_replicas": self.n_replicas,
            "frame_interval_fs": self.frame_interval_fs,
            "precision": self.precision,
            "has_cell": self.has_cell,
            "config": dict(self.config),
            "bundles": dict(self.bundles),
            "seed": self.seed,
            "versions": dict(self.versions),
            "notes": dict(self.notes),
        }
        body = json.loads(json.dumps(body))
        return {**body, "sha256": checksum(body)}

    @classmethod
    def from_json(cls, attributes: Mapping[str, Any], where: str) -> StoreHeader:
        """Read the attributes back.

        Args:
            attributes: what `to_json` gave.
            where: name of the store, for messages.

        Raises:
            ValueError: if a newer format wrote the store.
            StoreDamagedError: if the attributes are not what was written.
        """
        version = attributes.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise ValueError(
                f"{where} has store format {version}; this egno-md reads up to {FORMAT_VERSION}: "
                "upgrade egno-md to read it"
            )
        body = {k: v for k, v in attributes.items() if k != "sha256"}
        if checksum(body) != attributes.get("sha256"):
            raise StoreDamagedError(f"the attributes of {where} (zarr.json) are damaged")
        m = body["molecule"]
        molecule = Molecule(
            torch.tensor(m["numbers"], dtype=torch.int64),
            torch.tensor(m["masses"], dtype=torch.float64),
            torch.tensor(m["bonds"], dtype=torch.int64).reshape(-1, 2),
            tuple(m["names"]),
            (m["pbc"][0], m["pbc"][1], m["pbc"][2]),
        )
        return cls(molecule, **{name: body[name] for name in cls.__slots__[1:]})


@dataclass(frozen=True, slots=True)
class ArrayLayout:
    """Shape and type of one array; the frame axis grows.

    Attributes:
        name: name of the array.
        dtype: numpy dtype.
        fill: value of what was never written.
        dimensions: names of the axes.
        shape: full shape with 0 frames.
        chunks: shape of one chunk.
    """

    name: str
    dtype: str
    fill: float
    dimensions: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]

    @property
    def frame_axis(self) -> int:
        """Index of the axis along which frames are appended."""
        return self.dimensions.index("frame")

    def with_frames(self, n_frames: int) -> tuple[int, ...]:
        """Return the shape with so many frames."""
        a = self.frame_axis
        return (*self.shape[:a], n_frames, *self.shape[a + 1 :])

    @property
    def first_key(self) -> str:
        """Path of the first chunk inside the array."""
        return "/".join(["c", *"0" * len(self.shape)])

    def chunk_files(self, first_frame: int, last_frame: int) -> list[str]:
        """Return the paths, inside the group, of the chunks that hold frames first..last-1."""
        a = self.frame_axis
        ranges = [range(-(-n // c)) for n, c in zip(self.shape, self.chunks, strict=True)]
        ranges[a] = range(first_frame // self.chunks[a], -(-last_frame // self.chunks[a]))
        names = [f"{self.name}/c"]
        for indices in ranges:
            names = [f"{head}/{i}" for head in names for i in indices]
        return names


def array_layouts(header: StoreHeader) -> tuple[ArrayLayout, ...]:
    """Return the arrays of a store, with chunks of about 1 MB."""
    n, r = header.molecule.n_atoms, header.n_replicas
    atom_bytes = 3 * (4 if header.precision == "float32" else 8)
    replicas = max(1, min(r, _CHUNK_BYTES // (n * atom_bytes)))
    frames = max(1, _CHUNK_BYTES // (replicas * n * atom_bytes))
    few = max(1, min(r, _CHUNK_BYTES // (8 * _SCALAR_CHUNK_FRAMES)))
    nan = float("nan")
    grid, vectors = ("replica", "frame"), ("replica", "frame", "atom", "axis")
    big = ((r, 0, n, 3), (replicas, frames, n, 3))
    small = ((r, 0), (few, _SCALAR_CHUNK_FRAMES))
    layouts = [
        ArrayLayout("positions", header.precision, nan, vectors, *big),
        ArrayLayout("velocities", header.precision, nan, vectors, *big),
        ArrayLayout("times_fs", "float64", nan, ("frame",), (0,), (_SCALAR_CHUNK_FRAMES,)),
        ArrayLayout("potential_energies", "float64", nan, grid, *small),
        ArrayLayout("kinetic_energies", "float64", nan, grid, *small),
        ArrayLayout("made_by", "int8", 0, grid, *small),
    ]
    if header.has_cell:
        axes = ("replica", "frame", "vector", "axis")
        layouts.append(ArrayLayout("cells", "float64", nan, axes, (r, 0, 3, 3), (few, 512, 3, 3)))
    return tuple(layouts)


@dataclass(frozen=True, slots=True)
class Commit:
    """What counts: written last, replaced atomically, trusted by every reader.

    Attributes:
        number: 0 for the first, then counting.
        n_frames: frames that may be read.
        time_fs: time of the last of them.
        n_events: events that belong to them.
        events_bytes: length of the event file that counts.
        events_sha256: of those bytes.
        wall_s: wall-clock time spent on making the frames, over all sittings.
        cpu_s: CPU time of the process likewise.
        restart_file: file with the state to go on from.
        restart_sha256: of that file.
    """

    number: int
    n_frames: int
    time_fs: float
    n_events: int
    events_bytes: int
    events_sha256: str
    wall_s: float
    cpu_s: float
    restart_file: str
    restart_sha256: str

    def to_bytes(self) -> bytes:
        """Return the record as JSON with its own checksum."""
        body = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return json.dumps({**body, "sha256": checksum(body)}, indent=1).encode()

    @classmethod
    def read(cls, store: Path) -> Commit:
        """Read the record of a store.

        Raises:
            StoreDamagedError: if it is missing or not what was written.
        """
        path = store / JOURNAL / COMMIT_FILE
        if not path.is_file():
            raise StoreDamagedError(
                f"{store} is not a finished store: {JOURNAL}/{COMMIT_FILE} is missing; "
                "delete the folder and run again"
            )
        try:
            content = json.loads(path.read_bytes())
            written = content.pop("sha256")
            whole = checksum(content) == written
            commit = cls(**content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreDamagedError(f"{path} is damaged: it is not a commit record") from error
        if not whole:
            raise StoreDamagedError(f"{path} is damaged: its checksum does not match")
        return commit


def checksum(body: Mapping[str, Any]) -> str:
    """Return the sha256 of a JSON object, whatever the order of its keys."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sync_file(path: Path) -> None:
    """Wait until a file or folder is on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a kill, finds the old one or the new one, never a part.

    Args:
        path: where to.
        content: all of it.

    Raises:
        OSError: if it cannot be written; the old file is then as it was.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync_file(path.parent)
