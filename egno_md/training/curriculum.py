"""Trains a Hamiltonian EGNO: forces first, then segments, then chains of segments.

Forces alone give a network that knows the molecules but not the long step; segments from random
weights get stuck. So each stage starts from the best weights of the one before: chain 0 matches
forces, chain 1 the frames after one application of the map, chain 2 after two, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from egno_md.bundle import save_bundle
from egno_md.config import TrainConfig
from egno_md.models.compiled_gradient import CompiledGradient
from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.training.card import trained_card
from egno_md.training.fresh_network import make_network
from egno_md.training.learning_curve import learning_curve
from egno_md.training.lesson import Lesson, read_lessons, read_tests
from egno_md.training.lesson_fits import (
    SegmentErrors,
    joined_measures,
    lesson_measures,
    match_forces,
    match_segments,
)
from egno_md.training.lesson_pairs import Pairs, pairs_of
from egno_md.training.loop import FitResult
from egno_md.training.segment_loss import Paths, Scale
from egno_md.training.settings import FitSettings, fit_settings
from egno_md.training.sources import work_folder


def train_egno(config: TrainConfig, command: str = "") -> Path:
    """Train a Hamiltonian EGNO and write its bundle.

    Args:
        config: the job, of kind "egno".
        command: the command that asked for it, for the card.

    Returns:
        The folder of the bundle.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the data or a setting is wrong, or the training diverges.
    """
    torch.set_num_threads(config.n_threads)
    lessons, tests = read_lessons(config), read_tests(config)
    model = make_network(config, lessons)
    for lesson in (*lessons, *tests):
        _check_windows(lesson, model.step_fs, max(config.chain, default=0))
    # Molecules that are only measured must be known too: better to say so before training.
    pairs, others = (
        [pairs_of(lesson.molecule, model) for lesson in part] for part in (lessons, tests)
    )
    if config.compile != "never":
        model.compiled = CompiledGradient(strict=config.compile == "always")
    results, folders = _fit_stages(config, model, pairs, lessons)
    measures = _measures(model, [*pairs, *others], lessons, tests)
    card = trained_card(
        config,
        command,
        model=model,
        molecules=list(dict.fromkeys(lesson.constitution for lesson in lessons)),
        data=[lesson.training for lesson in lessons],
        test=[lesson.test for lesson in (*lessons, *tests)],
        counts={
            "n_windows": sum(lesson.training.n_windows for lesson in lessons),
            "n_validation": sum(lesson.validation.n_windows for lesson in lessons),
            "n_test": sum(lesson.test.n_windows for lesson in (*lessons, *tests)),
        },
        results=results,
        measures=measures,
        curve=learning_curve(folders),
        horizon_fs=Paths.of(lessons[0].test, model.step_fs).n_steps * model.step_fs,
        frame_interval_fs=model.step_fs,
    )
    return save_bundle(Path(config.out), card, model.state_dict())


def _check_windows(lesson: Lesson, step_fs: float, longest: int) -> None:
    """Refuse windows that a later stage could not use, before hours of training."""
    for windows in (lesson.training, lesson.validation, lesson.test):
        n_steps = Paths.of(windows, step_fs).n_steps
        if n_steps < longest:
            raise ValueError(
                f"the windows of {lesson.name} cover {n_steps} steps of the network "
                f"({step_fs:g} fs each); a chain of {longest} needs longer windows"
            )


def _fit_stages(
    config: TrainConfig, model: HamiltonianEGNO, pairs: Sequence[Pairs], lessons: Sequence[Lesson]
) -> tuple[list[FitResult], list[Path]]:
    """Go through the curriculum; say how each stage went and where its log is."""
    stages = zip(
        config.chain,
        config.chain_steps,
        config.chain_learning_rates,
        stage_scales(config),
        config.chain_energy_weights or (0.0,) * len(config.chain),
        strict=True,
    )
    results: list[FitResult] = []
    folders: list[Path] = []
    for number, (chain, steps, rate, scale, weight) in enumerate(stages):
        if chain == 0 and all(lesson.force_frames is None for lesson in lessons):
            continue
        settings = _settings(config, steps, rate, number)
        folder = work_folder(config) / f"stage-{number}-chain-{chain}"
        # A stage that is done returns at once with its best weights.
        resume = config.resume and folder.exists()
        if chain == 0:
            done = match_forces(
                model, pairs, lessons, settings, folder, energy_weight=weight, resume=resume
            )
        else:
            errors = SegmentErrors(chain, scale, weight)
            done = match_segments(model, pairs, lessons, errors, settings, folder, resume=resume)
        results.append(done)
        folders.append(folder)
    return results, folders


def _measures(
    model: HamiltonianEGNO,
    pairs: Sequence[Pairs],
    lessons: Sequence[Lesson],
    tests: Sequence[Lesson],
) -> dict[str, float]:
    """Measure the trained network on every molecule, those it never learned from included."""
    names = [lesson.name for lesson in lessons]
    names += [f"{lesson.name} (never trained on)" for lesson in tests]
    parts = [
        lesson_measures(model, own, lesson)
        for own, lesson in zip(pairs, (*lessons, *tests), strict=True)
    ]
    return joined_measures(names, parts)


def stage_scales(config: TrainConfig) -> list[Scale]:
    """Return what errors are measured by in each stage.

    Args:
        config: may leave it open.
    """
    if config.chain_scales:
        return list(config.chain_scales)
    scales: list[Scale] = ["change"] * len(config.chain)
    if config.chain and config.chain[-1] in config.chain[:-1]:
        scales[-1] = "thermal"
    return scales


def _settings(config: TrainConfig, steps: int, rate: float, number: int) -> FitSettings:
    """The settings of one stage: the job's, but for its own length, rate and batches."""
    return replace(
        fit_settings(config),
        steps=steps,
        learning_rate=rate,
        warmup_steps=min(config.warmup_steps, steps // 2),
        validate_every=min(config.validate_every, steps),
        checkpoint_every=min(config.checkpoint_every, steps),
        seed=config.seed + number,
    )
