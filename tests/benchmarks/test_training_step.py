"""The cost of a training step, at toy size."""

import pytest
import torch

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks import training_step
from egno_md.benchmarks.training_step import StepSize, cpu_seconds, random_inputs, variants

SMALL = StepSize(2, 4, 6, hidden=8, n_layers=2)


def test_inputs_have_the_sizes():
    inputs, targets = random_inputs(SMALL, torch.Generator().manual_seed(1))
    x, v, h, edges, features, centres = inputs
    assert x.shape == v.shape == centres.shape == (8, 3)
    assert (h.shape, edges.shape, features.shape) == ((8, 2), (2, 12), (12, 2))
    assert targets.shape == (5, 8, 3)
    assert (edges[0] != edges[1]).all()
    assert torch.equal(edges // 4, torch.arange(2).repeat_interleave(6).expand(2, -1))
    assert torch.allclose(centres[5], x[4:].mean(0))


def test_rows_do_the_same_work():
    steps = variants(SMALL, ("ours",), torch.Generator().manual_seed(1))
    assert list(steps) == ["plain", "ours"]
    assert steps["plain"]() == pytest.approx(steps["ours"](), rel=1e-5)


def test_steps_take_turns():
    order = []
    steps = [lambda k=k: order.append(k) or 0.0 for k in range(2)]
    times = cpu_seconds(steps, 3)
    assert order == [0, 0, 1, 1, 0, 1, 0, 1, 0, 1]
    assert [len(t) for t in times] == [3, 3]
    assert min(min(t) for t in times) >= 0


def test_the_table(monkeypatch):
    monkeypatch.setattr(training_step, "SIZES", {"toy": SMALL})
    monkeypatch.setattr(training_step, "ROUNDS", 4)
    (table,) = training_step.measure(BenchmarkConfig(name="step", rows=("ours",)))
    assert [row[:2] for row in table.rows] == [("toy", "plain"), ("toy", "ours")]
    assert table.rows[0][3].mean == 1.0
    assert table.rows[1][4].mean <= table.rows[1][3].mean <= table.rows[1][5].mean


@pytest.mark.parametrize(
    ("options", "message"), [({"rows": ("fast",)}, "no rows"), ({"device": "cuda"}, "processor")]
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        training_step.measure(BenchmarkConfig(name="step", **options))


def test_bfloat16_rounds_the_same_step():
    steps = variants(SMALL, ("ours", "ours, bfloat16"), torch.Generator().manual_seed(1))
    exact, rounded = steps["ours"](), steps["ours, bfloat16"]()
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.02)
