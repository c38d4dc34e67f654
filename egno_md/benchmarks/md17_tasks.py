"""Molecules as tasks of the published EGNO: graphs, features, starts and what followed.

| feature | as published for MD17 | here |
|---|---|---|
| node | length of the velocity, `Z / max Z` | the same |
| edge | `Z_i, Z_j`, bonds apart (1 or 2), squared distance at the start | the same |
| edge | flags of rigid sticks, written by hand for each molecule | left out |

Edges join atoms one or two bonds apart. Bonds are those of the first geometry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from egno_md.benchmarks.paths import Paths, PathTask
from egno_md.bonds import bond_graph_distance
from egno_md.data.md17 import N_STARTS, PositionWindows
from egno_md.data.windows import Windows
from egno_md.state import Molecule

#: Atoms further apart in bonds are not joined.
_MOST_BONDS = 2


def molecule_edges(molecule: Molecule) -> tuple[Tensor, Tensor]:
    """Edges of the published graph, and the features that do not depend on the geometry.

    Args:
        molecule: with bonds.

    Returns:
        `(2, n_edges)` int64 receivers and senders, and `(n_edges, 3)` float32: both atomic
        numbers and the bonds between.

    Raises:
        ValueError: if no two atoms are bonded.
    """
    apart = bond_graph_distance(molecule.n_atoms, molecule.bonds, _MOST_BONDS + 1)
    edges = ((apart > 0) & (apart <= _MOST_BONDS)).nonzero().T.contiguous()
    if not edges.shape[1]:
        raise ValueError("the molecule has no bonds, and so its graph no edges")
    between = apart[edges[0], edges[1]]
    z = molecule.numbers
    return edges, torch.stack([z[edges[0]], z[edges[1]], between], 1).float()


def paths_of(
    molecule: Molecule, positions0: Tensor, velocities0: Tensor, targets: Tensor, times: Tensor
) -> Paths:
    """Put starts and what followed into the form of a task, in float32.

    Args:
        molecule: the atoms, with bonds.
        positions0: `(n, n_atoms, 3)`, Å.
        velocities0: same shape, Å per unit of the times.
        targets: `(n, n_points, n_atoms, 3)`, Å.
        times: `(n_points,)`, increasing.

    Raises:
        ValueError: if the molecule has no bonds, or shapes do not fit.
    """
    edges, fixed = molecule_edges(molecule)
    arrows = positions0[:, edges[0]] - positions0[:, edges[1]]
    squares = arrows.square().sum(-1, keepdim=True).float()
    z = molecule.numbers.float()
    size = velocities0.norm(dim=-1).float()
    return Paths(
        positions0.float(),
        velocities0.float(),
        targets.float(),
        times.float(),
        torch.stack([size, (z / z.max()).expand_as(size)], -1),
        edges,
        torch.cat([fixed.expand(len(squares), -1, -1), squares], -1),
    )


def published_task(name: str, windows: Mapping[str, PositionWindows]) -> PathTask:
    """The published task: heavy atoms, velocities as steps between frames, times in frames.

    Args:
        name: of the task; a hash of the data is added.
        windows: named as `N_STARTS`.
    """
    splits = []
    for part in N_STARTS:
        heavy = windows[part].heavy()
        times = heavy.stride * torch.arange(1, heavy.positions.shape[1] + 1)
        splits.append(
            paths_of(heavy.molecule, heavy.positions0, heavy.steps0, heavy.positions, times)
        )
    marks = "".join(windows[part].sha256()[:4] for part in N_STARTS)
    return PathTask(f"{name}-{marks}", *splits)


def horizon_task(
    name: str, splits: Sequence[Windows], horizon_fs: float, n_points: int
) -> PathTask:
    """The task of one horizon: all atoms, true velocities, times in fs.

    Args:
        name: of the task; the horizon and a hash of the data are added.
        splits: training, validation and test windows.
        horizon_fs: the last time.
        n_points: times, at equal intervals.

    Raises:
        ValueError: if the windows have no frame at one of the times.
    """
    times = horizon_fs / n_points * torch.arange(1, n_points + 1, dtype=torch.float64)
    parts = []
    for windows in splits:
        found = (windows.times_fs[:, None] - times).abs() < 1e-6
        if not bool(found.any(0).all()):
            missing = float(times[(~found.any(0)).nonzero()[0, 0]])
            raise ValueError(f"{windows.source} has no frame {missing:g} fs after the start")
        frames = found.int().argmax(0)
        parts.append(
            paths_of(
                windows.molecule,
                windows.positions0,
                windows.velocities0,
                windows.positions[:, frames],
                times,
            )
        )
    marks = "".join(windows.sha256()[:4] for windows in splits)
    return PathTask(f"{name}-{horizon_fs:g}fs-{marks}", *parts)
