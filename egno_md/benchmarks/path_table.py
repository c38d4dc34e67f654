"""Rows of the paper's tables, trained with every seed and put into one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import nn

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.paper_training import PathResult, Recipe, linear_baselines, train_row
from egno_md.benchmarks.paths import PathTask
from egno_md.benchmarks.table import Cell, Table, benchmark_folder


@dataclass(frozen=True, slots=True)
class Row:
    """A trained row.

    Attributes:
        make: makes the model for a task: a module from a `PathBatch` to `(B, P, N, 3)`.
        recipe: how it is trained.
    """

    make: Callable[[PathTask], nn.Module]
    recipe: Recipe


def chosen_rows(config: BenchmarkConfig, rows: Mapping[str, Row]) -> dict[str, Row]:
    """Keep the rows asked for; "linear" stands for the straight lines.

    Args:
        config: gives the names; none are all.
        rows: the rows there are.

    Raises:
        ValueError: if a name is not known.
    """
    known = ("linear", *rows)
    unknown = [name for name in config.rows if name not in known]
    if unknown:
        raise ValueError(f"no rows {unknown} in {config.name}; there are {list(known)}")
    return {name: row for name, row in rows.items() if not config.rows or name in config.rows}


def measure_rows(
    config: BenchmarkConfig,
    task: PathTask,
    rows: Mapping[str, Row],
    *,
    caption: str,
    unit: str,
    scale: float = 1.0,
    name: str | None = None,
) -> Table:
    """Train rows with every seed of the config and make the table.

    Trainings go to OUT/NAME/ROW-SEED, or OUT/NAME/TABLE/ROW-SEED if a table's name is given.

    Args:
        config: rows, seeds, epochs, budget, folder, device.
        task: the task.
        rows: rows by name.
        caption: the protocol.
        unit: of the errors, for the headings, such as "10^-2 Å^2".
        scale: what the errors are multiplied with to have that unit.
        name: of the table, if the benchmark has several; None for that of the benchmark.

    Raises:
        ValueError: if a row is not known or a folder holds another training.
    """
    folder = benchmark_folder(config) if name is None else benchmark_folder(config) / name
    task = task.to(config.device)
    table = Table(
        name or config.name,
        caption,
        ("row", "weights", f"F-MSE ({unit})", f"A-MSE ({unit})", "epochs", "best epoch", "CPU min"),
    )
    wanted = chosen_rows(config, rows)
    if not config.rows or "linear" in config.rows:
        for label, result in linear_baselines(task).items():
            table.add(label, 0, result.f_mse * scale, result.a_mse * scale, None, None, None)
    for label, row in wanted.items():
        recipe = row.recipe
        if config.epochs is not None:
            recipe = replace(recipe, epochs=config.epochs)
        results = [
            train_row(
                row.make,
                task,
                recipe,
                folder / f"{label.replace(' ', '_')}-{seed}",
                seed=seed,
                cpu_minutes=config.cpu_minutes,
                resume=config.resume,
            )
            for seed in config.seeds
        ]
        table.add(*_cells(label, results, scale))
    return table


def _cells(label: str, results: list[PathResult], scale: float) -> tuple[str | int | Cell, ...]:
    return (
        label,
        results[0].n_parameters,
        Cell.of([r.f_mse * scale for r in results]),
        Cell.of([r.a_mse * scale for r in results]),
        Cell.of([r.epochs for r in results]),
        Cell.of([r.best_epoch for r in results]),
        Cell.of([r.cpu_seconds / 60.0 for r in results]),
    )
