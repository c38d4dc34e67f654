"""Splits: no member twice, no trajectory on two sides, gaps kept."""

from __future__ import annotations

import pytest
import torch

from egno_md.data.splits import Split, split_by_blocks, split_by_trajectory, split_shuffled


def test_trajectories_stay_whole():
    trajectory = torch.arange(10).repeat_interleave(7)[torch.randperm(70)]
    split = split_by_trajectory(trajectory, 0.2, 0.1, torch.Generator().manual_seed(0))
    sets = [
        set(trajectory[part].tolist()) for part in (split.training, split.validation, split.test)
    ]
    assert [len(s) for s in sets] == [7, 2, 1]
    assert not sets[0] & sets[1]
    assert not sets[0] & sets[2]
    assert not sets[1] & sets[2]
    assert len(split.training) + len(split.validation) + len(split.test) == 70


def test_blocks_keep_a_gap():
    split = split_by_blocks(100, 0.1, 0.2, gap=5)
    assert int(split.validation.min()) - int(split.training.max()) == 6
    assert int(split.test.min()) - int(split.validation.max()) == 6
    assert (len(split.training), len(split.validation), len(split.test)) == (60, 10, 20)


def test_shuffled_is_reproducible():
    one = split_shuffled(50, 0.1, 0.1, torch.Generator().manual_seed(1))
    two = split_shuffled(50, 0.1, 0.1, torch.Generator().manual_seed(1))
    assert torch.equal(one.training, two.training)
    assert not torch.equal(one.training, torch.arange(40))


def test_refusals():
    with pytest.raises(ValueError, match="more than one"):
        Split(torch.tensor([0, 1]), torch.tensor([1]), torch.tensor([2]))
    with pytest.raises(ValueError, match="at least 3"):
        split_by_trajectory(torch.zeros(9).long(), 0.1, 0.1, torch.Generator())
    with pytest.raises(ValueError, match="no training set"):
        split_by_blocks(10, 0.4, 0.4, gap=1)
    with pytest.raises(ValueError, match="shares must lie"):
        split_by_blocks(10, 0.5, 0.5)
