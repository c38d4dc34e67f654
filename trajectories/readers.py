"""Any trajectory to arrays: a store, or a file that mdtraj or ASE reads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from egno_md.bonds import guess_bonds
from egno_md.state import Molecule
from egno_md.trajectories.store_reader import TrajectoryReader
from egno_md.trajectories.topology import molecule_of
from egno_md.units import FS_PER_ASE_TIME, NM_PER_A, PS_PER_FS

#: Read by mdtraj; everything else goes to ASE.
_MDTRAJ_SUFFIXES: Final = (".xtc", ".dcd", ".trr", ".nc", ".h5", ".pdb", ".lh5", ".binpos")
_WITH_TOPOLOGY: Final = (".h5", ".pdb", ".lh5")


@dataclass(frozen=True, slots=True, eq=False)
class TrajectoryArrays:
    """A trajectory in memory.

    Attributes:
        molecule: the fixed part; bonds are the file's, or guessed from its first frame.
        times_fs: `(n_frames,)` float64, fs; 0, 1, 2, ... where the file does not say.
        positions: `(n_replicas, n_frames, n_atoms, 3)`, Å.
        velocities: same shape, Å/fs, or None where the file has none.
        cells: `(n_replicas, n_frames, 3, 3)`, Å, or None.
        has_times: whether the times are the file's.
    """

    molecule: Molecule
    times_fs: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray | None
    cells: np.ndarray | None
    has_times: bool


def read_arrays(
    path: str | os.PathLike[str], topology: str | os.PathLike[str] | None = None
) -> TrajectoryArrays:
    """Read a whole trajectory.

    Args:
        path: folder of a store, or a file that mdtraj or ASE reads.
        topology: PDB file for formats without names (xtc, dcd, trr, nc); `topology.pdb` beside
            the file when None.

    Raises:
        FileNotFoundError: if the file, or a topology that is needed, is not there.
        ValueError: if it cannot be read, is empty or holds a number that is not finite.
    """
    file = Path(path)
    if not file.exists():
        raise FileNotFoundError(f"there is no trajectory {file}")
    if file.is_dir():
        return _from_store(file)
    try:
        read = _from_mdtraj(file, topology) if _is_mdtraj(file) else _from_ase(file)
    except FileNotFoundError:
        raise
    except Exception as error:  # what these readers raise on a broken file is anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"trajectory {file} cannot be read: {reason}") from error
    for name, values in (("position", read.positions), ("velocity", read.velocities)):
        if values is not None and not np.isfinite(values).all():
            _, frame, atom, _ = np.argwhere(~np.isfinite(values))[0]
            raise ValueError(f"trajectory {file}: {name} of atom {atom}, frame {frame}, not finite")
    return read


def _is_mdtraj(file: Path) -> bool:
    return file.suffix.lower() in _MDTRAJ_SUFFIXES


def _from_store(folder: Path) -> TrajectoryArrays:
    inner = folder / "trajectory.zarr"
    reader = TrajectoryReader(inner if inner.is_dir() else folder)
    return TrajectoryArrays(
        reader.molecule,
        reader.times_fs,
        reader.array("positions"),
        reader.array("velocities"),
        reader.array("cells") if reader.header.has_cell else None,
        True,
    )


def _from_mdtraj(file: Path, topology: str | os.PathLike[str] | None) -> TrajectoryArrays:
    import mdtraj

    kind = file.suffix.lower()
    more: dict[str, Any] = {}
    if kind not in _WITH_TOPOLOGY:
        top = file.with_name("topology.pdb") if topology is None else Path(topology)
        if not top.is_file():
            raise FileNotFoundError(
                f"{file.name} holds no atom names: a topology is needed, and {top} is not there"
            )
        more["top"] = str(top)
    read = mdtraj.load(str(file), **more)
    positions = np.asarray(read.xyz, dtype=np.float64) / NM_PER_A
    cells = read.unitcell_vectors
    has_times = kind not in (".dcd", ".pdb")
    velocities = _h5_velocities(file) if kind == ".h5" else None
    return TrajectoryArrays(
        molecule_of(read.topology, positions[0], periodic=cells is not None),
        np.asarray(read.time, dtype=np.float64) / PS_PER_FS if has_times else _count(len(read)),
        positions[None],
        velocities,
        None if cells is None else np.asarray(cells, dtype=np.float64)[None] / NM_PER_A,
        has_times,
    )


def _h5_velocities(file: Path) -> np.ndarray | None:
    """Velocities of an mdtraj HDF5 file, which `mdtraj.load` leaves out."""
    from mdtraj.formats import HDF5TrajectoryFile

    with HDF5TrajectoryFile(str(file)) as raw:
        found = raw.read().velocities
    if found is None:
        return None
    return np.asarray(found, dtype=np.float64)[None] * (PS_PER_FS / NM_PER_A)


def _from_ase(file: Path) -> TrajectoryArrays:
    import ase.io

    images = ase.io.read(file, index=":", do_not_split_by_at_sign=True)
    if not isinstance(images, list) or not images:
        raise ValueError("it holds no frames")
    first = images[0]
    for k, image in enumerate(images):
        if list(image.numbers) != list(first.numbers):
            raise ValueError(f"frame {k} has other atoms than frame 0")
    positions = np.stack([image.positions for image in images])
    masses = first.get_masses()[:, None]
    moving = all("momenta" in image.arrays for image in images)
    timed = all("time_fs" in image.info for image in images)
    pbc = (bool(first.pbc[0]), bool(first.pbc[1]), bool(first.pbc[2]))
    numbers = torch.tensor(first.numbers.tolist(), dtype=torch.int64)
    cells = np.stack([np.asarray(image.cell.array) for image in images]) if any(pbc) else None
    bonds = guess_bonds(
        numbers,
        torch.from_numpy(positions[0]),
        cell=None if cells is None else torch.from_numpy(cells[0]),
        pbc=pbc,
    )
    speeds = [image.arrays["momenta"] / masses / FS_PER_ASE_TIME for image in images if moving]
    times = [float(image.info["time_fs"]) for image in images if timed]
    return TrajectoryArrays(
        Molecule(numbers, torch.tensor(masses[:, 0]), bonds, (), pbc),
        np.array(times) if timed else _count(len(images)),
        positions[None],
        np.stack(speeds)[None] if moving else None,
        None if cells is None else cells[None],
        timed,
    )


def _count(n_frames: int) -> np.ndarray:
    return np.arange(n_frames, dtype=np.float64)
