"""`egno-md benchmark potentials`: accuracy of eSCN potentials on published data.

One table per data set, with a line per row and test set. Every training has the same budget of
processor time, or of epochs; weights are chosen on validation frames and tested once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.potential_data import PotentialTask, data_sets, potential_task
from egno_md.benchmarks.potential_rows import (
    DEFAULT_ROWS,
    ROWS,
    PotentialResult,
    PotentialRow,
    train_potential,
)
from egno_md.benchmarks.table import Cell, Table, benchmark_folder

#: Processor minutes of a training for which neither minutes nor epochs are given.
DEFAULT_CPU_MINUTES: Final = 30.0

#: Headings with the measures they show.
MEASURES: Final = {
    "energy MAE (meV/atom)": "energy_mae_meV_per_atom",
    "energy RMSE (meV/atom)": "energy_rmse_meV_per_atom",
    "force MAE (meV/Å)": "force_mae_meV_per_A",
    "force RMSE (meV/Å)": "force_rmse_meV_per_A",
    "stress MAE (GPa)": "stress_mae_GPa",
    "stress RMSE (GPa)": "stress_rmse_GPa",
}

_COST: Final = ("weights", "epochs", "steps", "best step", "CPU min")


def measure(config: BenchmarkConfig) -> list[Table]:
    """Train every row on every data set with every seed.

    Args:
        config: names the data folder, sets (molecules), rows, seeds and budget.

    Raises:
        FileNotFoundError: if data is missing.
        ValueError: if an option or the data is wrong.
    """
    if config.data is None:
        raise ValueError(
            f"{config.name} needs --data FOLDER with folders md17, molecules, water, bulk and oc20 "
            "of npz files; see docs/benchmarks.md"
        )
    rows = config.rows or DEFAULT_ROWS
    if unknown := [name for name in rows if name not in ROWS]:
        raise ValueError(f"no rows {unknown} in {config.name}; there are {list(ROWS)}")
    folder = Path(config.data)
    names = data_sets(folder, config.molecules)
    return [
        set_table(config, potential_task(folder, name), {row: ROWS[row] for row in rows})
        for name in names
    ]


def set_table(config: BenchmarkConfig, task: PotentialTask, rows: dict[str, PotentialRow]) -> Table:
    """Train rows on one data set and make its table.

    Trainings go to OUT/potentials/SET/ROW-SEED, each with a bundle.

    Args:
        config: seeds, budget, folder, device.
        task: the data set.
        rows: rows by name.

    Raises:
        ValueError: if a folder holds another training.
    """
    stressed = any(frames.stress is not None for frames in task.tests.values())
    shown = {h: m for h, m in MEASURES.items() if stressed or not m.startswith("stress")}
    table = Table(
        f"{config.name}-{task.name}", _caption(config, task), ("row", "test", *shown, *_COST)
    )
    minutes = DEFAULT_CPU_MINUTES if config.cpu_minutes is None else config.cpu_minutes
    for name, row in rows.items():
        results = [
            train_potential(
                task,
                row,
                benchmark_folder(config) / task.name / f"{name}-{seed}",
                seed=seed,
                cpu_minutes=minutes,
                epochs=config.epochs,
                resume=config.resume,
                device=config.device,
                name=name,
            )
            for seed in config.seeds
        ]
        for test in task.tests:
            cells = [Cell.of([r.measures[test][m] for r in results]) for m in shown.values()]
            table.add(name, test, *cells, *_costs(results))
        table.notes += _cut_short(name, results)
    table.notes += [_sizes(task), *task.notes]
    return table


def _costs(results: list[PotentialResult]) -> tuple[int | Cell, ...]:
    return (
        results[0].n_parameters,
        Cell.of([r.epochs for r in results]),
        Cell.of([r.steps for r in results]),
        Cell.of([r.best_step for r in results]),
        Cell.of([r.cpu_seconds / 60.0 for r in results]),
    )


def _cut_short(name: str, results: list[PotentialResult]) -> list[str]:
    """Say where a budget ended before the schedule."""
    short = [r for r in results if r.steps < r.planned_steps]
    if not short:
        return []
    shares = ", ".join(f"{r.steps} of {r.planned_steps}" for r in short)
    return [f"{name}: the budget ended before the schedule ({shares} steps)."]


def _sizes(task: PotentialTask) -> str:
    """How large the forces of the test sets are."""
    sizes = ", ".join(
        f"{name} {1e3 * float(frames.forces.abs().mean()):.0f}"
        for name, frames in task.tests.items()
    )
    return f"Mean absolute force component: {sizes} meV/Å."


def _caption(config: BenchmarkConfig, task: PotentialTask) -> str:
    if config.epochs is not None:
        budget = f"{config.epochs} epochs"
    else:
        minutes = DEFAULT_CPU_MINUTES if config.cpu_minutes is None else config.cpu_minutes
        budget = f"about {minutes:g} processor minutes each, where the schedule ends"
    seeds = ", ".join(map(str, config.seeds))
    return (
        f"{task.name}. {task.split} eSCN-MD, float32, {torch.get_num_threads()} thread(s), "
        f"{budget}, planning and compiling included; seeds {seeds}. Errors of test frames with the "
        "weights that validate best; mean ± standard deviation over seeds."
    )
