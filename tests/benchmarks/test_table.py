"""Tables: means, spreads, and what is written."""

import json

import pytest

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.table import Cell, Table, write_tables


def test_mean_and_sample_deviation():
    cell = Cell.of([1.0, 2.0, 3.0])
    assert (cell.mean, cell.spread, cell.n) == (2.0, 1.0, 3)
    assert cell.text() == "2.00 ± 1.00"


@pytest.mark.parametrize(
    ("mean", "text"), [(0.00512345, "0.00512"), (123.4, "123"), (0.0, "0.00"), (-2.5, "-2.50")]
)
def test_significant_digits(mean, text):
    assert Cell(mean).text() == text


def test_a_cell_needs_values():
    with pytest.raises(ValueError, match="at least one"):
        Cell.of([])


def test_rows_match_columns():
    table = Table("t", "caption", ("row", "value"))
    with pytest.raises(ValueError, match="2 columns, got 1"):
        table.add("alone")


def test_written_twice_over(tmp_path):
    table = Table("t", "caption", ("row", "value"))
    table.add("a", Cell.of([1.0, 3.0]))
    table.add("b", None)
    paths = write_tables([table], BenchmarkConfig(name="nbody", out=str(tmp_path)))
    assert [p.name for p in paths] == ["t.md", "t.json"]
    assert "| a | 2.00 ± 1.41 |\n| b | - |" in paths[0].read_text()
    assert json.loads(paths[1].read_text())["rows"][0][1]["mean"] == 2.0
