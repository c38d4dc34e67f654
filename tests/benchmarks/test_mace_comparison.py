"""The comparison with MACE at toy size; a stand-in takes the place of its Python."""

import sys

import ase.io
import numpy as np
import pytest
import torch

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks import mace_comparison, mace_training
from egno_md.benchmarks.mace_comparison import ROW
from egno_md.benchmarks.mace_training import planned_epochs, train_mace, write_xyz
from egno_md.benchmarks.potential_data import potential_task
from egno_md.benchmarks.potential_rows import ROWS, PotentialRow
from egno_md.cli import main
from egno_md.data.frames import LabelledFrames
from tests.benchmarks.potential_files import make_folder

torch.set_num_threads(1)

#: Says 1 eV too much for every energy and 0.5 eV/Å for every force.
STAND_IN = """#!{python}
import pathlib, sys
import ase.io
options = dict(a[2:].split("=", 1) for a in sys.argv if a.startswith("--") and "=" in a)
if "mace.cli.run_train" in sys.argv:
    assert len(ase.io.read(options["train_file"], ":")) > 1
    folder = pathlib.Path(options["work_dir"])
    folder.mkdir(exist_ok=True)
    epochs = int(options["max_num_epochs"])
    if {broken}:
        sys.exit("no such option: --r_max")
    for name in ("mace.model", "mace_compiled.model"):
        (folder / name).write_text(name)
    print(sum(range(200_000 * min(epochs, 3))))
elif "mace.cli.eval_configs" in sys.argv:
    assert options["model"].endswith("/mace.model")
    frames = ase.io.read(options["configs"], ":")
    for atoms in frames:
        atoms.info["MACE_energy"] = atoms.info.pop("REF_energy") + 1.0
        atoms.arrays["MACE_forces"] = atoms.arrays.pop("REF_forces") + 0.5
    ase.io.write(options["output"], frames, format="extxyz")
else:
    assert sys.argv[1] == "-I" and sys.argv[2].endswith("mace_clock.py")
    print("a warning of somebody else")
    print("ready", flush=True)
    for line in sys.stdin:
        print("seconds", 0.1 * (1 + int(line)), flush=True)
"""

TINY = {"channels": 4, "hidden_channels": 4, "radial_hidden": 8, "n_layers": 1, "max_degree": 1}
TINY |= {"max_order": 1, "cutoff_A": 4.0}


@pytest.fixture
def python(tmp_path):
    return stand_in(tmp_path, broken=False)


def stand_in(folder, broken):
    path = folder / "python"
    path.write_text(STAND_IN.format(python=sys.executable, broken=broken))
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data"))


def test_both_are_trained_tested_and_timed(data, tmp_path, python, monkeypatch, capsys):
    monkeypatch.setitem(ROWS, ROW, PotentialRow(TINY, "adamw"))
    water = mace_comparison.water_box()
    monkeypatch.setattr(mace_comparison, "two_molecules", lambda: water)
    arguments = ["benchmark", "mace", "--data", str(data), "--mace-python", python, "--seeds", "1"]
    arguments += ["--molecules", "rmd17-ethanol", "--out", str(tmp_path), "--cpu-minutes", "0.02"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    theirs = next(line for line in text.splitlines() if line.startswith("| MACE 64x0e"))
    energy, _, force, force_rms = theirs.split("|")[3:7]
    # 1 eV among three atoms, and half an eV/Å.
    assert (float(energy), float(force), float(force_rms)) == (333, 500, 500)
    rows = [line.split("|") for line in text.splitlines() if line.startswith(("| but", "| water"))]
    assert [float(row[4]) for row in rows] == pytest.approx([0.521, 1.04], rel=1e-2)
    table = (tmp_path / "mace" / "mace-accuracy.md").read_text()
    assert f"eSCN {ROW}" in table
    (tmp_path / "python").unlink()
    with pytest.raises(ValueError, match="cannot run"):
        train_mace(
            python,
            potential_task(data, "rmd17-ethanol"),
            tmp_path / "again",
            cpu_minutes=1.0,
            seed=1,
        )


def test_a_finished_training_is_taken_as_it_is(data, tmp_path, python):
    task = potential_task(data, "acac-300K")
    first = train_mace(python, task, tmp_path / "x", cpu_minutes=0.1, seed=3)
    assert set(first.measures) == {"300 K", "600 K"}
    (tmp_path / "python").unlink()
    again = train_mace(python, task, tmp_path / "x", cpu_minutes=0.1, seed=3, resume=True)
    assert again == first
    with pytest.raises(ValueError, match="another training"):
        train_mace(python, task, tmp_path / "x", cpu_minutes=0.2, seed=3, resume=True)


def test_a_mace_that_fails_is_quoted(data, tmp_path):
    task = potential_task(data, "acac-300K")
    with pytest.raises(ValueError, match="no such option: --r_max"):
        train_mace(stand_in(tmp_path, True), task, tmp_path / "x", cpu_minutes=0.1, seed=3)


def test_without_its_python_or_data_nothing_is_begun(data):
    with pytest.raises(ValueError, match="--mace-python"):
        mace_comparison.measure(BenchmarkConfig(name="mace", data=str(data)))
    with pytest.raises(ValueError, match="--data"):
        mace_comparison.measure(BenchmarkConfig(name="mace", mace_python="python"))
    two = BenchmarkConfig(name="mace", data=str(data), mace_python="x", molecules=("a", "b"))
    with pytest.raises(ValueError, match="one data set"):
        mace_comparison.measure(two)


def test_epochs_fill_the_budget():
    # Ten seconds to start, five for an epoch.
    assert planned_epochs([15.0, 25.0], 60.0) == 10
    with pytest.raises(ValueError, match="15 CPU-seconds for one epoch"):
        planned_epochs([15.0, 25.0], 14.0)


def test_frames_arrive_as_they_are(tmp_path):
    x = torch.tensor([[0.0, 0, 0], [0.9, 0, 0], [0.1, 0.2, 0.3]], dtype=torch.float64)
    frames = LabelledFrames(
        torch.tensor([8, 1, 3]),
        x,
        torch.tensor([-1.5, 2.5], dtype=torch.float64),
        2.0 * x,
        torch.tensor([0, 2, 3]),
        cell=4.0 * torch.eye(3, dtype=torch.float64).expand(2, 3, 3).clone(),
        pbc=torch.ones(2, 3, dtype=torch.bool),
    )
    write_xyz(frames, tmp_path / "x.xyz")
    pair, alone = ase.io.read(tmp_path / "x.xyz", ":")
    assert pair.numbers.tolist() == [8, 1]
    assert alone.numbers.tolist() == [3]
    assert (pair.info["REF_energy"], alone.info["REF_energy"]) == (-1.5, 2.5)
    np.testing.assert_allclose(alone.arrays["REF_forces"], 2.0 * x[2:].numpy(), atol=1e-8)
    np.testing.assert_allclose(pair.positions, x[:2].numpy(), atol=1e-8)
    assert pair.pbc.all()
    assert pair.cell.lengths().tolist() == [4.0] * 3


def test_the_other_python_gets_no_paths_of_this_one(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    found = mace_training.peer_environment()
    assert "PYTHONPATH" not in found
    assert found["OMP_NUM_THREADS"] == str(torch.get_num_threads())
