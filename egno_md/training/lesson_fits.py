"""Fits of a Hamiltonian EGNO to lessons, to forces or to chains of segments, and its measures.

Each batch is of one molecule, drawn by the step's generator, so molecules of any size learn side
by side. A network is as good as its mean score over the molecules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from egno_md.models.hamiltonian_egno import HamiltonianEGNO
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
    resume: bool,
) -> FitResult:
    """Fit the static part U_0 to the teachers' forces.

    Args:
        model: the network, changed in place.
        pairs: of each molecule.
        lessons: one for each molecule, with labelled frames.
        settings: the numbers of the fit.
        folder: takes checkpoint, best weights and log.
        resume: go on from the checkpoint in the folder.

    Raises:
        ValueError: if a lesson has no labelled frames, or the fit fails.
    """
    like = model.distance_mean
    shown: list[tuple[Pairs, ForceFrames]] = []
    held: list[tuple[Pairs, ForceFrames]] = []
    for own, lesson in zip(pairs, lessons, strict=True):
        if lesson.force_frames is None:
            raise ValueError("forces are matched only where a potential makes the data")
        for part, frames in zip((shown, held), lesson.force_frames, strict=True):
            part.append((own, frames.like(like)))

    def sample(step: int, generator: torch.Generator) -> tuple[Pairs, ForceFrames]:
        own, frames = drawn(shown, generator)
        n = frames.positions.shape[0]
        return own, frames.select(torch.randint(n, (settings.batch_size,), generator=generator))

    def loss(
        network: nn.Module, batch: tuple[Pairs, ForceFrames]
    ) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        own, frames = batch
        found = mean_forces(ours(network), own, frames.positions, frames.cell)
        return (found - frames.forces).square().mean().sqrt(), {}

    def validate(network: nn.Module) -> dict[str, float]:
        parts = [_force_errors(ours(network), *part) for part in held]
        return joined_measures([lesson.name for lesson in lessons], parts)

    return fit(model, sample, loss, validate, settings, folder, resume=resume, description="forces")


def match_segments(
    model: HamiltonianEGNO,
    pairs: Sequence[Pairs],
    lessons: Sequence[Lesson],
    chain: int,
    scale: Scale,
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
        chain: applications of the map per sample.
        scale: what errors are measured by.
        settings: the numbers of the fit.
        folder: takes checkpoint, best weights and log.
        resume: go on from the checkpoint in the folder.

    Raises:
        ValueError: if windows are shorter than the chain, or the fit fails.
    """
    own, device = model.distance_mean.dtype, str(model.distance_mean.device)
    losses: list[SegmentLoss] = []
    held: list[Paths] = []
    for around, lesson in zip(pairs, lessons, strict=True):
        paths = Paths.of(lesson.training, model.step_fs).cast(own, device)
        losses.append(SegmentLoss(paths, around, chain, scale))
        paths = Paths.of(lesson.validation, model.step_fs).cast(own, device)
        held.append(paths.upto(chain))

    def sample(step: int, generator: torch.Generator) -> SegmentBatch:
        return drawn(losses, generator).sample(settings.batch_size, generator)

    def loss(
        network: nn.Module, batch: SegmentBatch
    ) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        return batch.loss(ours(network), batch)

    def validate(network: nn.Module) -> dict[str, float]:
        parts = []
        for judge, paths in zip(losses, held, strict=True):
            got = predicted(ours(network), paths, judge.pairs)
            errors = judge.errors(*got, paths.positions[:, 1:], paths.velocities[:, 1:])
            measures = frame_measures(model.step_fs, paths, *got)
            parts.append({"score": float(sum(errors)) ** 0.5, **measures})
        return joined_measures([lesson.name for lesson in lessons], parts)

    what = f"segments x{chain}"
    return fit(model, sample, loss, validate, settings, folder, resume=resume, description=what)


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
