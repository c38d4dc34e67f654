"""The MD17-sGDML tables on a molecule whose atoms hardly feel each other: free flight is right."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.md17_horizons import HORIZONS_FS, WindowPlan, horizon_windows
from egno_md.benchmarks.md17_sgdml import Scope, default_epochs, measure, sources
from egno_md.benchmarks.md17_tasks import molecule_edges
from egno_md.data.md17_sgdml import Replicas, training_geometry
from egno_md.data.reference_md import Sampling
from egno_md.data.sgdml import SGDMLPotential
from egno_md.state import Molecule

torch.set_num_threads(1)

SCOPE = Scope(
    n_starts={"train": 6, "val": 4, "test": 4},
    replicas=Replicas(2, 2, 2, 1600.0, 12.5, temperature_K=0.02, equilibration_fs=50.0),
    windows=WindowPlan(
        8, 4, 4, 300.0, Sampling(n_replicas=4, equilibration_fs=10.0, interval_fs=5.0)
    ),
)
SHAPE = np.array([[0.0, 0, 0], [1.2, 0, 0], [-0.6, 0.9, 0], [-0.6, -0.9, 0.1]])
NUMBERS = np.array([6, 8, 1, 1], dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A force field of formaldehyde with very small forces."""
    rng = np.random.default_rng(0)
    x = SHAPE + 0.03 * rng.normal(size=(5, 4, 3))
    row, column = np.tril_indices(4, -1)
    inverse = 1 / np.linalg.norm(x[:, row] - x[:, column], axis=-1)
    folder = tmp_path_factory.mktemp("data")
    np.savez(
        folder / "sgdml_model_formaldehyde.npz",
        z=NUMBERS,
        R_desc=inverse.T,
        R_d_desc_alpha=1e-5 * rng.normal(size=inverse.shape),
        perms=np.array([[0, 1, 2, 3]]),
        sig=3,
        c=-40.0,
    )
    return folder


def config(folder, out, **more):
    more = {"seeds": (1,), "epochs": 1} | more
    return BenchmarkConfig(name="md17-sgdml", data=str(folder), out=str(out), **more)


@pytest.fixture(scope="module")
def both(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return measure(config(folder, out), SCOPE), out


def test_published_protocol(both):
    table = both[0][0]
    assert table.name == "md17-sgdml-formaldehyde"
    assert table.caption.startswith("MD17-sGDML, formaldehyde, published protocol: trajectories")
    assert "not MD17 itself" in table.caption
    assert "6/4/4 starts" in table.caption
    rows = {row[0]: row for row in table.rows}
    assert list(rows) == ["x + t v", "x + c v", "EGNN", "EGNO"]
    # Units: 10^-2 Å^2. Atoms go about 0.2 Å in 1.5 ps, on straight lines.
    f_free, a_free = rows["x + t v"][2:4]
    assert f_free < 0.5
    assert a_free < f_free
    for name in ("EGNN", "EGNO"):
        assert rows[name][2].mean > 10 * f_free
    assert rows["EGNO"][1] > rows["EGNN"][1]


def test_horizons(both):
    table = both[0][1]
    assert table.name == "md17-sgdml-formaldehyde-horizons"
    assert table.columns[2 : 2 + len(HORIZONS_FS)] == ("8 fs", "16 fs", "32 fs", "64 fs")
    rows = {row[0]: row[2:6] for row in table.rows}
    assert list(rows) == ["static", "free flight", "EGNO of each horizon", "Hamiltonian EGNO"]
    assert rows["static"] == (1.0, 1.0, 1.0, 1.0)
    assert all(error < 0.1 for error in rows["free flight"])
    # Both start near the truth of free atoms: one by its velocities, one as an integrator.
    assert all(cell.mean < 1.0 for cell in rows["Hamiltonian EGNO"][:2])
    assert all(np.isfinite(cell.mean) for cell in rows["EGNO of each horizon"])


def test_finished_trainings_are_taken_as_they_are(both, folder):
    tables, out = both
    made = sorted(path for path in out.rglob("*") if path.is_file())
    stamps = [path.stat().st_mtime_ns for path in made if path.suffix == ".safetensors"]
    again = measure(config(folder, out, resume=True), SCOPE)
    assert [t.json() for t in again] == [t.json() for t in tables]
    kept = [path.stat().st_mtime_ns for path in made if path.suffix == ".safetensors"]
    assert kept == stamps
    with pytest.raises(ValueError, match="already holds a training"):
        measure(config(folder, out, rows=("EGNN",)), SCOPE)


def test_rows_choose_tables(both, folder):
    out = both[1]
    with pytest.raises(ValueError, match=r"no rows \['MACE'\]"):
        measure(config(folder, out, rows=("MACE",)), SCOPE)
    tables = measure(config(folder, out, rows=("linear",)), SCOPE)
    names = [[row[0] for row in table.rows] for table in tables]
    assert names == [["x + t v", "x + c v"], ["static", "free flight"]]


def test_windows_of_the_md_regime(folder):
    file = folder / "sgdml_model_formaldehyde.npz"
    potential, start = SGDMLPotential.from_npz(file), training_geometry(file)
    training, validation, test = horizon_windows(potential, start, SCOPE.windows, None)
    assert [w.n_windows for w in (training, validation, test)] == [8, 4, 4]
    assert {8.0, 16.0, 32.0, 64.0, 1.0, 60.0} <= set(training.times_fs.tolist())
    assert not torch.equal(training.positions0[:4], validation.positions0)
    assert not torch.equal(validation.positions0, test.positions0)


def original(folder, n_frames=20_400):
    """A trajectory in the original layout, moving on straight lines."""
    rng = np.random.default_rng(3)
    v = 2e-5 * rng.normal(size=(4, 3))
    x = SHAPE + v * np.arange(n_frames)[:, None, None]
    np.savez(folder / "md17_formaldehyde.npz", z=NUMBERS, R=x)
    np.savez(folder / "md17_formaldehyde_2000_frames.npz", z=NUMBERS, R=x[:5])


def test_original_files_are_called_md17(folder, tmp_path):
    original(tmp_path)
    (tmp_path / "sgdml_model_formaldehyde.npz").write_bytes(
        (folder / "sgdml_model_formaldehyde.npz").read_bytes()
    )
    job = config(tmp_path, tmp_path / "out", rows=("linear", "EGNN"))
    (table,) = measure(job, SCOPE)
    assert table.name == "md17-formaldehyde"
    assert table.caption.startswith("MD17, formaldehyde, published protocol: random start frames")
    assert "sGDML" not in table.markdown()
    rows = {row[0]: row for row in table.rows}
    assert rows["x + t v"][2] == pytest.approx(0.0, abs=1e-6)
    assert rows["EGNN"][2].n == 1
    # With published starts beside the data, those are used.
    (tmp_path / "egno_splits").mkdir()
    starts = {f"formaldehyde_{part}": np.arange(10) for part in ("train", "val", "test")}
    np.savez(tmp_path / "egno_splits" / "starts.npz", **starts)
    job = config(tmp_path, tmp_path / "out", rows=("linear",))
    (table,) = measure(job, SCOPE)
    assert "the published start frames" in table.caption


def test_data_that_is_missing_is_named(folder, tmp_path):
    with pytest.raises(ValueError, match="md17-sgdml needs --data FOLDER"):
        sources(BenchmarkConfig(name="md17-sgdml"))
    with pytest.raises(FileNotFoundError, match="neither sgdml_model_"):
        sources(config(tmp_path, tmp_path))
    with pytest.raises(FileNotFoundError, match="no MD17-sGDML data of uracil; it has formaldeh"):
        sources(config(folder, tmp_path, molecules=("uracil",)))
    with pytest.raises(FileNotFoundError, match="no folder"):
        sources(config(tmp_path / "absent", tmp_path))


def test_edges_reach_over_two_bonds():
    chain = Molecule.from_numbers([6, 6, 8, 6], bonds=[(0, 1), (1, 2), (2, 3)])
    edges, features = molecule_edges(chain)
    pairs = {(i, j): row for (i, j), row in zip(edges.T.tolist(), features.tolist(), strict=True)}
    assert len(pairs) == 10
    assert (0, 3) not in pairs
    assert pairs[0, 1] == [6, 6, 1]
    assert pairs[2, 0] == [8, 6, 2]
    with pytest.raises(ValueError, match="no bonds"):
        molecule_edges(Molecule.from_numbers([2, 2]))


def test_larger_molecules_get_fewer_epochs():
    epochs = [default_epochs(n) for n in (6, 14, 30, 60)]
    assert epochs == sorted(epochs, reverse=True)
    assert epochs[-1] > 30


def test_tables_are_plain_data(both):
    for table in both[0]:
        assert json.loads(table.json())["rows"]
