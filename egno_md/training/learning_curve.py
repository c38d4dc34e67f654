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
            minutes = round((spent + float(row["cpu_seconds"])) / 60.0, 2)
            if told := _told(row):
                points.append({"cpu_minutes": minutes, **told})
        if rows:
            spent += float(rows[-1]["cpu_seconds"])
    return points


def _thinned(rows: Sequence[Mapping[str, Any]], n_points: int) -> list[Mapping[str, Any]]:
    """Take rows at even distances, the last one always."""
    if len(rows) <= n_points:
        return list(rows)
    return [rows[math.ceil(len(rows) * (k + 1) / n_points) - 1] for k in range(n_points)]


def _told(row: Mapping[str, Any]) -> dict[str, float]:
    """The measure that tells most; its mean where a row has it of several molecules."""
    for start in _TELLING:
        found: dict[str, list[float]] = {}
        for name, value in row.items():
            # "toluene/force_mae" is of one molecule among several.
            measure = name.rsplit("/", 1)[-1]
            if measure.startswith(start) and value is not None:
                found.setdefault(measure, []).append(float(value))
        for measure, values in found.items():
            return {measure: float(f"{sum(values) / len(values):.4g}")}
    return {}
