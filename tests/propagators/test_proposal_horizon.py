"""Horizons of proposals: halved by rejections, doubled again by good runs."""

import pytest
import torch

from egno_md.propagators.proposal_horizon import ProposalHorizon

BOTH = torch.arange(2)


def told(horizon, *verdicts):
    """Frames of both replicas after each verdict."""
    found = []
    for verdict in verdicts:
        horizon.note(BOTH, torch.tensor(verdict))
        found.append(horizon.frames(2).tolist())
    return found


def test_halved_and_doubled_within_bounds():
    horizon = ProposalHorizon(12, recover_after=2)
    assert horizon.frames(2).tolist() == [12, 12]
    bad = [told(horizon, (True, False))[0][1] for _ in range(5)]
    assert bad == [6, 3, 1, 1, 1]
    good = [told(horizon, (True, True))[0][1] for _ in range(9)]
    assert good == [1, 2, 2, 4, 4, 8, 8, 12, 12]
    assert horizon.frames(2).tolist() == [12, 12]
    assert horizon.shortest == 1


def test_a_rejection_starts_the_count_again():
    horizon = ProposalHorizon(8, recover_after=2)
    horizon.frames(2)
    found = told(horizon, (False, True), (True, True), (False, True), (True, True), (True, True))
    assert [frames[0] for frames in found] == [4, 4, 2, 2, 4]


def test_without_recovery_nothing_is_shortened():
    horizon = ProposalHorizon(8)
    horizon.frames(2)
    assert told(horizon, (False, False)) == [[8, 8]]


def test_restart_and_refusals():
    horizon = ProposalHorizon(8, recover_after=3)
    horizon.frames(2)
    told(horizon, (False, True), (True, True))
    fresh = ProposalHorizon(8, recover_after=3)
    fresh.restore(horizon.restart_state())
    verdicts = ((True, True), (True, False), (True, True))
    assert told(fresh, *verdicts) == told(horizon, *verdicts)
    with pytest.raises(ValueError, match="no horizons"):
        fresh.restore({})
    with pytest.raises(ValueError, match="a full proposal has 4"):
        ProposalHorizon(4).restore(horizon.restart_state())
    for wrong in ({"n_frames": 0}, {"n_frames": 4, "recover_after": 0}):
        with pytest.raises(ValueError, match="it must be at least 1"):
            ProposalHorizon(**wrong)
