"""What the rows of the table of propagators learn from and are tested on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from egno_md.bonds import bond_graph_distance
from egno_md.data.cache import remember
from egno_md.data.reference_md import Sampling, sample_windows
from egno_md.data.windows import Windows
from egno_md.models.pair_classes import PairClass, distance_statistics
from egno_md.roles import Potential
from egno_md.state import State
from egno_md.training.lesson import ForceFrames
from egno_md.training.segment_loss import Paths

#: Time between frames of the windows, fs.
INTERVAL_FS = 1.0

#: Forces are known every so many frames of a window.
_LABEL_EVERY = 8

#: Bond distances from here on count as one.
BOND_CAP = 4


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much data is made.

    Attributes:
        training: windows to learn from.
        validation: windows that choose weights.
        test: windows of the table.
        temperatures_K: of training and validation, in equal parts.
        horizon_fs: length of a window.
        timestep_fs: time step inside windows to learn from.
        test_timestep_fs: time step inside test windows; finer, they stand for the truth.
        equilibration_fs: dynamics before the first window.
    """

    training: int = 2000
    validation: int = 200
    test: int = 300
    temperatures_K: tuple[float, ...] = (300.0, 400.0, 500.0, 600.0)
    horizon_fs: float = 32.0
    timestep_fs: float = 0.5
    test_timestep_fs: float = 0.25
    equilibration_fs: float = 500.0


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """Data of one molecule.

    Attributes:
        potential: the true one.
        start: the geometry that dynamics starts from.
        training: paths with a frame every `INTERVAL_FS`, float32.
        validation: the same, from dynamics of their own.
        test: the same at one temperature, float64.
        points: labelled points of the training paths, float32.
        held_points: of the validation paths.
        elements: atomic numbers.
        classes: pair classes.
        distance_mean: mean distance of each class in the training starts, Å.
        distance_spread: its standard deviation.
    """

    potential: Potential
    start: State
    training: Paths
    validation: Paths
    test: Paths
    points: ForceFrames
    held_points: ForceFrames
    elements: list[int]
    classes: list[PairClass]
    distance_mean: Tensor
    distance_spread: Tensor


def make_lessons(
    potential: Potential, start: State, test_K: float, amounts: Amounts, cache: Path
) -> Lessons:
    """Make windows and labels, or take them from the cache.

    Args:
        potential: the true potential.
        start: a geometry with bonds, one replica.
        test_K: temperature of the test windows.
        amounts: how much.
        cache: folder that keeps the data.

    Raises:
        ValueError: if all replicas break at a temperature.
    """
    parts = (
        (amounts.training, amounts.temperatures_K, amounts.timestep_fs),
        (amounts.validation, amounts.temperatures_K, amounts.timestep_fs),
        (amounts.test, (test_K,), amounts.test_timestep_fs),
    )
    training, validation, test = (
        sample_windows(
            potential,
            start,
            n,
            amounts.horizon_fs,
            INTERVAL_FS,
            kelvin,
            timestep_fs=timestep_fs,
            sampling=Sampling(equilibration_fs=amounts.equilibration_fs, seed=part),
            cache=cache,
        )
        for part, (n, kelvin, timestep_fs) in enumerate(parts)
    )
    molecule = start.molecule
    apart = bond_graph_distance(molecule.n_atoms, molecule.bonds, BOND_CAP)
    classes, mean, spread = distance_statistics(training.positions0, molecule.numbers, apart)
    short = torch.float32
    return Lessons(
        potential,
        start,
        Paths.of(training, INTERVAL_FS).cast(short, "cpu"),
        Paths.of(validation, INTERVAL_FS).cast(short, "cpu"),
        Paths.of(test, INTERVAL_FS),
        _labelled(potential, training, cache),
        _labelled(potential, validation, cache),
        sorted(set(molecule.numbers.tolist())),
        classes,
        mean,
        spread,
    )


def _labelled(potential: Potential, windows: Windows, cache: Path) -> ForceFrames:
    """Forces at every eighth frame of every window, the start included, in float32."""
    paths = Paths.of(windows, INTERVAL_FS)
    x = paths.positions[:, ::_LABEL_EVERY].flatten(0, 1)

    def make() -> dict[str, Tensor]:
        chunks = torch.split(x, 256)
        known = [potential.evaluate(State.at_rest(windows.molecule, c)).forces for c in chunks]
        return {"forces": torch.cat(known)}

    # Windows remember their potential: their hash stands for both.
    key = {"windows": windows.sha256(), "every": _LABEL_EVERY}
    forces = remember(cache, "forces", key, make)["forces"]
    return ForceFrames(x.float(), forces.float())
