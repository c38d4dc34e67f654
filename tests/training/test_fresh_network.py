from __future__ import annotations

import pytest
import torch

from egno_md.training.fresh_network import pooled


def test_pooled_statistics_are_those_of_all_frames_together() -> None:
    g = torch.Generator().manual_seed(0)
    one = 1.4 + 0.03 * torch.randn(20_000, generator=g, dtype=torch.float64)
    two = 1.5 + 0.05 * torch.randn(20_000, generator=g, dtype=torch.float64)
    alone = torch.tensor([2.0]).double(), torch.tensor([0.1]).double()
    parts = [
        ([(6, 6, 1), (1, 6, 1)], *(torch.stack([s, s * 0 + 1]) for s in (one.mean(), one.std()))),
        ([(6, 6, 1)], two.mean()[None], two.std()[None]),
        ([(1, 1, 2)], *alone),
    ]
    classes, mean, spread = pooled(parts)
    assert classes == [(1, 1, 2), (1, 6, 1), (6, 6, 1)]
    both = torch.cat([one, two])
    assert float(mean[2]) == pytest.approx(float(both.mean()), rel=1e-9)
    assert float(spread[2]) == pytest.approx(float(both.std()), rel=1e-3)
    # A class of one molecule keeps its numbers, bit for bit.
    assert torch.equal(mean[:1], alone[0])
    assert torch.equal(spread[:1], alone[1])
