import dataclasses
import math

import pytest
import torch

from egno_md.segment import Event, MadeBy, Segment
from egno_md.state import Molecule


@pytest.fixture
def molecule():
    return Molecule.from_numbers([8, 1])


def segment_of(molecule, n_replicas=2, n_frames=4, start_fs=0.0, **changes):
    shape = (n_replicas, n_frames, molecule.n_atoms, 3)
    fields = {
        "times_fs": start_fs + 0.5 * torch.arange(1, n_frames + 1, dtype=torch.float64),
        "positions": torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape),
        "velocities": -torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape),
        "made_by": torch.full((n_replicas, n_frames), MadeBy.NETWORK, dtype=torch.int8),
    }
    return Segment(molecule, **(fields | changes))


def test_the_makers_keep_their_numbers():
    # They are written to stores: a change would make old stores say something else.
    assert {m.name: m.value for m in MadeBy} == {"GIVEN": 0, "NETWORK": 1, "INTEGRATOR": 2}


def test_sizes(molecule):
    segment = segment_of(molecule)
    assert (segment.n_replicas, segment.n_frames) == (2, 4)


def test_unknown_energies_are_nan(molecule):
    energies = segment_of(molecule).potential_energies
    assert energies.shape == (2, 4)
    assert energies.dtype == torch.float64
    assert bool(energies.isnan().all())


def test_frames_become_states(molecule):
    segment = segment_of(molecule, start_fs=10.0)
    state = segment.frame(1)
    assert state.time_fs == 11.0
    assert torch.equal(state.positions, segment.positions[:, 1])
    assert torch.equal(state.velocities, segment.velocities[:, 1])
    assert segment.last.time_fs == 12.0
    assert torch.equal(segment.last.positions, segment.positions[:, 3])


def test_a_failed_segment_can_exist_but_its_bad_frame_is_no_state(molecule):
    segment = segment_of(molecule)
    segment.positions[1, 3, 0, 2] = math.nan
    segment.frame(2)
    with pytest.raises(ValueError, match=r"atom 0 \(replica 1, z\) is nan"):
        _ = segment.last


def test_leading_frames(molecule):
    energies = torch.arange(8, dtype=torch.float64).reshape(2, 4)
    event = Event(1.5, 1, "bond lengths", "too long", 2, 4)
    segment = segment_of(molecule, potential_energies=energies, events=(event,))
    cut = segment.upto(2)
    assert cut.times_fs.tolist() == [0.5, 1.0]
    assert cut.potential_energies.tolist() == [[0.0, 1.0], [4.0, 5.0]]
    assert cut.made_by.shape == (2, 2)
    assert torch.equal(cut.velocities, segment.velocities[:, :2])
    assert cut.events == (event,)
    thinned = segment.frames(slice(1, None, 2))
    assert thinned.times_fs.tolist() == [1.0, 2.0]
    assert torch.equal(thinned.positions, segment.positions[:, 1::2])


def test_no_frames_are_no_segment(molecule):
    with pytest.raises(ValueError, match="at least one frame"):
        segment_of(molecule).upto(0)


def test_joining_gives_back_what_was_cut(molecule):
    event = Event(0.5, 0, "judge", "reason", 1, 4)
    whole = segment_of(molecule)
    parts = [whole.upto(1), whole.frames(slice(1, 3)), whole.frames(slice(3, 4))]
    parts[1] = dataclasses.replace(parts[1], events=(event,))
    joined = Segment.join(parts)
    for name in ("times_fs", "positions", "velocities", "made_by"):
        assert torch.equal(getattr(joined, name), getattr(whole, name))
    assert joined.potential_energies.shape == (2, 4)
    assert joined.events == (event,)
    assert Segment.join([whole]) is whole


def test_joining_nothing_or_out_of_order_is_refused(molecule):
    with pytest.raises(ValueError, match="no segments"):
        Segment.join([])
    segment = segment_of(molecule)
    with pytest.raises(ValueError, match="times_fs must increase"):
        Segment.join([segment, segment])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": torch.zeros(2, 4, 3, 3)}, r"positions must have shape \(n_replicas, 4, 2"),
        ({"positions": torch.zeros(4, 2, 3)}, "positions must have shape"),
        ({"velocities": torch.zeros(2, 3, 2, 3)}, "velocities must match"),
        ({"times_fs": torch.tensor([1.0, 2.0, 2.0, 3.0])}, "times_fs must increase"),
        ({"times_fs": torch.tensor([4.0, 3.0, 2.0, 1.0])}, "times_fs must increase"),
        ({"times_fs": torch.tensor([1.0, math.nan, 2.0, 3.0])}, "times_fs must increase"),
        ({"made_by": torch.zeros(4, 2, dtype=torch.int8)}, r"made_by must have shape \(2, 4\)"),
        ({"potential_energies": torch.zeros(2, 3)}, r"potential_energies must have shape"),
    ],
)
def test_wrong_shapes_are_named(molecule, changes, message):
    with pytest.raises(ValueError, match=message):
        segment_of(molecule, **changes)


def test_it_does_not_change(molecule):
    with pytest.raises(dataclasses.FrozenInstanceError):
        segment_of(molecule).cell = None
