"""The benchmark of potentials at toy size."""

import json

import pytest
import torch

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks import potential_rows, potentials
from egno_md.benchmarks.potential_data import potential_task
from egno_md.benchmarks.potential_rows import ROWS, PotentialRow, _is_long, train_potential
from egno_md.bundle import load_bundle
from egno_md.cli import main
from egno_md.data.cache import read_tensors
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.state import Molecule, State
from egno_md.training.loop import CHECKPOINT
from egno_md.training.settings import FitSettings, learning_rate_at
from tests.benchmarks.potential_files import make_folder

torch.set_num_threads(1)

TINY = {"channels": 4, "hidden_channels": 4, "radial_hidden": 8, "n_layers": 1, "max_degree": 1}
TINY |= {"max_order": 1, "cutoff_A": 4.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data"))


def test_a_training_of_so_many_epochs_goes_on_and_keeps_its_result(folder, tmp_path):
    task = potential_task(folder, "acac-300K")
    row = PotentialRow(TINY, "adamw", learning_rate=3e-2)
    result = train_potential(task, row, tmp_path, seed=1, cpu_minutes=1.0, epochs=60)
    assert (result.steps, result.epochs, result.compiled) == (60, 60.0, False)
    assert result.n_parameters > 100
    force_mae = 1e3 * float(task.tests["300 K"].forces.abs().mean())
    assert result.measures["300 K"]["force_mae_meV_per_A"] < 0.97 * force_mae
    again = train_potential(task, row, tmp_path, seed=1, cpu_minutes=1.0, epochs=60, resume=True)
    assert again == result
    with pytest.raises(ValueError, match="result of another training"):
        train_potential(task, row, tmp_path, seed=1, cpu_minutes=1.0, epochs=41, resume=True)
    with pytest.raises(ValueError, match="already holds a training"):
        train_potential(task, row, tmp_path, seed=1, cpu_minutes=1.0, epochs=60)


def test_a_budget_ends_the_schedule(folder, tmp_path):
    task = potential_task(folder, "mlearn-Li")
    result = train_potential(task, PotentialRow(TINY), tmp_path, seed=1, cpu_minutes=0.02)
    assert result.planned_steps > 5
    assert 0.3 < result.cpu_seconds < 6.0
    assert {"stress_mae_GPa", "virial_mae_meV_per_atom"} <= set(result.measures["test"])
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    training = [row for row in log if row["kind"] == "training"]
    assert "virial_error_eV_per_atom" in training[-1]
    settings = FitSettings(**read_tensors(tmp_path / CHECKPOINT)[1]["settings"])
    assert settings.steps == result.planned_steps
    assert settings.learning_rate == ROWS["L2"].learning_rate
    # A line of the log holds the mean over the steps since the line before.
    done = range(training[-2]["step"] if len(training) > 1 else 0, training[-1]["step"])
    rates = [learning_rate_at(settings, step) for step in done]
    assert training[-1]["learning_rate"] == pytest.approx(sum(rates) / len(rates))
    if result.steps == result.planned_steps:
        assert rates[-1] < 0.01 * ROWS["L2"].learning_rate


def test_molecules_with_a_long_budget_are_compiled(folder, monkeypatch):
    monkeypatch.setattr("torch.compile", lambda traced, **options: traced)
    for name, compiled in (("acac-300K", True), ("mlearn-Li", False), ("oc20", False)):
        task = potential_task(folder, name)
        fitting = potential_rows._Fitting.of(task, PotentialRow(TINY), 1, "cpu", long=True)
        assert (fitting.matching.compiled is not None) is compiled
        assert (fitting.matching.stress_weight > 0.0) is (name == "mlearn-Li")
    short = potential_rows._Fitting.of(
        potential_task(folder, "acac-300K"), PotentialRow(TINY), 1, "cpu", long=False
    )
    assert short.matching.compiled is None
    n = task.training.n_frames
    assert [_is_long(n, 30.0, None), _is_long(n, 5.0, None)] == [True, False]
    assert [_is_long(n, 30.0, 20), _is_long(n, 30.0, 20_000)] == [False, True]


def test_every_row_can_be_made(folder):
    task = potential_task(folder, "acac-300K")
    sizes = {}
    for name, row in ROWS.items():
        fitting = potential_rows._Fitting.of(task, row, 1, "cpu", long=False)
        sizes[name] = sum(p.numel() for p in fitting.model.parameters())
    assert sizes["small"] < sizes["L1M1"] < sizes["L2M1"] < sizes["L2M2"] < sizes["L3M3"]
    assert sizes["L2"] == sizes["L2-adamw"]


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(potentials.ROWS, "small", PotentialRow(TINY))
    words = ["benchmark", "potentials", "--data", str(folder), "--rows", "small", "--epochs", "2"]
    words += ["--molecules", "acac-300K", "mlearn-Si", "--seeds", "1", "2", "--out", str(tmp_path)]
    assert main(words) == 0
    acac = json.loads((tmp_path / "potentials" / "potentials-acac-300K.json").read_text())
    assert [row[:2] for row in acac["rows"]] == [["small", "300 K"], ["small", "600 K"]]
    assert "stress MAE (GPa)" not in acac["columns"]
    assert acac["rows"][0][2]["n"] == 2
    assert any("recalled, not read" in note for note in acac["notes"])
    silicon = json.loads((tmp_path / "potentials" / "potentials-mlearn-Si.json").read_text())
    column = silicon["columns"].index("stress MAE (GPa)")
    assert silicon["rows"][0][column]["mean"] > 0.0
    assert "2 epochs" in silicon["caption"]
    assert "| small | 600 K |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "needs --data"), ({"data": ".", "rows": ("L9",)}, "no rows .'L9'.")],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        potentials.measure(BenchmarkConfig(name="potentials", **options))


def test_every_training_leaves_a_bundle_that_says_what_the_table_says(folder, tmp_path):
    for name, tests in (("mlearn-Li", 1), ("acac-300K", 2)):
        task = potential_task(folder, name)
        row = PotentialRow(TINY)
        result = train_potential(
            task, row, tmp_path / name, seed=1, cpu_minutes=1.0, epochs=1, name="tiny"
        )
        card = load_bundle(tmp_path / name / f"{name}-tiny.bundle").card
        command = f"--molecules {name} --rows tiny --seeds 1 --epochs 1"
        assert card.training["command"].endswith(command)
        assert card.training["n_test"] == sum(t.n_frames for t in task.tests.values())
        assert card.level_of_theory
        assert card.citation
        if tests == 1:
            assert card.held_out == result.measures["test"]
        else:
            key = "force_mae_meV_per_A"
            assert card.held_out[f"600 K: {key}"] == result.measures["600 K"][key]
        potential = ESCNPotential.from_bundle(tmp_path / name / f"{name}-tiny.bundle")
        frames = task.tests["test" if tests == 1 else "300 K"].select([0])
        cell = None if frames.cell is None else frames.cell[0]
        molecule = Molecule.from_numbers(frames.numbers, pbc=(cell is not None,) * 3)
        state = State.at_rest(molecule, frames.positions, cell=cell)
        assert float(potential.evaluate(state).energy[0]) != 0.0
