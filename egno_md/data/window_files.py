"""Cuts trajectories into windows, and reads trajectories from files that hold velocities.

| file | velocities | times |
|---|---|---|
| `.h5` (mdtraj HDF5) | field `velocities` | field `time` |
| any format ASE reads (`.traj`, `.extxyz`) | momenta | `time_fs` in a frame's info, or given |

Files without velocities (xtc, dcd, pdb) are refused: differences of positions are no
velocities once hydrogens move between frames. A trajectory store is opened by the command
line, which hands its frames over as a `Segment`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from egno_md.bonds import guess_bonds
from egno_md.data.windows import Windows, load_windows
from egno_md.segment import MadeBy, Segment
from egno_md.state import Molecule
from egno_md.units import FS_PER_ASE_TIME, NM_PER_A, PS_PER_FS

#: Formats that never hold velocities, and so need no opening to be refused.
_WITHOUT_VELOCITIES = (".xtc", ".dcd", ".pdb", ".xyz", ".npz")


def read_windows(
    path: str | Path,
    horizon_fs: float,
    frame_interval_fs: float,
    data_interval_fs: float | None = None,
) -> Windows:
    """Read windows, or cut them out of a trajectory file.

    Args:
        path: a file of windows (`.safetensors`), mdtraj HDF5, or a file ASE reads.
        horizon_fs: length of a window.
        frame_interval_fs: time between its frames.
        data_interval_fs: time between the frames of a file that does not say it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds no velocities, or times do not fit the windows.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}")
    if file.suffix == ".safetensors":
        windows = load_windows(file)
        n = round(horizon_fs / frame_interval_fs)
        expected = frame_interval_fs * torch.arange(1, n + 1, dtype=torch.float64)
        if windows.n_frames < n or not torch.allclose(windows.times_fs[:n], expected):
            raise ValueError(
                f"{file}: its windows have frames at {windows.times_fs.tolist()[:4]}... fs; asked "
                f"for is {horizon_fs} fs with a frame every {frame_interval_fs} fs"
            )
        return windows.upto(n)
    segment = read_trajectory(file, data_interval_fs)
    return cut_windows(segment, horizon_fs, frame_interval_fs, source=str(file))


def cut_windows(
    segment: Segment, horizon_fs: float, frame_interval_fs: float, source: str = "trajectory"
) -> Windows:
    """Cut frames that follow one another into windows that do not overlap.

    The first frame of the segment serves as a start too. Windows with frames that a network
    made are left out: a model must not learn from a model.

    Args:
        segment: frames at equal distances in time, at constant energy.
        horizon_fs: length of a window, a multiple of the frame interval.
        frame_interval_fs: time between its frames, a multiple of the segment's.
        source: where the frames come from.

    Raises:
        ValueError: if the times do not fit or no window is left.
    """
    times = segment.times_fs
    if segment.n_frames < 2:
        raise ValueError(f"{source}: one frame only; a window needs at least two")
    # Files keep times in single precision; over the whole length the error is least.
    spacing = float(times[-1] - times[0]) / (segment.n_frames - 1)
    even = times[0] + spacing * torch.arange(len(times), dtype=times.dtype)
    if float((times - even).abs().max()) > 0.01 * spacing:
        raise ValueError(f"{source}: its frames are not at equal distances in time")
    every, n = round(frame_interval_fs / spacing), round(horizon_fs / frame_interval_fs)
    if every < 1 or abs(every * spacing - frame_interval_fs) > 1e-3 * frame_interval_fs:
        raise ValueError(
            f"{source}: it has a frame every {spacing:g} fs; {frame_interval_fs:g} fs between "
            "frames of a window is no multiple of that"
        )
    if n < 1 or abs(n * frame_interval_fs - horizon_fs) > 1e-6 * horizon_fs:
        raise ValueError(
            f"the horizon of {horizon_fs:g} fs is not a multiple of {frame_interval_fs:g} fs"
        )
    span = n * every
    if span >= segment.n_frames:
        raise ValueError(
            f"{source}: {segment.n_frames} frames every {spacing:g} fs are too few for one window "
            f"of {horizon_fs:g} fs"
        )
    begins = torch.arange(0, segment.n_frames - span, span)
    ahead_fs = frame_interval_fs * torch.arange(1, n + 1, dtype=torch.float64)
    return _gather(segment, begins, every, ahead_fs, source)


def _gather(segment: Segment, begins: Tensor, every: int, ahead_fs: Tensor, source: str) -> Windows:
    """Pick the windows that begin at the given frames, all replicas."""
    follow = begins[:, None] + every * torch.arange(1, len(ahead_fs) + 1)
    replicas = segment.n_replicas
    used = torch.cat([begins[:, None], follow], 1)
    genuine = (segment.made_by[:, used] != int(MadeBy.NETWORK)).all(-1).flatten()
    if not bool(genuine.any()):
        raise ValueError(f"{source}: a network made all of its frames; nothing to learn from them")
    times = segment.times_fs - segment.times_fs[0]
    windows = Windows(
        segment.molecule,
        segment.positions[:, begins].flatten(0, 1).to(torch.float64),
        segment.velocities[:, begins].flatten(0, 1).to(torch.float64),
        ahead_fs,
        segment.positions[:, follow].flatten(0, 1).to(torch.float64),
        segment.velocities[:, follow].flatten(0, 1).to(torch.float64),
        energies0=segment.potential_energies[:, begins].flatten(),
        energies=segment.potential_energies[:, follow].flatten(0, 1),
        trajectory=torch.arange(replicas).repeat_interleave(len(begins)),
        begins_fs=times[begins].to(torch.float64).repeat(replicas),
        source=source,
    )
    return windows.select(genuine)


def read_trajectory(path: Path, data_interval_fs: float | None = None) -> Segment:
    """Read a trajectory with velocities from a file.

    Args:
        path: mdtraj HDF5, or a file ASE reads.
        data_interval_fs: time between frames, for a file that does not say it.

    Raises:
        ValueError: if it has no velocities, no times, or is not readable.
    """
    if path.suffix in _WITHOUT_VELOCITIES:
        raise ValueError(
            f"{path}: {path.suffix} files hold no velocities; use a trajectory store, mdtraj HDF5 "
            "(.h5), or ASE files with momenta (.traj, .extxyz)"
        )
    if path.suffix in (".h5", ".hdf5"):
        return _from_hdf5(path)
    return _from_ase(path, data_interval_fs)


def _from_hdf5(path: Path) -> Segment:
    from mdtraj.formats import HDF5TrajectoryFile
    from tables import HDF5ExtError

    try:
        with HDF5TrajectoryFile(str(path), "r") as file:
            frames, topology = file.read(), file.topology
    except (HDF5ExtError, OSError, ValueError) as error:
        raise ValueError(f"{path}: mdtraj cannot read it ({error})") from error
    if frames.velocities is None:
        raise ValueError(f"{path}: it has no velocities; write it with them")
    if frames.time is None or topology is None:
        raise ValueError(f"{path}: it has no times or no topology; write it with them")
    if frames.cell_lengths is not None:
        raise ValueError(f"{path}: it is periodic; windows of molecules only can be cut so far")
    numbers = [atom.element.atomic_number for atom in topology.atoms]
    positions = frames.coordinates.astype(np.float64) / NM_PER_A
    # nm/ps to Å/fs
    velocities = frames.velocities.astype(np.float64) / NM_PER_A * PS_PER_FS
    return _segment(numbers, positions, velocities, frames.time.astype(np.float64) / PS_PER_FS)


def _from_ase(path: Path, data_interval_fs: float | None) -> Segment:
    from ase.io import read
    from ase.io.formats import UnknownFileTypeError

    try:
        images: list[Any] = list(read(path, index=":"))
    except (UnknownFileTypeError, ValueError, KeyError, IndexError, StopIteration) as error:
        raise ValueError(f"{path}: ASE cannot read it ({error})") from error
    first = images[0].numbers
    for k, atoms in enumerate(images):
        if not atoms.has("momenta"):
            raise ValueError(f"{path}: frame {k} has no momenta, and so no velocities")
        if atoms.pbc.any():
            raise ValueError(f"{path}: it is periodic; windows of molecules only can be cut so far")
        if not np.array_equal(atoms.numbers, first):
            raise ValueError(f"{path}: frame {k} has other atoms than frame 0")
    times = [atoms.info.get("time_fs") for atoms in images]
    if data_interval_fs is not None:
        times = [data_interval_fs * k for k in range(len(images))]
    elif None in times:
        raise ValueError(f"{path}: it does not say its times; give the time between its frames")
    velocities = np.stack([atoms.get_velocities() for atoms in images]) / FS_PER_ASE_TIME
    positions = np.stack([atoms.positions for atoms in images])
    return _segment(list(first), positions, velocities, np.array(times, dtype=np.float64))


def _segment(
    numbers: list[int], positions: np.ndarray, velocities: np.ndarray, times: np.ndarray
) -> Segment:
    """One replica's frames `(n_frames, n_atoms, 3)` in Å, Å/fs, and times in fs."""
    x = torch.from_numpy(np.ascontiguousarray(positions, dtype=np.float64))
    z = torch.tensor(numbers, dtype=torch.int64)
    molecule = Molecule.from_numbers(z, bonds=guess_bonds(z, x[0]))
    v = torch.from_numpy(np.ascontiguousarray(velocities, dtype=np.float64))
    made_by = torch.full((1, len(x)), int(MadeBy.GIVEN), dtype=torch.int8)
    return Segment(molecule, torch.from_numpy(times), x[None], v[None], made_by)
