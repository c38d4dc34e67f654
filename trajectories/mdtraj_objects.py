"""Trajectories of mdtraj in memory: from segments and stores, and to states that can be run.

| here | mdtraj |
|---|---|
| positions, Å | `xyz`, nm, float32 |
| times, fs | `time`, ps |
| cells, Å | `unitcell_vectors`, nm |
| velocities | none: starts are at rest |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from egno_md.segment import Segment
from egno_md.state import State
from egno_md.trajectories.store_reader import TrajectoryReader
from egno_md.trajectories.topology import mdtraj_topology, molecule_of
from egno_md.units import NM_PER_A, PS_PER_FS

if TYPE_CHECKING:
    import mdtraj


def to_mdtraj(
    source: Segment | TrajectoryReader, replica: int = 0, stride: int = 1
) -> mdtraj.Trajectory:
    """Return one replica of a segment or a store as an mdtraj trajectory.

    Args:
        source: where the frames are.
        replica: its number; negative ones count from the end.
        stride: every so many frames.

    Raises:
        ValueError: if there is no such replica, or the stride is not positive.
    """
    import mdtraj

    if stride < 1:
        raise ValueError(f"stride is {stride}; it must be at least 1")
    n = source.n_replicas
    if not -n <= replica < n:
        raise ValueError(f"there is no replica {replica}; there are {n}, counted from 0")
    k, every = replica % n, slice(None, None, stride)
    cells: np.ndarray | None = None
    if isinstance(source, Segment):
        times_fs, x = source.times_fs[every].numpy(), source.positions[k, every].numpy(force=True)
        if source.cell is not None:
            cells = source.cell[k].numpy(force=True)[None].repeat(len(x), 0)
    else:
        one = slice(k, k + 1)
        times_fs, x = source.times_fs[every], source.array("positions", every, one)[0]
        if source.header.has_cell:
            cells = source.array("cells", every, one)[0]
    made = mdtraj.Trajectory(
        x * NM_PER_A, mdtraj_topology(source.molecule), time=times_fs * PS_PER_FS
    )
    if cells is not None:
        made.unitcell_vectors = cells * NM_PER_A
    return made


def state_from_mdtraj(
    trajectory: mdtraj.Trajectory, frames: int | Sequence[int] | slice = -1
) -> State:
    """Return frames of an mdtraj trajectory as replicas at rest, float64.

    Bonds and names are the topology's; bonds are guessed where it has none. A unit cell makes the
    system periodic.

    Args:
        trajectory: of mdtraj.
        frames: the frame, or frames, that become replicas; the last when not given.

    Raises:
        IndexError: if there is no such frame.
        ValueError: if no frame is chosen, a position is not finite, or an atom has no element.
    """
    rows = np.atleast_1d(np.arange(trajectory.n_frames)[frames])
    if not len(rows):
        raise ValueError(f"no frame chosen of {trajectory.n_frames}")
    x = np.asarray(trajectory.xyz[rows], dtype=np.float64) / NM_PER_A
    vectors = trajectory.unitcell_vectors
    cell = None
    if vectors is not None:
        cell = torch.from_numpy(np.asarray(vectors[rows], dtype=np.float64) / NM_PER_A)
    molecule = molecule_of(trajectory.topology, x[0], periodic=cell is not None)
    return State.at_rest(molecule, torch.from_numpy(x), cell=cell)
