"""Windows: cut where they belong, refused without velocities, kept on disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import write

from egno_md.data.window_files import cut_windows, read_windows
from egno_md.data.windows import Windows, load_windows, save_windows
from egno_md.segment import MadeBy, Segment
from egno_md.state import Molecule
from egno_md.units import FS_PER_ASE_TIME


def segment(n_frames=11, n_replicas=2, spacing=0.5):
    """Atoms that fly freely, so that every frame says its own time."""
    molecule = Molecule.from_numbers([6, 8])
    times = 100.0 + spacing * torch.arange(n_frames, dtype=torch.float64)
    v = torch.arange(n_replicas * 6, dtype=torch.float64).view(n_replicas, 1, 2, 3) * 0.01
    x = v * times[None, :, None, None]
    made_by = torch.full((n_replicas, n_frames), int(MadeBy.INTEGRATOR), dtype=torch.int8)
    return Segment(molecule, times, x, v.expand(x.shape).clone(), made_by)


def test_windows_are_cut_at_their_times():
    windows = cut_windows(segment(), horizon_fs=2.0, frame_interval_fs=1.0)
    assert windows.times_fs.tolist() == [1.0, 2.0]
    assert windows.n_windows == 4
    assert windows.begins_fs.tolist() == [0.0, 2.0, 0.0, 2.0]
    assert windows.trajectory.tolist() == [0, 0, 1, 1]
    flight = windows.positions0[:, None] + windows.times_fs[:, None, None] * windows.velocities
    torch.testing.assert_close(flight, windows.positions)
    assert bool(torch.isnan(windows.energies).all())
    assert windows.in_time_order().begins_fs.tolist() == [0.0, 0.0, 2.0, 2.0]


def test_frames_of_a_network_are_left_out():
    given = segment()
    given.made_by[0, 3] = int(MadeBy.NETWORK)  # between the frames used: 0, 2, 4
    assert cut_windows(given, 2.0, 1.0).n_windows == 4
    given.made_by[0, 2] = int(MadeBy.NETWORK)
    assert cut_windows(given, 2.0, 1.0).begins_fs.tolist() == [2.0, 0.0, 2.0]
    given.made_by[:] = int(MadeBy.NETWORK)
    with pytest.raises(ValueError, match="a network made all"):
        cut_windows(given, 2.0, 1.0)


@pytest.mark.parametrize(
    ("horizon", "interval", "message"),
    [
        (2.0, 0.75, "no multiple"),
        (2.5, 1.0, "not a multiple of 1 fs"),
        (50.0, 1.0, "too few for one window"),
    ],
)
def test_times_that_do_not_fit_are_named(horizon, interval, message):
    with pytest.raises(ValueError, match=message):
        cut_windows(segment(), horizon, interval)


def test_file_round_trip(tmp_path):
    windows = cut_windows(segment(), 2.0, 0.5)
    save_windows(tmp_path / "w.safetensors", windows)
    back = load_windows(tmp_path / "w.safetensors")
    assert torch.equal(back.positions, windows.positions)
    assert torch.equal(back.molecule.masses, windows.molecule.masses)
    shorter = read_windows(tmp_path / "w.safetensors", 1.0, 0.5)
    assert shorter.times_fs.tolist() == [0.5, 1.0]
    with pytest.raises(ValueError, match="asked for is 4"):
        read_windows(tmp_path / "w.safetensors", 4.0, 0.5)
    with pytest.raises(FileNotFoundError):
        read_windows(tmp_path / "none.safetensors", 4.0, 0.5)


def images(n=5, momenta=True, **info):
    frames = []
    for k in range(n):
        atoms = Atoms("CO", positions=[[0, 0, 0.01 * k], [0, 0, 1.1]], info=dict(info))
        if momenta:
            atoms.set_velocities([[0, 0, 0.01 * FS_PER_ASE_TIME], [0, 0, 0]])
        frames.append(atoms)
    return frames


def test_ase_files_give_velocities_in_A_per_fs(tmp_path):
    write(tmp_path / "a.traj", images())
    windows = read_windows(tmp_path / "a.traj", 2.0, 1.0, data_interval_fs=1.0)
    assert windows.n_windows == 2
    assert float(windows.velocities0[0, 0, 2]) == pytest.approx(0.01, rel=1e-12)
    assert windows.molecule.bonds.tolist() == [[0, 1]]
    with pytest.raises(ValueError, match="does not say its times"):
        read_windows(tmp_path / "a.traj", 2.0, 1.0)
    frames = images()
    for k, atoms in enumerate(frames):
        atoms.info["time_fs"] = 2.0 * k
    write(tmp_path / "b.extxyz", frames)
    assert read_windows(tmp_path / "b.extxyz", 4.0, 2.0).times_fs.tolist() == [2.0, 4.0]


def test_files_without_velocities_are_refused(tmp_path):
    write(tmp_path / "a.traj", images(momenta=False))
    with pytest.raises(ValueError, match="frame 0 has no momenta"):
        read_windows(tmp_path / "a.traj", 2.0, 1.0, 1.0)
    (tmp_path / "a.xtc").write_bytes(b"")
    with pytest.raises(ValueError, match="hold no velocities"):
        read_windows(tmp_path / "a.xtc", 2.0, 1.0, 1.0)


def test_mdtraj_hdf5(tmp_path):
    import mdtraj
    from mdtraj.formats import HDF5TrajectoryFile

    topology = mdtraj.Topology()
    residue = topology.add_residue("CO", topology.add_chain())
    for symbol in ("C", "O"):
        topology.add_atom(symbol, mdtraj.element.get_by_symbol(symbol), residue)
    flight = segment(n_replicas=1)
    for name, extra in (("with", {"velocities": flight.velocities[0].numpy() * 100.0}), ("no", {})):
        with HDF5TrajectoryFile(str(tmp_path / f"{name}.h5"), "w") as file:
            file.topology = topology
            times = flight.times_fs.numpy() / 1000.0
            file.write(coordinates=flight.positions[0].numpy() / 10.0, time=times, **extra)
    windows = read_windows(tmp_path / "with.h5", 2.0, 1.0)
    np.testing.assert_allclose(
        windows.velocities0, cut_windows(flight, 2.0, 1.0).velocities0, atol=1e-6
    )
    with pytest.raises(ValueError, match="has no velocities"):
        read_windows(tmp_path / "no.h5", 2.0, 1.0)


def test_windows_that_are_not_finite_are_named():
    good = cut_windows(segment(), 2.0, 1.0)
    bad = good.positions.clone()
    bad[2, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="positions of window 2 are not finite"):
        Windows(
            good.molecule, good.positions0, good.velocities0, good.times_fs, bad, good.velocities
        )


def test_joined_trajectories_stay_apart():
    one = cut_windows(segment(), 2.0, 1.0)
    joined = Windows.join([one, one])
    assert joined.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    with pytest.raises(ValueError, match="different frame times"):
        Windows.join([one, cut_windows(segment(), 1.0, 0.5)])
