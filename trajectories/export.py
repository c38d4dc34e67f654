"""From a store to the files that mdtraj, VMD, MDAnalysis and ASE read.

Files are written under another name, read back, and only then put in place, because some of
the writers say nothing when the disk is full.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from egno_md.trajectories.export_formats import COUNTERS, FORMATS, WRITERS, Frames
from egno_md.trajectories.store_format import StoreDamagedError
from egno_md.trajectories.store_reader import TrajectoryReader
from egno_md.trajectories.topology import mdtraj_topology
from egno_md.units import NM_PER_A


def export(
    store: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    replicas: Sequence[int] | None = None,
    stride: int = 1,
) -> list[Path]:
    """Write the committed frames of a store to files of another format.

    One file per replica: `run.xtc` if one is asked for, `run-0.xtc`, `run-1.xtc`, ... for
    several. `topology.pdb` beside them has the first frame with names and bonds, for readers that
    need a topology. Works while the run goes on.

    Args:
        store: folder of the store.
        target: file to write; its suffix is the format: xtc, dcd, h5 or extxyz.
        replicas: which replicas; all when None.
        stride: keep every so many frames, at least 1.

    Returns:
        The files, the topology last.

    Raises:
        ValueError: for a format, replica or stride that cannot be, or a damaged store.
        FileNotFoundError: if there is no such store.
        OSError: if a file cannot be written whole.
    """
    path = Path(target)
    if path.suffix.lstrip(".") not in FORMATS:
        raise ValueError(
            f"cannot export to {path.name!r}: its suffix must be one of "
            f"{', '.join('.' + name for name in FORMATS)}"
        )
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    reader = TrajectoryReader(store)
    chosen = list(range(reader.n_replicas)) if replicas is None else list(replicas)
    for r in chosen:
        if not 0 <= r < reader.n_replicas:
            raise ValueError(
                f"replica {r} asked of {store}, which has 0 to {reader.n_replicas - 1}"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for r in chosen:
        name = path if len(chosen) == 1 else path.with_name(f"{path.stem}-{r}{path.suffix}")
        _write_whole(Frames(reader, r, stride), name)
        written.append(name)
    topology = path.with_name("topology.pdb")
    write_topology(reader, topology)
    return [*written, topology]


def write_topology(reader: TrajectoryReader, path: Path) -> None:
    """Write the first frame of the first replica as a PDB file, with names and bonds.

    Args:
        reader: an open store.
        path: the file.

    Raises:
        OSError: if it cannot be written.
    """
    import mdtraj

    x = reader.array("positions", slice(0, 1), slice(0, 1))[0] * NM_PER_A
    # Centred, because the format has room for few digits before the point.
    frame = mdtraj.Trajectory(x - x.mean(1, keepdims=True), mdtraj_topology(reader.molecule))
    if reader.header.has_cell:
        frame.unitcell_vectors = reader.array("cells", slice(0, 1), slice(0, 1))[0] * NM_PER_A
    part = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        frame.save_pdb(str(part), force_overwrite=True)
        if not part.read_text().rstrip().endswith("END"):
            raise OSError(f"cannot write {path}: its end did not arrive; is the disk full?")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _write_whole(frames: Frames, path: Path) -> None:
    """Write under another name, check that all frames arrived, put in place."""
    kind = path.suffix.lstrip(".")
    part = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        try:
            WRITERS[kind](frames, part)
            n_found = COUNTERS[kind](part)
        except (StoreDamagedError, MemoryError):
            raise
        except Exception as error:  # on a full disk these libraries may raise anything
            raise OSError(f"cannot write {path}: {_one_line(error)}") from error
        if n_found != frames.n_frames:
            raise OSError(
                f"cannot write {path}: of {frames.n_frames} frames {n_found} arrived; "
                "is the disk full?"
            )
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _one_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
