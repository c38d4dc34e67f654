"""Tables of long runs: what stands in them where steps differ."""

import pytest

from egno_md.benchmarks.rollout_reference import RolloutPlan
from egno_md.benchmarks.rollout_tables import RolloutResult, tables_of
from egno_md.benchmarks.table import Cell
from egno_md.state import Molecule

PLAN = RolloutPlan(300.0, 10.0, 16, 1.0, 1.0, 16, 1.0, 1.0, 100, 1)


def measures(step_fs: float, n: int) -> dict[str, float]:
    """Every measure is its time, with a hundredth more for each name."""
    names = ("x_error", "v_error", "kinetic_mean", "kinetic_mean_error", "energy_meV")
    return {
        f"{name}_{k * step_fs:g}fs": k * step_fs + 0.01 * shift
        for k in range(1, n + 1)
        for shift, name in enumerate(names)
    }


@pytest.mark.parametrize(
    ("step_fs", "n", "times"),
    [(4.0, 8, [4, 8, 16, 32]), (3.0, 11, [6, 9, 18, 33]), (2.5, 13, [5, 10, 17.5, 32.5])],
)
def test_each_time_is_the_first_frame_from_there_on(step_fs, n, times) -> None:
    one = RolloutResult("a", "b", Molecule.from_numbers([1, 1]))
    one.segments[300.0] = measures(step_fs, n)
    (table,) = tables_of([one], PLAN)
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert [row[f"x at {t} fs, %"] for t in (4, 8, 16, 32)] == pytest.approx(
        [100.0 * t for t in times]
    )
    kinetic = row["kinetic energy at 8 fs, kJ/mol"]
    assert kinetic == Cell(pytest.approx(times[1] + 0.02), pytest.approx(times[1] + 0.03))


def test_a_time_beyond_the_horizon_is_left_open() -> None:
    one = RolloutResult("a", "b", Molecule.from_numbers([1, 1]))
    one.segments[300.0] = measures(3.0, 6)
    (table,) = tables_of([one], PLAN)
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["x at 32 fs, %"] is None
