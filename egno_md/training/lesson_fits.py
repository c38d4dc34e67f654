"""Fits of a Hamiltonian EGNO to lessons, to forces or to chains of segments, and its measures.

Each batch is of one molecule, drawn by the step's generator, so molecules of any size learn side
by side. A network is as good as its mean score over the molecules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from egno_md.data.windows import Windows
from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.training.energy_loss import EnergyLoss
from egno_md.training.lesson import ForceFrames, Lesson
from egno_md.training.lesson_pairs import Pairs, mean_forces
from egno_md.training.loop import FitResult, fit
from egno_md.training.segment_loss import (
    CELLS_AT_ONCE,
    Paths,
    Scale,
    SegmentBatch,
    SegmentLoss,
    chunks,
    frame_measures,
    predicted,
    total_energy_errors_eV,
)
from egno_md.training.settings import FitSettings
from egno_md.units import KCAL_PER_MOL

T = TypeVar("T")

#: Frames whose forces are validated at once.
_FRAMES_AT_ONCE = 256


def match_forces(
    model: HamiltonianEGNO,
    pairs: Sequence[Pairs],
    lessons: Sequence[Lesson],
    settings: FitSettings,
    folder: Path,
    *,
    energy_weight: float = 0.0,
    resume: bool,
) -> FitResult:
    """Fit the static part U_0 to the teachers' forces, and energies if they have a weight.

    Args:
        model: the network, changed in place.
        pairs: of each molecule.
        lessons: one for each molecule, with labelled frames.
        settings: the numbers of the fit.
        folder: takes checkpoint, best weights and log.
        energy_weight: of the energies' error over their spread.
        resume: go on from the checkpoint in the folder.

    Raises:
        ValueError: if a lesson has no labelled frames, or the fit fails.
    """
    like = model.distance_mean
    depths = [_depths(energy_weight, *both, like) for both in zip(pairs, lessons, strict=True)]
    shown: list[tuple[Pairs, ForceFrames]] = []
    held: list[tuple[Pairs, ForceFrames]] = []
    for own, lesson in zip(pairs, lessons, strict=True):
        if lesson.force_frames is None:
            raise ValueError("forces are matched only where a potential makes the data")
        for part, frames in zip((shown, held), lesson.force_frames, strict=True):
            part.append((own, frames.like(like)))

    def sample(step: int, generator: torch.Generator) -> tuple[int, Tensor]:
        which = drawn(range(len(shown)), generator)
        n = shown[which][1].positions.shape[0]
        return which, torch.randint(n, (settings.batch_size,), generator=generator)

    def loss(
        network: nn.Module, batch: tuple[int, Tensor]
    ) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        which, rows = batch
        own, frames = shown[which][0], shown[which][1].select(rows)
        found = mean_forces(ours(network), own, frames.positions, frames.cell)
        error = (found - frames.forces).square().mean().sqrt()
        # The same frames, so that the same generator gives the same batches with and without.
        return _joined(error, depths[which], rows, ours(network))

    def validate(network: nn.Module) -> dict[str, float]:
        parts = [
            _with_depth(_force_errors(ours(network), *part), depth, ours(network))
            for part, depth in zip(held, depths, strict=True)
        ]
        return joined_measures([lesson.name for lesson in lessons], parts)

    return fit(model, sample, loss, validate, settings, folder, resume=resume, description="forces")


@dataclass(frozen=True, slots=True)
class SegmentErrors:
    """What a fit to segments makes small.

    Attributes:
        chain: applications of the map per sample.
        scale: what errors of positions and velocities are measured by.
        energy_weight: weight of the error of U_0 over the spread of the energies.
    """

    chain: int
    scale: Scale = "change"
    energy_weight: float = 0.0


def match_segments(
    model: HamiltonianEGNO,
    pairs: Sequence[Pairs],
    lessons: Sequence[Lesson],
    errors: SegmentErrors,
    settings: FitSettings,
    folder: Path,
    *,
    resume: bool,
) -> FitResult:
    """Fit a chain of applications of the map to true frames.

    Args:
        model: the network, changed in place.
        pairs: of each molecule.
        lessons: one for each molecule.
        errors: what is made small.
        settings: the numbers of the fit.
        folder: takes checkpoint, best weights and log.
        resume: go on from the checkpoint in the folder.

    Raises:
        ValueError: if windows are shorter than the chain, energies are asked for and not there,
            or the fit fails.
    """
    like, weight = model.distance_mean, errors.energy_weight
    depths = [_depths(weight, *both, like) for both in zip(pairs, lessons, strict=True)]
    losses = [
        SegmentLoss(_paths(model, lesson.training), around, errors.chain, errors.scale)
        for around, lesson in zip(pairs, lessons, strict=True)
    ]
    held = [_paths(model, lesson.validation).upto(errors.chain) for lesson in lessons]

    def sample(step: int, generator: torch.Generator) -> tuple[int, SegmentBatch, Tensor | None]:
        which = drawn(range(len(losses)), generator)
        batch, depth = losses[which].sample(settings.batch_size, generator), depths[which]
        rows = None if depth is None else depth.shown.sample(settings.batch_size, generator)
        return which, batch, rows

    def loss(
        network: nn.Module, drawn_batch: tuple[int, SegmentBatch, Tensor | None]
    ) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        which, batch, rows = drawn_batch
        error, parts = batch.loss(ours(network), batch)
        total, more = _joined(error, depths[which], rows, ours(network))
        return total, {**parts, **more}

    def validate(network: nn.Module) -> dict[str, float]:
        parts = []
        for judge, paths, depth in zip(losses, held, depths, strict=True):
            got = predicted(ours(network), paths, judge.pairs)
            found = judge.errors(*got, paths.positions[:, 1:], paths.velocities[:, 1:])
            measures = frame_measures(model.step_fs, paths, *got)
            one = {"score": float(sum(found)) ** 0.5, **measures}
            parts.append(_with_depth(one, depth, ours(network)))
        return joined_measures([lesson.name for lesson in lessons], parts)

    what = f"segments x{errors.chain}"
    return fit(model, sample, loss, validate, settings, folder, resume=resume, description=what)


def _paths(model: HamiltonianEGNO, windows: Windows) -> Paths:
    """Windows at the network's steps, in its number type and on its device."""
    like = model.distance_mean
    return Paths.of(windows, model.step_fs).cast(like.dtype, str(like.device))


@dataclass(frozen=True, slots=True)
class _Depths:
    """Energies that a molecule's potential is held to."""

    weight: float
    shown: EnergyLoss
    held: EnergyLoss


def _depths(weight: float, pairs: Pairs, lesson: Lesson, like: Tensor) -> _Depths | None:
    """Energies of a lesson, or None where they have no weight."""
    if weight == 0.0:
        return None
    frames = lesson.force_frames or (None, None)
    own = lesson.molecule
    shown = EnergyLoss.of(frames[0], own, pairs, like)
    return _Depths(weight, shown, EnergyLoss.of(frames[1], own, pairs, like, shown.spread_eV))


def _joined(
    error: Tensor, depths: _Depths | None, rows: Tensor | None, network: HamiltonianEGNO
) -> tuple[Tensor, dict[str, float | Tensor]]:
    """Add the energies of some frames to a loss, if they have a weight."""
    if depths is None or rows is None:
        return error, {}
    energy = depths.shown(network, rows)
    return error + depths.weight * energy, {"energy": energy.detach()}


def _with_depth(
    measures: Mapping[str, float], depths: _Depths | None, network: HamiltonianEGNO
) -> dict[str, float]:
    """Add the error of the held-out energies to measures and score, if they have a weight."""
    if depths is None:
        return dict(measures)
    error = depths.held.error_eV(network)
    score = measures["score"] + depths.weight * error / depths.shown.spread_eV
    return {**measures, "score": score, "energy_rms_meV": 1000.0 * error}


def lesson_measures(model: HamiltonianEGNO, pairs: Pairs, lesson: Lesson) -> dict[str, float]:
    """Measure a trained network on the test windows of a lesson.

    Args:
        model: the trained network.
        pairs: the molecule's pairs.
        lesson: gives the test windows and the potential.
    """
    own, device = model.distance_mean.dtype, str(model.distance_mean.device)
    paths = Paths.of(lesson.test, model.step_fs)
    cast = paths.cast(own, device)
    measures = frame_measures(model.step_fs, cast, *predicted(model, cast, pairs))
    if lesson.potential is not None:
        errors = total_energy_errors_eV(model, paths, pairs, lesson.potential).abs()
        at = f"{paths.n_steps * model.step_fs:g}fs"
        measures[f"total_energy_error_rms_eV_{at}"] = float(errors.square().mean().sqrt())
        measures[f"total_energy_error_p999_eV_{at}"] = float(torch.quantile(errors, 0.999))
    return measures


def drawn(choices: Sequence[T], generator: torch.Generator) -> T:
    """Draw one of several, each as likely; of one nothing is drawn.

    Args:
        choices: at least one.
        generator: source of randomness.
    """
    if len(choices) == 1:
        return choices[0]
    return choices[int(torch.randint(len(choices), (1,), generator=generator))]


def joined_measures(names: Sequence[str], parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Put the measures of several molecules into one table; the score is their mean.

    Args:
        names: of the molecules; they stand before the measures where there are several.
        parts: measures of each.
    """
    if len(parts) == 1:
        return dict(parts[0])
    joined = {
        f"{name}/{measure}": value
        for name, part in zip(names, parts, strict=True)
        for measure, value in part.items()
    }
    scores = [part["score"] for part in parts if "score" in part]
    return {"score": math.fsum(scores) / len(scores), **joined} if scores else joined


def ours(network: nn.Module) -> HamiltonianEGNO:
    """The network that a fit hands over: the one in training, or the average of its weights.

    Raises:
        TypeError: if it is another.
    """
    if not isinstance(network, HamiltonianEGNO):
        raise TypeError(f"a HamiltonianEGNO was to be fitted, got {type(network).__name__}")
    return network


def _force_errors(network: HamiltonianEGNO, pairs: Pairs, frames: ForceFrames) -> dict[str, float]:
    """Relative error of the forces, and their mean absolute error."""
    n = frames.positions.shape[0]
    size = _FRAMES_AT_ONCE if frames.cell is None else CELLS_AT_ONCE
    parts = [
        mean_forces(network, pairs, some.positions, some.cell)
        for some in (frames.select(rows) for rows in chunks(n, size))
    ]
    error = torch.cat(parts)[:n] - frames.forces
    mae = float(error.abs().mean()) / KCAL_PER_MOL
    return {
        "score": float(error.norm() / frames.forces.norm()),
        "force_mae_kcal_per_mol_A": mae,
    }
