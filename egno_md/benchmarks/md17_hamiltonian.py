"""Hamiltonian EGNO as a row of the MD17-sGDML table: forces first, then segments, then chains."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egno_md.benchmarks.paper_training import RESULT
from egno_md.bonds import bond_graph_distance
from egno_md.data.cache import potential_fingerprint, remember
from egno_md.data.windows import Windows
from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.models.pair_classes import distance_statistics
from egno_md.roles import Potential
from egno_md.state import State
from egno_md.training.lesson import ForceFrames, Lesson
from egno_md.training.lesson_fits import SegmentErrors, match_forces, match_segments
from egno_md.training.lesson_pairs import pairs_of
from egno_md.training.segment_loss import Paths, predicted
from egno_md.training.settings import FitSettings

#: Bond distances told apart.
_BOND_CAP = 4


@dataclass(frozen=True, slots=True)
class Stage:
    """One fit.

    Attributes:
        chain: applications of the map; 0 matches forces.
        steps: optimiser steps.
        learning_rate: the largest.
    """

    chain: int
    steps: int
    learning_rate: float


@dataclass(frozen=True, slots=True)
class HamiltonianPlan:
    """How the network is trained.

    Attributes:
        stages: one after another, each from the best weights of the one before.
        batch_size: frames or paths per step.
    """

    stages: tuple[Stage, ...]
    batch_size: int = 32

    @classmethod
    def for_pairs(cls, n_pairs: int, n_windows: int, epochs: int | None = None) -> HamiltonianPlan:
        """The stages, whose cost depends little on the molecule.

        Args:
            n_pairs: pairs of atoms, which set the cost of a step.
            n_windows: training windows.
            epochs: passes over them in every stage, in place of that.
        """
        whole = ((0, 1600, 3e-3), (1, 440, 1e-3), (2, 180, 5e-4))
        size = 1.0 if n_pairs <= 36 else (36 + 36) / (36 + n_pairs)
        steps = None if epochs is None else max(1, epochs * n_windows // 32)
        return cls(tuple(Stage(c, steps or round(n * size), rate) for c, n, rate in whole))


@dataclass(frozen=True, slots=True)
class HamiltonianRun:
    """What came of it.

    Attributes:
        errors: position error over displacement on the test windows after every step.
        cpu_seconds: processor time of the stages.
        n_parameters: weights.
    """

    errors: tuple[float, ...]
    cpu_seconds: float
    n_parameters: int


def train_hamiltonian(
    potential: Potential,
    splits: Sequence[Windows],
    plan: HamiltonianPlan,
    folder: Path,
    *,
    seed: int,
    cpu_minutes: float | None = None,
    resume: bool = False,
    device: str = "cpu",
) -> HamiltonianRun:
    """Train a Hamiltonian EGNO through its stages and test it.

    Args:
        potential: labels the training frames with forces.
        splits: training, validation and test windows.
        plan: the stages.
        folder: takes a folder for each stage.
        seed: of first weights and batches.
        cpu_minutes: stop each stage after this much processor time.
        resume: go on in the folder.
        device: where the network computes.

    Raises:
        ValueError: if a folder holds another training.
    """
    training, validation, test = splits
    about = {
        "plan": asdict(plan),
        "seed": seed,
        "windows": [windows.sha256()[:16] for windows in splits],
    }
    if resume and (folder / RESULT).exists():
        return _read_run(folder / RESULT, about)
    model = make_hamiltonian(training, seed).to(device)
    pairs = [pairs_of(training.molecule, model)]
    cache = folder.parent / "forces"
    labels = [frame_forces(potential, part, cache) for part in (training, validation)]
    lessons = [Lesson("all", training, validation, test, (labels[0], labels[1]), potential)]
    cpu_seconds = 0.0
    for number, stage in enumerate(plan.stages):
        settings = _settings(stage, plan.batch_size, seed, cpu_minutes)
        into = folder / f"stage-{number}"
        if stage.chain == 0:
            done = match_forces(model, pairs, lessons, settings, into, resume=resume)
        else:
            what = SegmentErrors(stage.chain)
            done = match_segments(model, pairs, lessons, what, settings, into, resume=resume)
        cpu_seconds += done.cpu_seconds
    errors = chained_errors(model, test)
    run = HamiltonianRun(errors, cpu_seconds, sum(p.numel() for p in model.parameters()))
    text = json.dumps({"run": asdict(run), "about": about}, indent=1)
    (folder / RESULT).write_text(text + "\n", encoding="utf-8")
    return run


def _settings(stage: Stage, batch_size: int, seed: int, cpu_minutes: float | None) -> FitSettings:
    return FitSettings(
        steps=stage.steps,
        batch_size=batch_size,
        learning_rate=stage.learning_rate,
        warmup_steps=min(100, stage.steps // 4),
        ema_decay=0.995,
        gradient_clip=1.0,
        validate_every=max(1, stage.steps // 8),
        checkpoint_every=max(1, stage.steps // 8),
        cpu_minutes=cpu_minutes,
        seed=seed,
    )


def _read_run(path: Path, about: Mapping[str, Any]) -> HamiltonianRun:
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["about"] != json.loads(json.dumps(about)):
        raise ValueError(
            f"{path} is the result of another training ({found['about']}), asked for "
            f"{dict(about)}; take another output folder"
        )
    run = found["run"]
    return HamiltonianRun(tuple(run["errors"]), run["cpu_seconds"], run["n_parameters"])


def make_hamiltonian(windows: Windows, seed: int) -> HamiltonianEGNO:
    """Make an untrained network of the default size for a molecule.

    Args:
        windows: give the molecule and its distances.
        seed: of the weights.
    """
    molecule = windows.molecule
    apart = bond_graph_distance(molecule.n_atoms, molecule.bonds, _BOND_CAP)
    classes, mean, spread = distance_statistics(windows.positions0, molecule.numbers, apart)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        elements = sorted(set(molecule.numbers.tolist()))
        model = HamiltonianEGNO(elements, classes, bond_cap=_BOND_CAP)
    model.distance_mean.copy_(mean)
    model.distance_spread.copy_(spread)
    return model


def frame_forces(potential: Potential, windows: Windows, cache: Path) -> ForceFrames:
    """Label frames of the windows, the start and every 16 fs.

    Args:
        potential: labels them.
        windows: the windows.
        cache: folder to keep the labels in.
    """
    spaced = (windows.times_fs % 16.0).abs() < 1e-6
    x = torch.cat([windows.positions0[:, None], windows.positions[:, spaced]], 1).flatten(0, 1)

    def make() -> dict[str, Tensor]:
        parts = torch.split(x, 256)
        answers = [potential.evaluate(State.at_rest(windows.molecule, part)) for part in parts]
        return {"forces": torch.cat([answer.forces for answer in answers])}

    about = {
        "windows": windows.sha256(),
        "potential": potential_fingerprint(potential, windows.starts().replica(0)),
    }
    return ForceFrames(x, remember(cache, "forces", about, make)["forces"])


def chained_errors(model: HamiltonianEGNO, windows: Windows) -> tuple[float, ...]:
    """Position error over displacement after every step of a chain, root mean squares.

    Args:
        model: the network.
        windows: held-out windows.
    """
    like = model.distance_mean
    paths = Paths.of(windows, model.step_fs).cast(like.dtype, str(like.device))
    x, _ = predicted(model, paths, pairs_of(windows.molecule, model))
    true, start = paths.positions[:, 1:], paths.positions[:, :1]
    error = (x - true).square().mean((0, 2, 3)) / (true - start).square().mean((0, 2, 3))
    return tuple(error.sqrt().tolist())
