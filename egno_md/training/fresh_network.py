"""An untrained Hamiltonian EGNO for the molecules it is to learn."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor

from egno_md.bonds import bond_graph_distance
from egno_md.config import TrainConfig
from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.models.pair_classes import PairClass, distance_statistics
from egno_md.models.periodic_pairs import near_statistics
from egno_md.training.lesson import Lesson

#: Options of the network that a job may set.
ARCHITECTURE_OPTIONS = (
    "step_fs", "n_stages", "n_modes", "n_hidden", "n_vectors", "n_layers", "n_radial", "cutoff_A",
)  # fmt: skip

#: The largest bond distance that is told apart.
_BOND_CAP = 4

#: Frames of a cell that its distances are measured in.
_CELL_FRAMES = 16

Statistics = tuple[list[PairClass], Tensor, Tensor]


def make_network(config: TrainConfig, lessons: Sequence[Lesson]) -> HamiltonianEGNO:
    """Make an untrained network that knows the atoms and pairs of some molecules.

    Args:
        config: gives the architecture, dtype, device and seed.
        lessons: give the molecules and their distances.

    Raises:
        ValueError: if an option of the architecture is wrong.
    """
    given = {
        name: getattr(config, name)
        for name in ARCHITECTURE_OPTIONS
        if getattr(config, name) is not None
    }
    elements = sorted({z for lesson in lessons for z in lesson.molecule.numbers.tolist()})
    default = inspect.signature(HamiltonianEGNO).parameters["cutoff_A"].default
    cutoff_A = float(given.get("cutoff_A", default))
    classes, mean, spread = pooled([lesson_statistics(lesson, cutoff_A) for lesson in lessons])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = HamiltonianEGNO(elements, classes, bond_cap=_BOND_CAP, **given)
    model.distance_mean.copy_(mean)
    model.distance_spread.copy_(spread)
    return model.to(device=config.device, dtype=getattr(torch, config.dtype))


def lesson_statistics(lesson: Lesson, cutoff_A: float) -> Statistics:
    """Measure the distances of every class of pairs in a lesson.

    Args:
        lesson: gives the training windows.
        cutoff_A: in a cell, pairs farther apart are left out.

    Returns:
        The classes, and per class the mean and the standard deviation, Å.
    """
    windows, molecule = lesson.training, lesson.molecule
    if windows.cell is None:
        apart = bond_graph_distance(molecule.n_atoms, molecule.bonds, _BOND_CAP)
        return distance_statistics(windows.positions0, molecule.numbers, apart)
    rows = torch.linspace(0, windows.n_windows - 1, min(_CELL_FRAMES, windows.n_windows)).long()
    return near_statistics(
        molecule, windows.positions0[rows], windows.cell[rows], cutoff_A, _BOND_CAP
    )


def pooled(parts: Sequence[Statistics]) -> Statistics:
    """Join the statistics of several molecules; each counts alike in the classes it has.

    Args:
        parts: classes, means and standard deviations, Å.
    """
    classes = sorted({c for part in parts for c in part[0]})
    means, spreads = [], []
    for c in classes:
        own = [(p[1][p[0].index(c)], p[2][p[0].index(c)]) for p in parts if c in p[0]]
        mean = torch.stack([m for m, _ in own])
        variance = torch.stack([s.square() for _, s in own]).mean()
        among = (mean - mean.mean()).square().mean()
        means.append(mean.mean())
        spreads.append((variance + among).sqrt() if len(own) > 1 else own[0][1])
    return classes, torch.stack(means), torch.stack(spreads)
