"""Tables of results: a caption with the protocol, columns with units, cells with a spread."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from egno_md.benchmark_config import BenchmarkConfig


@dataclass(frozen=True, slots=True)
class Cell:
    """A mean over repeats with its spread.

    Attributes:
        mean: the mean.
        spread: sample standard deviation, None for a single value.
        n: number of repeats.
    """

    mean: float
    spread: float | None = None
    n: int = 1

    @classmethod
    def of(cls, values: Sequence[float]) -> Cell:
        """Mean and sample standard deviation of repeats.

        Args:
            values: at least one number.

        Raises:
            ValueError: if there are none.
        """
        if not values:
            raise ValueError("a cell needs at least one value")
        mean = math.fsum(values) / len(values)
        if len(values) == 1:
            return cls(mean)
        square = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
        return cls(mean, math.sqrt(square), len(values))

    def text(self, digits: int = 3) -> str:
        """Return "mean ± spread" with the mean's digits significant.

        Args:
            digits: significant digits of the mean.
        """
        if not math.isfinite(self.mean):
            return str(self.mean)
        size = math.floor(math.log10(abs(self.mean))) if self.mean else 0
        places = max(0, digits - 1 - size)
        mean = f"{self.mean:.{places}f}"
        return mean if self.spread is None else f"{mean} ± {self.spread:.{places}f}"


@dataclass(slots=True)
class Table:
    """One table.

    Attributes:
        name: of the file, without spaces.
        caption: the protocol: data, split, budget, what the numbers are.
        columns: headings with units; the first is the row's name.
        rows: a name or number per column; text, numbers or cells.
        notes: sentences below the table.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: list[tuple[str | int | float | Cell | None, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *values: str | int | float | Cell | None) -> None:
        """Add a row.

        Args:
            *values: one per column; None where there is nothing to say.

        Raises:
            ValueError: if their number is not that of the columns.
        """
        if len(values) != len(self.columns):
            raise ValueError(
                f"table {self.name} has {len(self.columns)} columns, got {len(values)} values"
            )
        self.rows.append(values)

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [f"**{self.caption}**", ""]
        lines.append("| " + " | ".join(self.columns) + " |")
        lines.append("|" + "---|" * len(self.columns))
        lines += ["| " + " | ".join(map(_text, row)) + " |" for row in self.rows]
        lines += [f"\n{note}" for note in self.notes]
        return "\n".join(lines)

    def json(self) -> str:
        """Return the table as JSON, numbers in full."""
        return json.dumps(asdict(self), indent=1)


def _text(value: str | int | float | Cell | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, Cell):
        return value.text()
    return Cell(value).text() if isinstance(value, float) else str(value)


def write_tables(tables: Sequence[Table], config: BenchmarkConfig) -> list[Path]:
    """Write every table as Markdown and JSON to the benchmark's folder.

    Args:
        tables: what was measured.
        config: names the folder.

    Returns:
        The files.
    """
    folder = benchmark_folder(config)
    paths = []
    for table in tables:
        for suffix, text in ((".md", table.markdown() + "\n"), (".json", table.json() + "\n")):
            path = folder / (table.name + suffix)
            path.write_text(text, encoding="utf-8")
            paths.append(path)
    return paths


def benchmark_folder(config: BenchmarkConfig) -> Path:
    """Make and return OUT/NAME.

    Args:
        config: names it.
    """
    folder = Path(config.out) / config.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
