"""Writers of trajectory formats: one replica's frames, a block at a time.

| format | holds | times | precision |
|---|---|---|---|
| xtc | positions | yes | 0.01 Å |
| dcd | positions | no, readers count frames | float32 |
| h5 (mdtraj) | positions, velocities, energies, temperature | yes | float32 |
| extxyz | positions, momenta, energies, who made each frame | yes | 8 decimals |
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from egno_md.state import Molecule
from egno_md.trajectories.store_reader import TrajectoryReader
from egno_md.trajectories.topology import mdtraj_topology
from egno_md.units import BOLTZMANN_EV_PER_K, FS_PER_ASE_TIME, KJ_PER_MOL, NM_PER_A, PS_PER_FS

if TYPE_CHECKING:
    from ase import Atoms

FORMATS: Final = ("xtc", "dcd", "h5", "extxyz")

_BLOCK_FRAMES: Final = 1000
_MADE_BY: Final = ("given", "network", "integrator")

Block = Mapping[str, np.ndarray]


class Frames:
    """Every `stride`-th frame of one replica of a store.

    Attributes:
        molecule: what moves.
        replica: its number.
        stride: distance of the frames.
        n_frames: how many there are.
    """

    def __init__(self, reader: TrajectoryReader, replica: int, stride: int) -> None:
        """Choose the frames; nothing is read yet."""
        self._reader = reader
        self.molecule = reader.molecule
        self.replica = replica
        self.stride = stride
        self.n_frames = -(-reader.n_frames // stride)

    def blocks(self, *names: str) -> Iterator[Block]:
        """Read some arrays without their replica axis, a block of frames at a time.

        Times come along, and cells where there are any.
        """
        names = (*names, "cells") if self._reader.header.has_cell else names
        size = max(1, _BLOCK_FRAMES // self.stride) * self.stride
        one = slice(self.replica, self.replica + 1)
        for start in range(0, self._reader.n_frames, size):
            part = slice(start, start + size, self.stride)
            block = {name: self._reader.array(name, part, one)[0] for name in names}
            yield {**block, "times_fs": self._reader.times_fs[part]}


def _write_xtc(frames: Frames, path: Path) -> None:
    from mdtraj.formats import XTCTrajectoryFile

    step = 0
    with XTCTrajectoryFile(str(path), "w", force_overwrite=True) as file:
        for block in frames.blocks("positions"):
            n = len(block["times_fs"])
            # A box of zeros is how the format says that there is none.
            cells = block.get("cells", np.zeros((n, 3, 3)))
            file.write(
                (block["positions"] * NM_PER_A).astype(np.float32),
                time=(block["times_fs"] * PS_PER_FS).astype(np.float32),
                step=((step + np.arange(n)) * frames.stride).astype(np.int32),
                box=(cells * NM_PER_A).astype(np.float32),
            )
            step += n


def _write_dcd(frames: Frames, path: Path) -> None:
    from mdtraj.formats import DCDTrajectoryFile

    with DCDTrajectoryFile(str(path), "w", force_overwrite=True) as file:
        for block in frames.blocks("positions"):
            lengths, angles = _lengths_and_angles(block)
            file.write(block["positions"].astype(np.float32), lengths, angles)


def _write_h5(frames: Frames, path: Path) -> None:
    from mdtraj.formats import HDF5TrajectoryFile

    freedom = 3 * frames.molecule.n_atoms
    _need_room(path, frames.n_frames * (24 * frames.molecule.n_atoms + 64) + 1_000_000)
    names = ("positions", "velocities", "potential_energies", "kinetic_energies")
    with HDF5TrajectoryFile(str(path), "w", force_overwrite=True) as file:
        file.topology = mdtraj_topology(frames.molecule)
        for block in frames.blocks(*names):
            kinetic = block["kinetic_energies"]
            lengths, angles = _lengths_and_angles(block)
            columns = {
                "coordinates": block["positions"] * NM_PER_A,
                "time": block["times_fs"] * PS_PER_FS,
                "velocities": block["velocities"] * (NM_PER_A / PS_PER_FS),
                "potentialEnergy": block["potential_energies"] / KJ_PER_MOL,
                "kineticEnergy": kinetic / KJ_PER_MOL,
                "temperature": 2 * kinetic / (freedom * BOLTZMANN_EV_PER_K),
            }
            if lengths is not None and angles is not None:
                columns |= {"cell_lengths": lengths * NM_PER_A, "cell_angles": angles}
            file.write(**{name: values.astype(np.float32) for name, values in columns.items()})


def _need_room(path: Path, n_bytes: int) -> None:
    """Ask for room beforehand: HDF5 loses data on a full disk without a word."""
    free = shutil.disk_usage(path.parent).free
    if free < n_bytes:
        raise OSError(
            f"an h5 file needs up to {n_bytes / 1e6:.1f} MB, {free / 1e6:.1f} MB are free"
        )


def _write_extxyz(frames: Frames, path: Path) -> None:
    from ase.io import write

    names = ("positions", "velocities", "potential_energies", "made_by")
    with path.open("w", encoding="utf-8") as file:
        for block in frames.blocks(*names):
            n = len(block["times_fs"])
            images = [_atoms(frames.molecule, block, frames.replica, k) for k in range(n)]
            write(file, images, format="extxyz")
        file.flush()
        os.fsync(file.fileno())


def _atoms(molecule: Molecule, block: Block, replica: int, k: int) -> Atoms:
    """One frame as ASE atoms, with what extxyz can carry."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = Atoms(
        numbers=molecule.numbers.numpy(),
        positions=block["positions"][k],
        masses=molecule.masses.numpy(),
        pbc=molecule.pbc,
        cell=block["cells"][k] if "cells" in block else None,
        velocities=block["velocities"][k] * FS_PER_ASE_TIME,
        info={
            "time_fs": float(block["times_fs"][k]),
            "replica": replica,
            "made_by": _MADE_BY[int(block["made_by"][k])],
        },
    )
    energy = float(block["potential_energies"][k])
    if np.isfinite(energy):
        atoms.calc = SinglePointCalculator(atoms, energy=energy)  # type: ignore[no-untyped-call]
    return atoms


def _lengths_and_angles(block: Block) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Cell lengths in Å and angles in degrees, float32, or None without a cell."""
    if "cells" not in block:
        return None, None
    from mdtraj.utils import box_vectors_to_lengths_and_angles

    cells = block["cells"]
    parts = box_vectors_to_lengths_and_angles(cells[:, 0], cells[:, 1], cells[:, 2])
    return (
        np.stack(parts[:3], -1).astype(np.float32),
        np.stack(parts[3:], -1).astype(np.float32),
    )


def _count_blocks(path: Path) -> int:
    """Count the frames of an xtc or dcd file by reading them."""
    import mdtraj

    n_frames = 0
    with mdtraj.open(str(path)) as file:
        while n := len(file.read(_BLOCK_FRAMES)[0]):
            n_frames += n
    return n_frames


def _count_h5(path: Path) -> int:
    """Count the frames of an mdtraj HDF5 file and read the last."""
    from mdtraj.formats import HDF5TrajectoryFile

    with HDF5TrajectoryFile(str(path)) as file:
        n_frames = len(file)
        file.seek(n_frames - 1)
        file.read(1)
    return n_frames


def _count_extxyz(path: Path) -> int:
    """Count whole frames: a line with the number of atoms, a comment, and the atoms."""
    n_frames = 0
    with path.open(encoding="utf-8") as file:
        for line in file:
            rest = [next(file, "") for _ in range(int(line) + 1)]
            n_frames += all(text.endswith("\n") for text in rest)
    return n_frames


WRITERS: Final[Mapping[str, Callable[[Frames, Path], None]]] = {
    "xtc": _write_xtc,
    "dcd": _write_dcd,
    "h5": _write_h5,
    "extxyz": _write_extxyz,
}

#: Read a file back and count its whole frames.
COUNTERS: Final[Mapping[str, Callable[[Path], int]]] = {
    "xtc": _count_blocks,
    "dcd": _count_blocks,
    "h5": _count_h5,
    "extxyz": _count_extxyz,
}
