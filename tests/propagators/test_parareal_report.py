"""The cost model of parareal against numbers worked out by hand."""

import pytest

from egno_md.propagators.parareal_report import parallel_time


def test_the_cost_model() -> None:
    # 16 slabs, 4 rounds, any number of workers: 16 g + 4 f + (15 + 14 + 13 + 12) g.
    assert parallel_time(16, 4, 16, 1.0, 0.0) == 4.0
    assert parallel_time(16, 4, 256, 1.0, 0.01) == pytest.approx(4 + 0.16 + 0.54)
    assert parallel_time(16, 4, 2, 1.0, 0.0) == 8 + 8 + 7 + 7
    assert parallel_time(16, 4, 1, 1.0, 0.0, 0.5) == 1.5 * (16 + 15 + 14 + 13)
    with pytest.raises(ValueError, match="0 workers"):
        parallel_time(16, 4, 0, 1.0, 0.0)
