"""`egno-md benchmark claims`: what the paper claims of EGNO, tested on the N-body task.

Symmetries; discretisation invariance (trained with 5 points in time, asked at 10); data
efficiency; number of Fourier modes. Each for the published network and, where it applies, ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import nn

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.changed_times import dense_paths, published_at
from egno_md.benchmarks.nbody import HIDDEN, LAYERS, nbody_paths
from egno_md.benchmarks.nbody import OURS as PUBLISHED_NETWORK
from egno_md.benchmarks.nbody_variants import RECIPE, AdaptivePaths
from egno_md.benchmarks.paper_training import (
    PathResult,
    PublishedEGNO,
    Recipe,
    path_errors,
    seeded,
    train_row,
)
from egno_md.benchmarks.paths import PathTask
from egno_md.benchmarks.symmetry_errors import symmetry_errors
from egno_md.benchmarks.table import Cell, Table, benchmark_folder
from egno_md.data.nbody import NBodySplits, find_nbody_file, read_nbody, simulate_nbody
from egno_md.training.loop import load_best

#: Passes of the published network over all training data: a reduced budget.
EPOCHS: Final = 25
#: Samples of the rows with fewer data; they take as many steps as the others.
FEWER: Final = 1000
PUBLISHED, OURS = "EGNO", "Hamiltonian EGNO, adaptive steps"


@dataclass(frozen=True, slots=True)
class _Trained:
    """A network trained with every seed, and what it achieved."""

    models: list[nn.Module]
    results: list[PathResult]

    def f_mse(self) -> Cell:
        return Cell.of([r.f_mse for r in self.results])

    def a_mse(self) -> Cell:
        return Cell.of([r.a_mse for r in self.results])

    def cpu_minutes(self) -> Cell:
        return Cell.of([r.cpu_seconds / 60.0 for r in self.results])


@dataclass(frozen=True, slots=True)
class _Claims:
    """The data, and trainings by name."""

    config: BenchmarkConfig
    splits: NBodySplits
    task: PathTask
    folder: Path

    def train(
        self, name: str, make: Callable[[PathTask], nn.Module], recipe: Recipe, count: int
    ) -> _Trained:
        """Train with every seed on the first `count` samples, for the same number of steps."""
        config, full = self.config, len(self.task.training)
        count = min(count, full)
        epochs = round((config.epochs or recipe.epochs) * full / count)
        recipe = replace(recipe, epochs=epochs)
        task = replace(self.task, training=self.task.training.first(count))
        models, results = [], []
        for seed in config.seeds:
            folder = self.folder / f"{name.replace(' ', '_').replace(',', '')}-{count}-{seed}"
            results.append(
                train_row(
                    make,
                    task,
                    recipe,
                    folder,
                    seed=seed,
                    cpu_minutes=config.cpu_minutes,
                    resume=config.resume,
                )
            )
            model = seeded(make, task, seed)
            model.load_state_dict(load_best(folder))
            models.append(model.eval())
        return _Trained(models, results)

    def published(self, modes: int = 2, count: int = 10**9) -> _Trained:
        """The published network."""
        return self.train(
            f"{PUBLISHED} {modes} modes",
            lambda task: PublishedEGNO(task, HIDDEN, LAYERS, num_modes=modes),
            replace(PUBLISHED_NETWORK, epochs=EPOCHS),
            count,
        )

    def ours(self, count: int = 10**9) -> _Trained:
        """Our network."""
        return self.train(OURS, AdaptivePaths, RECIPE, count)


def measure(config: BenchmarkConfig) -> list[Table]:
    """Train what the claims need and test them.

    Args:
        config: data, seeds, epochs, rows (symmetry, times, data, modes; none are all).

    Raises:
        FileNotFoundError: if the data is not there.
        ValueError: if data or options are wrong.
    """
    known = {"symmetry": _symmetry, "times": _times, "data": _data, "modes": _modes}
    unknown = [row for row in config.rows if row not in known]
    if unknown:
        raise ValueError(f"no rows {unknown} in claims; there are {list(known)}")
    if config.data is None:
        splits = simulate_nbody(43, benchmark_folder(config))
    else:
        splits = read_nbody(find_nbody_file(config.data))
    names = ("training", "validation", "test")
    task = PathTask("nbody", *(nbody_paths(splits[name]) for name in names))
    claims = _Claims(_sharing(config), splits, task, benchmark_folder(config))
    return [make(claims) for name, make in known.items() if not config.rows or name in config.rows]


def _sharing(config: BenchmarkConfig) -> BenchmarkConfig:
    """The job with `resume` on where its folder may hold this run's own trainings.

    Tables share trainings, so a second table takes the first one's as they are. A folder with
    trainings of an earlier run is refused first, unless the job resumes.

    Args:
        config: the job.

    Raises:
        ValueError: if the folder holds trainings and the job does not resume.
    """
    held = [path.parent.name for path in benchmark_folder(config).glob("*/checkpoint.*")]
    if held and not config.resume:
        raise ValueError(
            f"{benchmark_folder(config)} already holds trainings ({', '.join(sorted(held))}); "
            "resume them or take another folder"
        )
    return config.model_copy(update={"resume": True})


def _caption(claims: _Claims, text: str) -> str:
    source = "simulated here" if claims.config.data is None else "the published set"
    epochs = claims.config.epochs
    passes = (
        f"{PUBLISHED} {epochs or EPOCHS}, ours {epochs or RECIPE.epochs} passes over "
        f"{len(claims.task.training)} trajectories"
    )
    seeds = ", ".join(map(str, claims.config.seeds))
    return f"{text} N-body task, {source}; a reduced budget: {passes}. Seeds {seeds}."


def _symmetry(claims: _Claims) -> Table:
    caption = _caption(
        claims,
        "Symmetries of trained networks on 100 test samples: largest difference over the largest "
        "displacement; centre of mass: its largest distance from free flight; the worst of the "
        "seeds.",
    )
    columns = ("row", "dtype", "rotation", "reflection", "shift", "permutation", "centre of mass")
    table = Table("claims-symmetry", caption, columns)
    for name, trained in ((PUBLISHED, claims.published()), (OURS, claims.ours())):
        for dtype in (torch.float32, torch.float64):
            found = [symmetry_errors(m, claims.task.test, dtype) for m in trained.models]
            cells = [f"{max(f[key] for f in found):.1e}" for key in found[0]]
            table.add(name, str(dtype).removeprefix("torch."), *cells)
    return table


def _times(claims: _Claims) -> Table:
    caption = _caption(
        claims,
        "Discretisation invariance: trained with 5 times (0.2, 0.4, ..., 1.0), asked at 10 (0.1, "
        "0.2, ..., 1.0). Test MSE at common times over that of the trained grid (target: within "
        "5 %), test MSE at new times, and RMS distance from the start at t = 0 (worst seed).",
    )
    table = Table(
        "claims-times",
        caption,
        (
            "row",
            *(f"ratio at {t / 10:.1f}" for t in (2, 4, 6, 8, 10)),
            *(f"MSE at {t / 10:.1f}" for t in (1, 3, 5, 7, 9)),
            "RMS at t = 0",
        ),
    )
    dense = dense_paths(claims.splits["test"])
    from_start = dense_paths(claims.splits["test"], with_start=True)
    step = float(claims.task.training.times[0])
    rows: list[tuple[str, _Trained, bool | None]] = [
        (f"{PUBLISHED}, times by index as published", claims.published(), False),
        (f"{PUBLISHED}, index made a real number", claims.published(), True),
        (OURS, claims.ours(), None),
    ]
    for name, trained, real in rows:
        ratios, new, starts = [], [], []
        for model, result in zip(trained.models, trained.results, strict=True):
            asked = path_errors(published_at(model, dense.times, step, real), dense)
            begun = path_errors(published_at(model, from_start.times, step, real), from_start)
            ratios.append([float(asked[2 * k + 1]) / result.mse[k] for k in range(5)])
            new.append(asked[::2].tolist())
            # The published index knows no time zero: its first point is the first time asked.
            starts.append(None if real is False else math.sqrt(float(begun[0])))
        zero = None if real is False else f"{max(s for s in starts if s is not None):.1e}"
        table.add(name, *_columns(ratios), *_columns(new), zero)
    return table


def _columns(rows: list[list[float]]) -> list[Cell]:
    return [Cell.of(list(column)) for column in zip(*rows, strict=True)]


def _data(claims: _Claims) -> Table:
    full = len(claims.task.training)
    fewer = min(FEWER, full)
    caption = _caption(claims, f"Data efficiency: the first {fewer} of {full}, as many steps.")
    table = Table("claims-data", caption, ("row", "trajectories", "F-MSE", "A-MSE", "CPU min"))
    for count in (fewer, full):
        for name, trained in (
            (PUBLISHED, claims.published(count=count)),
            (OURS, claims.ours(count)),
        ):
            table.add(name, count, trained.f_mse(), trained.a_mse(), trained.cpu_minutes())
    return table


def _modes(claims: _Claims) -> Table:
    caption = _caption(claims, "Fourier modes of the published network (P = 5 allows 1 to 3).")
    table = Table("claims-modes", caption, ("modes", "weights", "F-MSE", "A-MSE", "CPU min"))
    for modes in (1, 2, 3):
        found = claims.published(modes)
        weights = found.results[0].n_parameters
        table.add(modes, weights, found.f_mse(), found.a_mse(), found.cpu_minutes())
    return table
