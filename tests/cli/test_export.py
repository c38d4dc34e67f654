import mdtraj
import numpy as np
import pytest
import torch

from egno_md.cli import main
from egno_md.segment import MadeBy, Segment
from egno_md.state import Molecule, State
from egno_md.trajectories.store import TrajectoryWriter
from egno_md.trajectories.store_format import StoreHeader


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder of a run with two replicas of 11 frames."""
    path = tmp_path_factory.mktemp("out")
    molecule = Molecule.from_numbers([8, 1, 1], bonds=[(0, 1), (0, 2)])
    x = torch.arange(2 * 11 * 9, dtype=torch.float64).reshape(2, 11, 3, 3) / 50
    start = State(molecule, x[:, 0], torch.zeros(2, 3, 3, dtype=torch.float64))
    header = StoreHeader(molecule, 2, 0.5)
    with TrajectoryWriter.create(path / "trajectory.zarr", header, start, {}) as writer:
        times = 0.5 * torch.arange(1, 11, dtype=torch.float64)
        made_by = torch.full((2, 10), int(MadeBy.NETWORK), dtype=torch.int8)
        writer.append(Segment(molecule, times, x[:, 1:], torch.zeros_like(x[:, 1:]), made_by), {})
    return path


def test_first_replica_of_a_run_folder(out, tmp_path, capsys):
    assert main(["export", str(out), str(tmp_path / "a.xtc")]) == 0
    assert "a.xtc" in capsys.readouterr().out
    read = mdtraj.load(str(tmp_path / "a.xtc"), top=str(tmp_path / "topology.pdb"))
    np.testing.assert_allclose(read.time, np.arange(11) * 0.0005, rtol=1e-5)
    np.testing.assert_allclose(read.xyz[:, 0, 0], np.arange(11) * 9 / 500, atol=5.1e-4)


def test_all_replicas_of_a_store_with_stride(out, tmp_path):
    argv = ["export", str(out / "trajectory.zarr"), str(tmp_path / "a.h5")]
    assert main([*argv, "--replicas", "all", "--stride", "5"]) == 0
    read = mdtraj.load(str(tmp_path / "a-1.h5"))
    assert read.n_frames == 3
    assert main([*argv, "--replicas", "0", "1"]) == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere.zarr", "a.xtc"], "no trajectory store at nowhere.zarr"),
        (["STORE", "a.gro"], "suffix must be one of"),
        (["STORE", "a.xtc", "--replicas", "2"], "replica 2 asked of"),
        (["STORE", "a.xtc", "--replicas", "one"], "got 'one'"),
        (["STORE", "a.xtc", "--stride", "0"], "stride must be at least 1"),
    ],
)
def test_wrong_input_is_one_line(out, argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = [str(out) if word == "STORE" else word for word in argv]
    assert main(["export", *argv]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
