import subprocess

import ase.io
import mdtraj
import numpy as np
import pytest

from egno_md.trajectories import export_formats
from egno_md.trajectories.export import export
from egno_md.trajectories.generate import StoreOptions, generate
from egno_md.trajectories.store_format import StoreDamagedError
from egno_md.trajectories.store_reader import TrajectoryReader
from egno_md.units import BOLTZMANN_EV_PER_K


@pytest.fixture(scope="module")
def store(oscillator, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "run.zarr"
    generate(oscillator.NoisyOscillator(), oscillator.start(), length_ps=0.03, store=path)
    return path


@pytest.fixture(scope="module")
def boxed(oscillator, tmp_path_factory):
    path = tmp_path_factory.mktemp("boxed") / "run.zarr"
    generate(
        oscillator.NoisyOscillator(),
        oscillator.start(cell=True),
        length_ps=0.03,
        store=path,
        options=StoreOptions(precision="float64"),
    )
    return path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks per file."""
    monkeypatch.setattr(export_formats, "_BLOCK_FRAMES", 7)


def test_xtc(store, tmp_path):
    files = export(store, tmp_path / "run.xtc", replicas=[1])
    assert files == [tmp_path / "run.xtc", tmp_path / "topology.pdb"]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    read = mdtraj.load(str(files[0]), top=str(files[1]))
    x = TrajectoryReader(store).array("positions")[1] / 10
    assert read.unitcell_vectors is None
    np.testing.assert_allclose(read.xyz, x, atol=5.1e-4)
    np.testing.assert_allclose(read.time, np.arange(31) * 1e-3, rtol=1e-6)
    assert [a.name for a in read.topology.atoms] == ["O1", "H1", "H2"]
    assert {(a.index, b.index) for a, b in read.topology.bonds} == {(0, 1), (0, 2)}


def test_dcd(store, tmp_path):
    file, top = export(store, tmp_path / "run.dcd", replicas=[0])
    read = mdtraj.load(str(file), top=str(top))
    x = TrajectoryReader(store).array("positions")[0] / 10
    np.testing.assert_allclose(read.xyz, x, atol=1e-6)


def test_h5(store, tmp_path):
    file, _ = export(store, tmp_path / "run.h5", replicas=[0])
    read = mdtraj.load(str(file))
    reader = TrajectoryReader(store)
    np.testing.assert_allclose(read.xyz, reader.array("positions")[0] / 10, atol=1e-6)
    np.testing.assert_allclose(read.time, np.arange(31) * 1e-3, rtol=1e-6)
    with mdtraj.formats.HDF5TrajectoryFile(str(file)) as raw:
        frames = raw.read()
    v = reader.array("velocities")[0] * 100  # Å/fs -> nm/ps
    np.testing.assert_allclose(frames.velocities, v, rtol=1e-5, atol=1e-6)
    kinetic = reader.array("kinetic_energies")[0]
    np.testing.assert_allclose(frames.kineticEnergy, kinetic * 96.48533212, rtol=1e-5)
    np.testing.assert_allclose(frames.temperature, kinetic / 4.5 / BOLTZMANN_EV_PER_K, rtol=1e-5)
    energy = reader.array("potential_energies")[0]
    np.testing.assert_allclose(frames.potentialEnergy, energy * 96.48533212, rtol=1e-5)
    assert np.isnan(frames.potentialEnergy).sum() > 0


def test_extxyz(store, tmp_path):
    file, _ = export(store, tmp_path / "run.extxyz", replicas=[0])
    images = ase.io.read(file, index=":")
    reader = TrajectoryReader(store)
    assert len(images) == 31
    np.testing.assert_allclose(
        [a.positions for a in images], reader.array("positions")[0], atol=1e-7
    )
    momenta = reader.array("velocities")[0] * reader.molecule.masses.numpy()[:, None]
    expected = momenta * 10.180505710759414  # ASE's time unit in fs
    np.testing.assert_allclose([a.get_momenta() for a in images], expected, atol=1e-6)
    assert [a.info["time_fs"] for a in images] == list(range(31))
    assert [a.info["made_by"] for a in images[:2]] == ["given", "network"]
    assert images[0].calc is None
    energy = reader.array("potential_energies")[0]
    assert images[8].get_potential_energy() == pytest.approx(energy[8])


def test_kinetic_energy_of_extxyz_is_the_stored_one(store, tmp_path):
    file, _ = export(store, tmp_path / "run.extxyz", replicas=[1])
    kinetic = [a.get_kinetic_energy() for a in ase.io.read(file, index=":")]
    np.testing.assert_allclose(
        kinetic, TrajectoryReader(store).array("kinetic_energies")[1], rtol=1e-5
    )


@pytest.mark.parametrize("kind", ["xtc", "dcd", "h5"])
def test_cell(boxed, tmp_path, kind):
    file, top = export(boxed, tmp_path / f"run.{kind}", replicas=[0])
    read = mdtraj.load(str(file), **({} if kind == "h5" else {"top": str(top)}))
    np.testing.assert_allclose(read.unitcell_lengths, np.full((31, 3), 2.0), rtol=1e-5)
    np.testing.assert_allclose(read.unitcell_angles, np.full((31, 3), 90.0), rtol=1e-5)
    np.testing.assert_allclose(mdtraj.load(str(top)).unitcell_lengths, [[2, 2, 2]], rtol=1e-5)


def test_cell_in_extxyz(boxed, tmp_path):
    file, _ = export(boxed, tmp_path / "run.extxyz", replicas=[0])
    first = ase.io.read(file, index=0)
    assert first.pbc.all()
    np.testing.assert_allclose(first.cell.lengths(), 20.0)


def test_all_replicas_and_stride(store, tmp_path):
    files = export(store, tmp_path / "deep" / "run.xtc", stride=4)
    assert [f.name for f in files] == ["run-0.xtc", "run-1.xtc", "topology.pdb"]
    read = mdtraj.load(str(files[1]), top=str(files[2]))
    x = TrajectoryReader(store).array("positions")[1, ::4] / 10
    np.testing.assert_allclose(read.xyz, x, atol=5.1e-4)
    np.testing.assert_allclose(read.time, np.arange(0, 31, 4) * 1e-3, rtol=1e-6)


def test_while_the_run_goes_on(oscillator, tmp_path):
    store = tmp_path / "run.zarr"
    counts = []

    def look(segment):
        if len(counts) < 3:
            file, top = export(store, tmp_path / "now.xtc", replicas=[0])
            counts.append(mdtraj.load(str(file), top=str(top)).n_frames)

    generate(
        oscillator.NoisyOscillator(),
        oscillator.start(),
        length_ps=0.03,
        store=store,
        options=StoreOptions(flush_every_s=0.0),
        on_segment=look,
    )
    assert counts == [9, 17, 25]


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("run.gro", {}, r"'run\.gro': its suffix must be one of \.xtc, \.dcd, \.h5, \.extxyz"),
        ("run.xtc", {"replicas": [2]}, "replica 2 asked of .* has 0 to 1"),
        ("run.xtc", {"replicas": [-1]}, "replica -1 asked"),
        ("run.xtc", {"stride": 0}, "stride must be at least 1"),
    ],
)
def test_wrong_requests(store, tmp_path, name, more, message):
    with pytest.raises(ValueError, match=message):
        export(store, tmp_path / name, **more)
    assert list(tmp_path.iterdir()) == []


def test_missing_store(tmp_path):
    with pytest.raises(FileNotFoundError, match="no trajectory store"):
        export(tmp_path / "none.zarr", tmp_path / "run.xtc")


def test_damaged_store_writes_nothing(oscillator, tmp_path):
    store = tmp_path / "run.zarr"
    generate(oscillator.NoisyOscillator(), oscillator.start(), length_ps=0.03, store=store)
    chunk = store / "positions" / "c" / "0" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(StoreDamagedError, match="'positions'"):
        export(store, tmp_path / "run.xtc", replicas=[0])
    assert [p.name for p in tmp_path.iterdir()] == ["run.zarr"]


@pytest.mark.parametrize("kind", ["xtc", "dcd", "h5", "extxyz"])
def test_full_disk_is_an_error_and_keeps_the_old_file(oscillator, tmp_path, kind):
    store = tmp_path / "run.zarr"
    generate(
        oscillator.NoisyOscillator(n_frames=500),
        oscillator.start(1),
        length_ps=4.0,
        store=store,
    )
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=40k", "none", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        old = disk / f"run.{kind}"
        old.write_text("old")
        with pytest.raises(OSError, match="cannot write") as error:
            export(store, old, replicas=[0])
        assert "\n" not in str(error.value)
        assert [p.name for p in disk.iterdir()] == [old.name]
        assert old.read_text() == "old"
    finally:
        subprocess.run(["umount", str(disk)], check=True)
