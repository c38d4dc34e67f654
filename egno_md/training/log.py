"""The log of a fit: one JSON object per line, readable at any moment, also after a kill."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append one line and hand it to the system at once.

    Args:
        path: the log.
        row: JSON-able values; numbers that are not finite become null.
    """
    clean = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
    with path.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(clean) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read a log; a last line that was cut by a kill is left out.

    Args:
        path: the log; a missing file is an empty log.

    Raises:
        ValueError: if a line before the last is not JSON.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}: line {number} is not JSON ({error})") from error
    return rows


def cut_log(path: Path, last_step: int) -> None:
    """Drop the lines after a step: a resumed fit writes them again.

    Args:
        path: the log.
        last_step: last step to keep.
    """
    if not path.exists():
        return
    rows = [row for row in read_log(path) if row.get("step", 0) <= last_step]
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    beside.replace(path)
