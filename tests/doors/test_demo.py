"""The demo keeps what the README promises: `pytest -m slow tests/doors/test_demo.py`."""

from pathlib import Path

import mdtraj
import pytest
import torch

from egno_md.bundle import load_bundle
from egno_md.cli import main
from egno_md.segment import MadeBy
from egno_md.state import Molecule, temperature_K
from egno_md.trajectories.store_reader import TrajectoryReader

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "out"
    assert main(["run", "--example", "ethanol", "--out", str(folder)]) == 0
    return folder


def test_xtc_is_read_by_mdtraj(out: Path) -> None:
    trajectory = mdtraj.load(str(out / "trajectory.xtc"), top=str(out / "topology.pdb"))
    assert trajectory.n_atoms == 9
    assert float(trajectory.time[-1] - trajectory.time[0]) == pytest.approx(10.0, abs=1e-3)


def test_trajectory_is_long_whole_and_warm(out: Path) -> None:
    reader = TrajectoryReader(out / "trajectory.zarr")
    assert reader.length_ps >= 10.0
    assert (load_bundle("ethanol-egno").card.horizon_fs or 0.0) >= 8.0
    segment = reader.segment(0, reader.n_frames)
    molecule, v = reader.molecule, segment.velocities[:, 1:]
    i, j = molecule.bonds.T
    lengths = (segment.positions[:, :, i] - segment.positions[:, :, j]).norm(dim=-1)
    assert float((lengths - lengths.mean((0, 1))).abs().max()) <= 0.5
    assert float(temperature_K(molecule, v).mean()) == pytest.approx(300.0, rel=0.03)
    for z in molecule.numbers.unique():
        those = molecule.numbers == z
        element = Molecule(molecule.numbers[those], molecule.masses[those])
        mean = float(temperature_K(element, v[:, :, those]).mean())
        assert mean == pytest.approx(300.0, rel=0.05), int(z)


def test_the_network_made_it_and_every_fallback_is_explained(out: Path) -> None:
    reader = TrajectoryReader(out / "trajectory.zarr")
    segment = reader.segment(1, reader.n_frames)
    by_network = segment.made_by == int(MadeBy.NETWORK)
    assert float(by_network.double().mean()) >= 0.9
    replaced = sum(event.n_frames - event.n_accepted for event in reader.events)
    assert int((~by_network).sum()) == replaced
    assert all(event.reason and event.judge for event in reader.events)
    assert torch.equal(~by_network, segment.made_by == int(MadeBy.INTEGRATOR))
    assert "<html" in (out / "report.html").read_text()
