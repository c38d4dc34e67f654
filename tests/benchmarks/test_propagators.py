import os
from pathlib import Path

import pytest
import torch

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.propagator_data import Amounts, Lessons, make_lessons
from egno_md.benchmarks.propagator_rows import TRAININGS
from egno_md.benchmarks.propagators import compare, measure, model_file, segment_measures
from egno_md.benchmarks.table import Cell, Table
from egno_md.state import Molecule, State
from tests.training.springs import Springs

WATER = Molecule.from_numbers([8, 1, 1], bonds=[(0, 1), (0, 2)])
POSITIONS = torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]).double()
START = State.at_rest(WATER, POSITIONS)
SPRINGS = Springs(START)
AMOUNTS = Amounts(
    training=16,
    validation=4,
    test=8,
    temperatures_K=(300.0, 400.0),
    test_timestep_fs=0.5,
    equilibration_fs=100.0,
)


def job(folder: Path, **changes: object) -> BenchmarkConfig:
    return BenchmarkConfig.model_validate(
        {
            "name": "propagators",
            "out": str(folder),
            "seeds": (1,),
            "cpu_minutes": 0.002,
            "length_ps": 0.04,
            "n_replicas": 2,
        }
        | changes
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmark")


@pytest.fixture(scope="module")
def lessons(folder: Path) -> Lessons:
    return make_lessons(SPRINGS, START, 300.0, AMOUNTS, folder / "propagators" / "water-data")


@pytest.fixture(scope="module")
def tables(folder: Path, lessons: Lessons) -> list[Table]:
    return compare(SPRINGS, START, "water", job(folder), AMOUNTS)


def column(table: Table, name: str) -> dict[str, object]:
    return {str(row[0]): row[table.columns.index(name)] for row in table.rows}


def test_every_row_is_trained_and_measured(tables: list[Table]) -> None:
    segments, runs = tables
    cost = column(segments, "training, CPU s")
    trained = {name for name, value in cost.items() if value is not None}
    assert len(trained) == 5
    for name in trained:
        assert isinstance(cost[name], Cell)
        assert 0 < cost[name].mean < 10
    calls = column(segments, "calls per ps")
    assert calls["Hamiltonian EGNO, 4 fs"].mean == 500
    assert calls["control: its forces, velocity Verlet 0.5 fs"].mean == 2000
    assert calls["Direct EGNO, 8 fs"].mean == 125
    assert {row[0] for row in segments.rows} - {row[0] for row in runs.rows} == {
        "static",
        "free flight",
        "true potential, velocity Verlet 1 fs",
        "true potential, velocity Verlet 2 fs",
    }


def test_references_err_as_they_must(tables: list[Table]) -> None:
    table = tables[0]
    still = column(table, "position error / displacement, 8 fs")["static"]
    assert still.mean == pytest.approx(1.0)
    exact = column(table, "position error / displacement, 32 fs")
    assert exact["true potential, velocity Verlet 0.5 fs"].mean < 1e-9
    assert exact["true potential, velocity Verlet 1 fs"].mean > 1e-4
    energy = column(table, "true energy error over 16 fs, rms, kJ/mol")
    assert energy["free flight"].mean > energy["true potential, velocity Verlet 2 fs"].mean


def test_long_runs_are_counted(tables: list[Table]) -> None:
    table = tables[1]
    name = "true potential, velocity Verlet 0.5 fs"
    assert column(table, "replicas failed")[name].mean == 0
    assert column(table, "whole for, ps")[name].mean == pytest.approx(0.04)
    assert 20 < column(table, "T of H, K")[name].mean < 2000


def test_finished_rows_are_taken_as_they_are(folder: Path, tables: list[Table]) -> None:
    again = compare(SPRINGS, START, "water", job(folder, rows=("control",), resume=True), AMOUNTS)
    name = "control: its forces, velocity Verlet 1 fs"
    heading = "position error / displacement, 8 fs"
    assert column(again[0], heading)[name] == column(tables[0], heading)[name]


def test_old_trainings_are_not_overwritten(folder: Path, tables: list[Table]) -> None:
    with pytest.raises(ValueError, match="already holds a training"):
        compare(SPRINGS, START, "water", job(folder, rows=("control",)), AMOUNTS)


def test_a_second_of_training_shows(lessons: Lessons, tmp_path: Path) -> None:
    for name in ("control", "direct-4"):
        (first, *_) = TRAININGS[name](lessons, 1, 0.7, tmp_path / name, False)
        assert segment_measures(first, lessons)["v4"] < 0.6, name  # free flight scores 1


def test_chained_frames_do_not_depend_on_how_many_are_asked(
    lessons: Lessons, tmp_path: Path
) -> None:
    x, v = lessons.test.positions[:, 0], lessons.test.velocities[:, 0]
    for name in ("hamiltonian", "direct-8"):
        (row,) = TRAININGS[name](lessons, 1, 0.05, tmp_path / name, False)
        whole = row.frames(x, v, 4)
        half = row.frames(x, v, 2)
        rest = row.frames(half[0][:, -1], half[1][:, -1], 2)
        for k in range(2):
            joined = torch.cat([half[k], rest[k]], 1)
            torch.testing.assert_close(whole[k], joined, rtol=0, atol=1e-6)


def test_unknown_rows_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rows \['magic'\] are not known; there are hamiltonian"):
        measure(job(tmp_path, rows=("magic",)))
    with pytest.raises(FileNotFoundError, match=r"no file sgdml_model_ethanol\.npz; give its"):
        measure(job(tmp_path))
    with pytest.raises(FileNotFoundError, match="does not hold it"):
        measure(job(tmp_path, data=str(tmp_path)))


def test_model_files_are_found_deep_down(tmp_path: Path) -> None:
    file = tmp_path / "md17" / "sgdml_model_aspirin.npz"
    file.parent.mkdir()
    file.touch()
    assert model_file(str(tmp_path), "aspirin") == file
    assert model_file(str(file), "whatever") == file


@pytest.mark.slow
def test_ethanol_from_its_model_file(tmp_path: Path) -> None:
    folder = os.environ.get("EGNO_MD_DATA")
    if folder is None:
        pytest.skip("EGNO_MD_DATA does not name the data folder")
    config = job(tmp_path, data=folder, rows=("control",), cpu_minutes=0.5)
    segments, _ = measure(config)
    errors = column(segments, "position error / displacement, 8 fs")
    assert errors["control: its forces, velocity Verlet 0.5 fs"].mean < 0.5
