"""Trajectories of mdtraj: what goes in comes out, in its units, with names, bonds and cell."""

import mdtraj
import numpy as np
import pytest
import torch

from egno_md import VelocityVerlet, generate, state_from_mdtraj, to_mdtraj
from egno_md.segment import Segment
from egno_md.state import Molecule, State
from egno_md.trajectories.store_reader import TrajectoryReader
from tests.trajectories.dimer import Dimer

CELL = torch.tensor([[9.0, 0, 0], [1.0, 8.0, 0], [0.5, 0.5, 7.0]], dtype=torch.float64)


def start(periodic):
    pair = Molecule.from_numbers([6, 1], bonds=[(0, 1)], names=("CA", "HA"), pbc=(periodic,) * 3)
    x = torch.zeros((3, 2, 3), dtype=torch.float64)
    x[:, 1, 0] = torch.tensor([1.02, 1.0, 0.99])
    return State.at_rest(pair, x, cell=CELL.expand(3, 3, 3) if periodic else None)


@pytest.fixture(params=[False, True])
def segment(request):
    return VelocityVerlet(Dimer(), 0.25, 1.0, 4).advance(start(request.param))


def test_a_segment_goes_out_and_comes_back(segment):
    made = to_mdtraj(segment, replica=-1, stride=2)
    assert made.n_frames == 2
    np.testing.assert_allclose(made.xyz, 0.1 * segment.positions[2, ::2], atol=1e-7)
    np.testing.assert_allclose(made.time, 1e-3 * segment.times_fs[::2], atol=1e-7)
    assert [atom.name for atom in made.topology.atoms] == ["CA", "HA"]
    back = state_from_mdtraj(made, slice(None))
    assert back.n_replicas == 2
    torch.testing.assert_close(back.positions, segment.positions[2, ::2], rtol=0, atol=1e-6)
    assert back.molecule.bonds.tolist() == [[0, 1]]
    assert back.molecule.names == ("CA", "HA")
    assert back.molecule.pbc == segment.molecule.pbc
    assert (back.cell is None) == (segment.cell is None)
    if back.cell is not None:
        torch.testing.assert_close(back.cell[1], CELL, rtol=0, atol=1e-5)
    assert float(back.velocities.abs().max()) == 0.0


@pytest.mark.parametrize("periodic", [False, True])
def test_a_store_goes_out(tmp_path, periodic):
    dynamics = VelocityVerlet(Dimer(), 0.25, 1.0, 4)
    generate(dynamics, start(periodic), length_ps=0.012, store=tmp_path / "x.zarr")
    reader = TrajectoryReader(tmp_path / "x.zarr")
    made = to_mdtraj(reader, replica=1, stride=5)
    expected = reader.array("positions")[1, ::5]
    np.testing.assert_allclose(made.xyz, 0.1 * expected, atol=1e-7)
    np.testing.assert_allclose(made.time, 1e-3 * reader.times_fs[::5], atol=1e-7)
    assert (made.unitcell_vectors is not None) is periodic
    # What mdtraj measures is in nm.
    apart = mdtraj.compute_distances(made, [[0, 1]], periodic=False)[:, 0]
    expected_A = np.linalg.norm(expected[:, 0] - expected[:, 1], axis=-1)
    np.testing.assert_allclose(10 * apart, expected_A, rtol=1e-5)


def test_frames_are_chosen_and_the_last_is_the_usual_one(segment):
    made = to_mdtraj(segment)
    assert torch.equal(state_from_mdtraj(made).positions, state_from_mdtraj(made, 3).positions)
    assert state_from_mdtraj(made, [0, 2, 2]).n_replicas == 3
    with pytest.raises(IndexError):
        state_from_mdtraj(made, 4)
    with pytest.raises(ValueError, match="no frame chosen of 4"):
        state_from_mdtraj(made, slice(4, None))


def test_what_does_not_fit_is_refused(segment):
    assert isinstance(segment, Segment)
    with pytest.raises(ValueError, match="no replica 3; there are 3"):
        to_mdtraj(segment, 3)
    with pytest.raises(ValueError, match="stride is 0"):
        to_mdtraj(segment, stride=0)
    made = to_mdtraj(segment)
    made.topology.atom(1).element = mdtraj.element.virtual
    with pytest.raises(ValueError, match=r"atom 1 .* has no element"):
        state_from_mdtraj(made)


def test_bonds_are_guessed_where_there_are_none(segment):
    made = to_mdtraj(segment)
    bare = mdtraj.Topology()
    residue = bare.add_residue("MOL", bare.add_chain())
    for name in ("C", "H"):
        bare.add_atom(name, mdtraj.element.get_by_symbol(name), residue)
    made.topology = bare
    assert state_from_mdtraj(made).molecule.bonds.tolist() == [[0, 1]]
