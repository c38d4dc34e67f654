import numpy as np
import pytest

from egno_md.trajectories.export import export
from egno_md.trajectories.generate import StoreOptions, generate
from egno_md.trajectories.readers import read_arrays
from egno_md.trajectories.store_reader import TrajectoryReader


@pytest.fixture(scope="module", params=[False, True], ids=["vacuum", "cell"])
def store(request, oscillator, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "run.zarr"
    start = oscillator.start(cell=request.param)
    options = StoreOptions(precision="float64")
    generate(oscillator.NoisyOscillator(), start, length_ps=0.01, store=path, options=options)
    return path


@pytest.mark.parametrize(
    ("kind", "atol", "times", "moving"),
    [
        ("xtc", 5.1e-3, True, False),
        ("dcd", 1e-5, False, False),
        ("h5", 1e-5, True, True),
        ("extxyz", 1e-7, True, True),
    ],
)
def test_what_was_exported_is_read_back(store, tmp_path, kind, atol, times, moving):
    file, _ = export(store, tmp_path / f"run.{kind}", replicas=[1])
    read, reader = read_arrays(file), TrajectoryReader(store)
    np.testing.assert_allclose(read.positions[0], reader.array("positions")[1], atol=atol)
    assert read.has_times is times
    np.testing.assert_allclose(read.times_fs, np.arange(11.0), rtol=1e-5)
    assert read.molecule.numbers.tolist() == [8, 1, 1]
    assert (read.cells is not None) is reader.header.has_cell
    if read.cells is not None:
        np.testing.assert_allclose(read.cells[0], reader.array("cells")[1], atol=1e-4)
        assert read.molecule.pbc == (True, True, True)
    assert (read.velocities is not None) is moving
    if moving:
        v = reader.array("velocities")[1]
        np.testing.assert_allclose(read.velocities[0], v, rtol=1e-5, atol=1e-7)
    if kind != "extxyz":
        assert read.molecule.bonds.tolist() == [[0, 1], [0, 2]]


def test_a_store_is_read_too(store):
    read = read_arrays(store)
    np.testing.assert_array_equal(read.positions, TrajectoryReader(store).array("positions"))
    assert read.positions.shape == (2, 11, 3, 3)


def test_what_cannot_be_read(store, tmp_path):
    with pytest.raises(FileNotFoundError, match="no trajectory"):
        read_arrays(tmp_path / "nothing.xtc")
    (tmp_path / "noise.xtc").write_bytes(b"\x00" * 100)
    with pytest.raises(FileNotFoundError, match=r"topology is needed, and .*topology\.pdb"):
        read_arrays(tmp_path / "noise.xtc")
    file, _ = export(store, tmp_path / "run.xtc", replicas=[0])
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"run\.xtc cannot be read"):
        read_arrays(file)
    (tmp_path / "bad.xyz").write_text("1\n\nH 0 0 0\n2\n\nH 0 0 0\nH 0 0 1\n")
    with pytest.raises(ValueError, match="frame 1 has other atoms"):
        read_arrays(tmp_path / "bad.xyz")
    (tmp_path / "nan.xyz").write_text("1\n\nH 0 0 0\n1\n\nH 0 nan 0\n")
    with pytest.raises(ValueError, match="position of atom 0, frame 1, not finite"):
        read_arrays(tmp_path / "nan.xyz")
