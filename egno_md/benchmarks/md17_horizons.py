"""MD17-sGDML in the MD regime: all atoms, horizons of 8 to 64 fs.

| row | what it is |
|---|---|
| static | the start itself; its error is the displacement, 1 by definition |
| free flight | `x + t v` |
| EGNO of each horizon | as published, 8 times up to the horizon, a network for each horizon |
| Hamiltonian EGNO | one network: forces first, then its 4 fs steps; chained to every horizon |

All rows learn from the same windows; EGNO's four networks together cost about as much as the
one Hamiltonian EGNO.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.md17_hamiltonian import HamiltonianPlan, train_hamiltonian
from egno_md.benchmarks.md17_tasks import horizon_task
from egno_md.benchmarks.paper_training import (
    PathResult,
    PublishedEGNO,
    Recipe,
    path_errors,
    train_row,
)
from egno_md.benchmarks.paths import PathBatch, PathTask
from egno_md.benchmarks.table import Cell, Table, benchmark_folder
from egno_md.data.cache import potential_fingerprint, remember
from egno_md.data.md17_sgdml import training_geometry
from egno_md.data.reference_md import Sampling, sample_windows
from egno_md.data.sgdml import SGDMLPotential
from egno_md.data.windows import Windows
from egno_md.roles import Potential
from egno_md.state import State

#: Horizons, fs, and the times of EGNO up to each.
HORIZONS_FS: Final = (8.0, 16.0, 32.0, 64.0)
N_POINTS: Final = 8

#: Step of the Hamiltonian EGNO.
STEP_FS: Final = 4.0

#: Names of the trained rows.
HORIZON_ROWS: Final = ("EGNO of each horizon", "Hamiltonian EGNO")


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """How the windows are drawn.

    Attributes:
        training: number of windows.
        validation: number of windows, from dynamics of their own.
        test: number of windows, from dynamics of their own.
        temperature_K: of the Langevin dynamics they start from.
        sampling: how they are drawn; each split has a seed of its own.
    """

    training: int = 1000
    validation: int = 256
    test: int = 512
    temperature_K: float = 500.0
    sampling: Sampling = field(
        default_factory=lambda: Sampling(equilibration_fs=1000.0, interval_fs=20.0)
    )


def horizon_table(
    config: BenchmarkConfig, molecule: str, file: Path, plan: WindowPlan | None = None
) -> Table:
    """Measure a molecule at every horizon.

    Args:
        config: rows, seeds, epochs, budget, folder.
        molecule: its name.
        file: its sGDML model.
        plan: how the windows are drawn.

    Raises:
        ValueError: if the file is not usable or a folder holds another training.
    """
    plan = plan or WindowPlan()
    name = f"md17-sgdml-{molecule}-horizons"
    folder = benchmark_folder(config)
    potential, start = SGDMLPotential.from_npz(file), training_geometry(file)
    splits = horizon_windows(potential, start, plan, folder / "data")
    tasks = {h: horizon_task(name, splits, h, N_POINTS).to(config.device) for h in HORIZONS_FS}
    table = Table(
        name,
        "",
        ("row", "weights", *(f"{h:g} fs" for h in HORIZONS_FS), "epochs", "CPU min"),
    )
    if not config.rows or "linear" in config.rows:
        table.add("static", 0, *(_error(task, _static) for task in tasks.values()), None, None)
        table.add("free flight", 0, *(_error(t, _flight) for t in tasks.values()), None, None)
    wanted = [row for row in HORIZON_ROWS if not config.rows or row in config.rows]
    n_pairs = start.molecule.n_atoms * (start.molecule.n_atoms - 1) // 2
    hamiltonian = HamiltonianPlan.for_pairs(n_pairs, plan.training, config.epochs)
    if HORIZON_ROWS[0] in wanted:
        _add_published(table, config, tasks, folder / name)
    if HORIZON_ROWS[1] in wanted:
        runs = [
            train_hamiltonian(
                potential,
                splits,
                hamiltonian,
                folder / name / f"Hamiltonian_EGNO-{seed}",
                seed=seed,
                cpu_minutes=config.cpu_minutes,
                resume=config.resume,
                device=config.device,
            )
            for seed in config.seeds
        ]
        steps = [round(h / STEP_FS) for h in HORIZONS_FS]
        cells = (Cell.of([run.errors[k - 1] for run in runs]) for k in steps)
        cost = Cell.of([run.cpu_seconds / 60.0 for run in runs])
        table.add(HORIZON_ROWS[1], runs[0].n_parameters, *cells, None, cost)
    table.caption = _caption(molecule, plan, hamiltonian)
    return table


def horizon_windows(
    potential: Potential, start: State, plan: WindowPlan, cache: Path | None
) -> tuple[Windows, Windows, Windows]:
    """Make training, validation and test windows with the frames that the rows need.

    Args:
        potential: moves the molecule.
        start: its geometry.
        plan: how many, how hot.
        cache: folder to keep them in, or None.
    """
    times = sorted({h * p / N_POINTS for h in HORIZONS_FS for p in range(1, N_POINTS + 1)})
    times = sorted({*times, *(STEP_FS * k for k in range(1, round(max(HORIZONS_FS) / STEP_FS)))})
    frames = torch.tensor([round(t) - 1 for t in times])
    made = []
    for part, n in enumerate((plan.training, plan.validation, plan.test)):
        how = replace(plan.sampling, seed=plan.sampling.seed * 3 + part)

        def make(n: int = n, how: Sampling = how) -> dict[str, Tensor]:
            all_frames = sample_windows(
                potential,
                start,
                n,
                max(HORIZONS_FS),
                1.0,
                (plan.temperature_K,),
                timestep_fs=0.5,  # the interval of the published frames
                sampling=how,
            )
            return _with_frames(all_frames, frames).tensors()

        config = {
            "potential": potential_fingerprint(potential, start),
            "numbers": start.molecule.numbers.tolist(),
            "start": [round(x, 6) for x in start.positions.flatten().tolist()],
            "n": n,
            "temperature_K": plan.temperature_K,
            "sampling": str(how),
            "times_fs": times,
        }
        tensors = remember(cache, "horizons", config, make)
        made.append(Windows.from_tensors(tensors, f"{type(potential).__name__} windows"))
    return made[0], made[1], made[2]


def _with_frames(windows: Windows, frames: Tensor) -> Windows:
    return replace(
        windows,
        times_fs=windows.times_fs[frames],
        positions=windows.positions[:, frames],
        velocities=windows.velocities[:, frames],
        energies=None if windows.energies is None else windows.energies[:, frames],
    )


def _static(batch: PathBatch) -> Tensor:
    return batch.positions[:, None].expand_as(batch.targets)


def _flight(batch: PathBatch) -> Tensor:
    return batch.positions[:, None] + batch.times[:, None, None] * batch.velocities[:, None]


def _error(task: PathTask, predict: Callable[[PathBatch], Tensor]) -> float:
    """Root mean square error at the horizon over the root mean square displacement."""
    static = float(path_errors(_static, task.test)[-1])
    return math.sqrt(float(path_errors(predict, task.test)[-1]) / static)


def published_recipe_of(n_edges: int) -> Recipe:
    """How each EGNO is trained: its cost depends little on the molecule.

    Args:
        n_edges: directed edges of the molecule's graph.
    """
    epochs = max(3, 240 // (n_edges + 6))
    return Recipe(epochs, batch_size=25, warmup_epochs=0.2, validate_every_epochs=1)


def _add_published(
    table: Table, config: BenchmarkConfig, tasks: Mapping[float, PathTask], folder: Path
) -> None:
    """Train EGNO on every horizon with every seed, and add its row."""
    recipe = published_recipe_of(next(iter(tasks.values())).training.edge_features[0].shape[0])
    recipe = replace(recipe, epochs=config.epochs or recipe.epochs)
    runs: dict[float, list[PathResult]] = {
        horizon: [
            train_row(
                lambda task: PublishedEGNO(task, 64, 5),
                task,
                recipe,
                folder / f"EGNO-{horizon:g}fs-{seed}",
                seed=seed,
                cpu_minutes=config.cpu_minutes,
                resume=config.resume,
            )
            for seed in config.seeds
        ]
        for horizon, task in tasks.items()
    }
    cells = []
    for horizon, results in runs.items():
        static = float(path_errors(_static, tasks[horizon].test)[-1])
        cells.append(Cell.of([math.sqrt(result.f_mse / static) for result in results]))
    columns = list(zip(*runs.values(), strict=True))
    cost = Cell.of([sum(result.cpu_seconds for result in column) / 60.0 for column in columns])
    weights = sum(results[0].n_parameters for results in runs.values())
    epochs = Cell.of([result.epochs for results in runs.values() for result in results])
    table.add(HORIZON_ROWS[0], weights, *cells, Cell(epochs.mean), cost)


def _caption(molecule: str, plan: WindowPlan, hamiltonian: HamiltonianPlan) -> str:
    stages = ", ".join(
        f"{stage.steps} steps on " + (f"{stage.chain} x 4 fs" if stage.chain else "forces")
        for stage in hamiltonian.stages
    )
    return (
        f"MD17-sGDML, {molecule}, MD regime: error of all atoms' positions at the horizon over "
        "their displacement (root mean squares). Trajectories of the sGDML force field trained "
        f"on MD17, at constant energy in steps of 0.5 fs from Langevin dynamics at "
        f"{plan.temperature_K:g} K; {plan.training}/{plan.validation}/{plan.test} windows of 64 fs "
        "for training/validation/test from dynamics of their own. EGNO: published size (64 "
        f"channels, 5 layers), {N_POINTS} times up to the horizon, a network for each horizon. "
        f"Hamiltonian EGNO: one network, {stages}, batches of {hamiltonian.batch_size}, then "
        "chained in steps of 4 fs. Test error at the best validation; mean ± standard deviation "
        "over seeds."
    )
