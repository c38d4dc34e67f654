"""The cost of SO(2) convolutions and tensor products, at toy size."""

import json
import statistics

import pytest
import torch

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks import so2
from egno_md.benchmarks.so2 import DegreeTimes, Formulations, exponent, time_degree
from egno_md.cli import main


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 2e-6), (torch.float64, 1e-14)])
def test_formulations_do_the_same_work(dtype, limit):
    both = Formulations.random(2, 4, 6, seeded(), dtype)
    assert both.so2().shape == both.so2_alone().shape == both.features.shape == (6, 9, 4)
    assert both.so3().shape == both.flat.shape == (6, 36)
    assert both.so2().dtype is both.so3().dtype is dtype
    assert 0.0 < both.difference() < limit
    assert torch.equal(both.matrices(), both.into_frame)
    # The difference is between what is timed: it sees one weight changed.
    both.convolution.real[1].data[0, 0] += 0.1
    assert both.difference() > 1e-4


def test_same_seed_same_work():
    first, second = (Formulations.random(1, 2, 3, seeded()) for _ in range(2))
    assert torch.equal(first.so2(), second.so2())


def test_times_of_a_degree():
    times = time_degree(1, seeded(), channels=2, n_edges=3, rounds=4)
    columns = (times.so3_us, times.so2_alone_us, times.so2_us, times.matrices_us)
    assert [len(column) for column in columns] == [4, 4, 4, 4]
    assert min(map(min, columns)) > 0.0
    assert times.ratios() == [a / b for a, b in zip(times.so3_us, times.so2_us, strict=True)]


def test_exponent_of_a_power():
    assert exponent([1, 2, 5], [3.0 * (k + 1) ** 2.5 for k in (1, 2, 5)]) == pytest.approx(2.5)
    with pytest.raises(ValueError, match="two different degrees"):
        exponent([2, 2], [1.0, 1.0])


def test_the_table(monkeypatch):
    def made_up(degree, generator, rounds):
        noise = [1.0, 1.1, 0.9, 1.0]
        costs = [[c * n for n in noise] for c in (2.0 * (degree + 1) ** 4, degree + 1.0, 2.0)]
        return DegreeTimes(degree, *costs, matrices_us=noise, difference=3e-7)

    monkeypatch.setattr(so2, "time_degree", made_up)
    (table,) = so2.measure(BenchmarkConfig(name="so2"))
    assert [row[0] for row in table.rows] == [1, 2, 3, 4, 5, 6]
    assert table.rows[3][1:4] == (2.0 * 5**4, 5.0, 2.0)
    assert table.rows[3][4].mean == pytest.approx(5**4)
    assert table.rows[0][-1] == "3e-07"
    (note,) = table.notes
    assert "SO(3) 4.00, last three 4.00;" in note
    assert "SO(2) alone 1.00, last" in note


def test_the_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(so2, "ROUNDS", 4)
    assert main(["benchmark", "so2", "--rows", "2", "1", "--out", str(tmp_path)]) == 0
    table = json.loads((tmp_path / "so2" / "so2.json").read_text())
    assert [row[0] for row in table["rows"]] == [1, 2]
    assert all(float(row[-1]) < 1e-5 for row in table["rows"])
    assert "fitted over L = 1, 2: SO(3)" in capsys.readouterr().out


@pytest.mark.slow
def test_cheaper_and_growing_more_slowly():
    times = [time_degree(degree, seeded(), rounds=10) for degree in (2, 3, 4)]
    assert statistics.median(times[-1].ratios()) > 18.0
    growth = [
        exponent((2, 3, 4), [statistics.median(mine) for mine in costs])
        for costs in ([t.so3_us for t in times], [t.so2_us for t in times])
    ]
    assert growth[0] > growth[1] + 0.5


@pytest.mark.parametrize(
    ("options", "message"), [({"rows": ("7",)}, "no rows"), ({"device": "cuda"}, "processor")]
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        so2.measure(BenchmarkConfig(name="so2", **options))
