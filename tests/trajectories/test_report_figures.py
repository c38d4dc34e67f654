"""Which frames the pictures of a report show."""

from __future__ import annotations

import re

import pytest
import torch

from egno_md.trajectories.report_figures import energy_figure, makers_figure, shared_frames


def test_a_rejected_replica_alone_is_not_drawn_as_the_mean_of_all() -> None:
    known = torch.zeros((4, 6), dtype=torch.bool)
    known[:, [2, 5]] = True
    known[1, :4] = True  # made again by the integrator
    known[0, 5] = False
    assert shared_frames(known).nonzero()[:, 0].tolist() == [2, 5]
    assert not shared_frames(known[:, :0]).numel()
    assert not shared_frames(known & False).any()


def test_energies_of_one_replica_are_drawn_whole() -> None:
    times, potential = torch.arange(6.0), torch.full((1, 6), float("nan"), dtype=torch.float64)
    potential[0, 2:] = 1.0
    assert shared_frames(torch.isfinite(potential)).tolist() == [False] * 2 + [True] * 4
    picture = energy_figure(times, potential, torch.ones((1, 6), dtype=torch.float64), 3)
    assert "Mean energies of the replicas over time." in picture


@pytest.mark.parametrize("n", [1, 2, 16])
def test_replicas_are_counted_in_whole_numbers(n: int) -> None:
    picture = makers_figure(torch.ones((n, 50), dtype=torch.int8), 0.5)
    marks = re.findall(r">([^<>]+)</text>", picture)
    # Times have a decimal point and end with 0.5; the rest counts replicas.
    counted = [mark for mark in marks if mark.lstrip("−-").isdigit()]
    assert counted[0] == "0"
    assert all(0 <= int(mark) < n for mark in counted)
    assert len([mark for mark in marks if "." in mark]) == 6
