"""Error against training cost, read back from the logs of a training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from egno_md.training.log import read_log
from egno_md.training.loop import LOG

#: Measures that tell how good a network is, the first that was taken counts.
_TELLING = ("position_error_over_displacement", "force_mae", "force_rms", "score")


def learning_curve(folders: Sequence[Path], n_points: int = 5) -> list[dict[str, float]]:
    """Return validation errors beside the processor time spent so far.

    Args:
        folders: of the fits, in their order, each with its log.
        n_points: how many of each fit, the last one among them.

    Returns:
        Points `{"cpu_minutes": of all fits so far, NAME: error on validation data}`.

    Raises:
        ValueError: if a log cannot be read.
    """
    points: list[dict[str, float]] = []
    spent = 0.0
    for folder in folders:
        rows = [row for row in read_log(folder / LOG) if row.get("kind") == "validation"]
        for row in _thinned(rows, n_points):
            name = _telling(row)
            if name is not None:
                minutes = round((spent + float(row["cpu_seconds"])) / 60.0, 2)
                points.append({"cpu_minutes": minutes, name: float(f"{row[name]:.4g}")})
        if rows:
            spent += float(rows[-1]["cpu_seconds"])
    return points


def _thinned(rows: Sequence[Mapping[str, Any]], n_points: int) -> list[Mapping[str, Any]]:
    """Take rows at even distances, the last one always."""
    if len(rows) <= n_points:
        return list(rows)
    return [rows[math.ceil(len(rows) * (k + 1) / n_points) - 1] for k in range(n_points)]


def _telling(row: Mapping[str, Any]) -> str | None:
    """Name of the measure that tells most."""
    for start in _TELLING:
        for name, value in row.items():
            if name.startswith(start) and value is not None:
                return name
    return None
