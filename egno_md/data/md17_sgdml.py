r"""Trajectories of the MD17 molecules made with sGDML force fields: MD17-sGDML.

The force fields (Chmiela et al. 2018, doi:10.1038/s41467-018-06169-2) were trained on MD17, so
their dynamics resembles the original trajectories, but it is not them. A model file is all that
is needed: it holds the inverse distances of its training geometries, from which classical
multidimensional scaling gives each geometry back, up to a motion or a reflection, which no
energy depends on:

.. math::
    B = -\tfrac{1}{2} C D C = X X^T, \qquad C = 1 - \tfrac{1}{n}, \quad D_{ij} = d_{ij}^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from egno_md.bonds import guess_bonds
from egno_md.data.cache import potential_fingerprint, remember
from egno_md.data.md17 import FRAME_FS, N_POINTS, N_STARTS, STRIDE, PositionWindows
from egno_md.data.progress import progress_bar
from egno_md.data.sgdml import SGDMLParameters, SGDMLPotential, read_sgdml
from egno_md.propagators.classical import Langevin, VelocityVerlet
from egno_md.propagators.degrees_of_freedom import without_drift, without_rotation
from egno_md.roles import Potential
from egno_md.state import Molecule, State, maxwell_boltzmann

#: Largest relative error of a distance of a rebuilt geometry.
_REBUILT: Final = 1e-6

#: A bond between heavy atoms longer than this times its length at the start has broken.
_TORN: Final = 1.6

#: A hydrogen further than this from every heavy atom has left the molecule.
_LOST_A: Final = 2.0

#: Batches of further trajectories that take the place of those in which a bond broke.
_SPARE_BATCHES: Final = 3

#: Between the seeds of two batches.
_SEED_STRIDE: Final = 1_000_003


def training_geometry(path: str | PathLike[str]) -> State:
    """Rebuild the training geometry of lowest energy of an sGDML model.

    Args:
        path: the model's npz file.

    Returns:
        The geometry at rest, with guessed bonds, one replica.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a usable model, or its descriptors are no inverse distances.
    """
    parameters = read_sgdml(path)
    positions = embedded(parameters)
    molecule = Molecule.from_numbers(torch.from_numpy(parameters.numbers))
    everything = State.at_rest(molecule, positions)
    lowest = int(SGDMLPotential(parameters).energies(everything).argmin())
    bonds = guess_bonds(molecule.numbers, positions[lowest])
    return State.at_rest(Molecule.from_numbers(molecule.numbers, bonds=bonds), positions[lowest])


def embedded(parameters: SGDMLParameters) -> Tensor:
    """Rebuild all training geometries, `(n_train, n_atoms, 3)` float64, Å, centred.

    Args:
        parameters: a model's numbers.

    Raises:
        ValueError: if its descriptors are not the inverse distances of points in space.
    """
    n = len(parameters.numbers)
    row, column = np.tril_indices(n, -1)
    squares = np.zeros((len(parameters.descriptors), n, n))
    squares[:, row, column] = squares[:, column, row] = parameters.descriptors**-2.0
    centre = np.eye(n) - 1.0 / n
    values, vectors = np.linalg.eigh(-0.5 * centre @ squares @ centre)
    positions = vectors[:, :, -3:] * np.sqrt(np.maximum(values[:, None, -3:], 0.0))
    # Eigenvectors have no sign of their own: the largest component is made positive.
    largest = np.take_along_axis(positions, np.abs(positions).argmax(1)[:, None], 1)
    positions = positions * np.where(largest < 0, -1.0, 1.0)
    distances = np.linalg.norm(positions[:, row] - positions[:, column], axis=-1)
    error = float(np.abs(distances * parameters.descriptors - 1.0).max())
    if not error < _REBUILT:
        raise ValueError(
            f"the descriptors are not inverse distances of points in space (error {error:.2g}); "
            "training geometries cannot be rebuilt from this model"
        )
    return torch.from_numpy(np.ascontiguousarray(positions))


@dataclass(frozen=True, slots=True)
class Replicas:
    """Independent trajectories at constant energy, and the starts taken from them.

    Attributes:
        training: trajectories for training starts; no split shares one with another.
        validation: for validation starts.
        test: for test starts.
        length_fs: length of each.
        start_interval_fs: starts lie at multiples of this.
        temperature_K: temperature of the Langevin dynamics that each comes from.
        equilibration_fs: length of that, with a step of 1 fs.
        friction_per_ps: its friction.
        seed: seed of everything random.
    """

    training: int = 20
    validation: int = 30
    test: int = 30
    length_fs: float = 2400.0
    start_interval_fs: float = 12.5
    temperature_K: float = 650.0
    equilibration_fs: float = 1000.0
    friction_per_ps: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: naming the field.
        """
        for name, value in asdict(self).items():
            if name != "seed" and not 0 < value < float("inf"):
                raise ValueError(f"replicas: {name} must be positive, got {value}")
        if abs(self.start_interval_fs / FRAME_FS % 1) > 1e-9:
            raise ValueError(
                f"start_interval_fs {self.start_interval_fs} is not a multiple of {FRAME_FS} fs"
            )

    @property
    def counts(self) -> tuple[int, int, int]:
        """Trajectories of each split."""
        return (self.training, self.validation, self.test)

    @property
    def total(self) -> int:
        """All trajectories."""
        return sum(self.counts)


def sample_position_windows(
    potential: Potential,
    start: State,
    how: Replicas | None = None,
    *,
    n_starts: Mapping[str, int] = N_STARTS,
    n_points: int = N_POINTS,
    stride: int = STRIDE,
    cache: Path | None = None,
) -> dict[str, PositionWindows]:
    """Make the starts of the benchmark with a potential.

    Every replica is brought to temperature, loses drift and rotation, as the trajectories of
    MD17 have none, and goes on at constant energy in steps of 0.5 fs. Starts of a split are drawn
    without repetition from its own replicas; others are made for those in which a bond broke.

    Args:
        potential: moves the molecule.
        start: one geometry, with bonds.
        how: replicas and starts.
        n_starts: how many starts of each split.
        n_points: time points of a window.
        stride: frames of 0.5 fs between them.
        cache: folder to keep the trajectories in, or None.

    Returns:
        Windows named as `N_STARTS`, of all atoms.

    Raises:
        ValueError: if windows do not fit in the trajectories, or a split has too few starts.
    """
    how = how or Replicas()
    every = round(how.start_interval_fs / FRAME_FS)
    if stride % every:
        raise ValueError(
            f"stride {stride} is not a multiple of the {every} frames between starts "
            f"(start_interval_fs {how.start_interval_fs})"
        )
    config: dict[str, Any] = {
        "potential": potential_fingerprint(potential, start),
        "numbers": start.molecule.numbers.tolist(),
        "start": [round(x, 6) for x in start.positions.flatten().tolist()],
        "how": asdict(how),
    }

    def trajectories(n: int, batch: int) -> dict[str, Tensor]:
        key = config | ({"spares": [n, batch]} if batch else {})
        make = partial(_trajectories, potential, start, how, n, how.seed + _SEED_STRIDE * batch)
        return remember(cache, "replicas", key, make)

    n_after = n_points * stride // every
    made, replicas = _whole_replicas(start, how, tuple(n_starts.values()), n_after, trajectories)
    source = f"{type(potential).__name__} at {how.temperature_K:g} K"
    windows = {}
    for k, (part, mine) in enumerate(zip(n_starts, replicas, strict=True)):
        generator = torch.Generator().manual_seed(1000 * how.seed + k)
        places = _starts(made, mine, n_starts[part], n_after, generator, part)
        windows[part] = _cut(start.molecule, made, places, n_points, stride, every, source)
    return windows


def _whole_replicas(
    start: State,
    how: Replicas,
    wanted: tuple[int, ...],
    n_after: int,
    trajectories: Callable[[int, int], dict[str, Tensor]],
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """All trajectories, and the whole ones of each split, spares among them where too few are left.

    Args:
        start: the molecule as it should stay.
        how: replicas.
        wanted: starts of each split.
        n_after: frames behind each start.
        trajectories: makes so many, of a batch.
    """
    made = trajectories(how.total, 0)
    whole = _whole(start, made["positions"])
    parts = torch.split(torch.arange(how.total), list(how.counts))
    replicas = [mine[whole[mine]] for mine in parts]
    usable = made["positions"].shape[1] - n_after
    for batch in range(1, _SPARE_BATCHES + 1):
        lacking = [
            max(0, min(math.ceil(n / max(usable, 1)), count) - len(mine))
            for n, count, mine in zip(wanted, how.counts, replicas, strict=True)
        ]
        if usable < 1 or not any(lacking):
            break
        spares = trajectories(2 * sum(lacking), batch)
        made, replicas = _with_spares(start, made, replicas, lacking, spares)
    return made, replicas


def _with_spares(
    start: State,
    made: dict[str, Tensor],
    replicas: list[Tensor],
    lacking: list[int],
    spares: dict[str, Tensor],
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Add a batch of trajectories and give each split as many whole ones as it lacks."""
    whole = len(made["positions"]) + _whole(start, spares["positions"]).nonzero()[:, 0]
    grown, first = [], 0
    for mine, n in zip(replicas, lacking, strict=True):
        grown.append(torch.cat([mine, whole[first : first + n]]))
        first += n
    return {name: torch.cat([made[name], spares[name]]) for name in made}, grown


def _trajectories(
    potential: Potential, start: State, how: Replicas, n: int, seed: int
) -> dict[str, Tensor]:
    """Frames of `n` replicas at multiples of the start interval, and the steps that follow."""
    generator = torch.Generator().manual_seed(seed)
    molecule = start.molecule
    x = start.positions[:1].to(torch.float64).expand(n, -1, -1).contiguous()
    state = State(molecule, x, maxwell_boltzmann(molecule, n, how.temperature_K, generator))
    bath = Langevin(potential, 1.0, 1.0, 50, how.temperature_K, how.friction_per_ps, generator)
    every = round(how.start_interval_fs / FRAME_FS)
    rounds, warm = round(how.length_fs / how.start_interval_fs), round(how.equilibration_fs / 50)
    frames, steps = [], []
    with progress_bar("trajectories", rounds + warm) as advance:
        for _ in range(warm):
            state = bath.advance(state).last
            advance(1, "equilibration")
        v = without_drift(molecule, state.velocities)
        v = without_rotation(molecule, state.positions, v)
        state = state.with_(velocities=v, time_fs=0.0)
        newton = VelocityVerlet(potential, FRAME_FS, FRAME_FS, every)
        for _ in range(rounds):
            segment = newton.advance(state)
            frames.append(state.positions)
            steps.append(segment.positions[:, 0] - state.positions)
            state = segment.last
            advance(1, "constant energy")
    return {"positions": torch.stack(frames, 1), "steps": torch.stack(steps, 1)}


def _whole(start: State, positions: Tensor) -> Tensor:
    """Which replicas `(n, n_frames, n_atoms, 3)` kept all their atoms, `(n,)` bool.

    Hydrogens may change places, as in malonaldehyde.
    """
    z = start.molecule.numbers
    heavy, light = (z > 1).nonzero()[:, 0], (z == 1).nonzero()[:, 0]
    bonds = start.molecule.bonds
    bonds = bonds[(z[bonds] > 1).all(1)]
    ends = positions[:, :, bonds]
    lengths = (ends[..., 0, :] - ends[..., 1, :]).norm(dim=-1)
    rest = start.positions[0].to(positions)[bonds]
    torn = (lengths > _TORN * (rest[:, 0] - rest[:, 1]).norm(dim=-1)).flatten(1).any(1)
    if len(light) and len(heavy):
        gaps = torch.cdist(positions[:, :, light], positions[:, :, heavy])
        torn |= (gaps.amin(-1) > _LOST_A).flatten(1).any(1)
    whole: Tensor = ~torn
    return whole


def _starts(
    made: dict[str, Tensor],
    replicas: Tensor,
    wanted: int,
    n_after: int,
    generator: torch.Generator,
    part: str,
) -> Tensor:
    """Draw starts with `n_after` frames behind them, `(wanted, 2)` of replica and frame."""
    usable = made["positions"].shape[1] - n_after
    if usable < 1 or usable * len(replicas) < wanted:
        raise ValueError(
            f"{len(replicas)} whole replicas with {max(usable, 0)} starts each are too few for "
            f"{wanted} {part} starts; make more or longer trajectories, or lower the temperature"
        )
    drawn = torch.randperm(usable * len(replicas), generator=generator)[:wanted].sort().values
    return torch.stack([replicas[drawn // usable], drawn % usable], 1)


def _cut(
    molecule: Molecule,
    made: dict[str, Tensor],
    places: Tensor,
    n_points: int,
    stride: int,
    every: int,
    source: str,
) -> PositionWindows:
    replica, frame = places[:, 0], places[:, 1]
    follow = frame[:, None] + stride // every * torch.arange(1, n_points + 1)
    x = made["positions"]
    return PositionWindows(
        molecule,
        x[replica, frame],
        made["steps"][replica, frame],
        x[replica[:, None], follow],
        stride,
        source,
    )
