"""Rows of rejections are counted by replica, and told from chance."""

import pytest
import torch

from egno_md.propagators.metropolis_counts import MetropolisCounts
from egno_md.trajectories.sampling_facts import sampling_sentences


def counted(accepted):
    """Counts of a table of replicas by proposals."""
    counts = MetropolisCounts()
    add(counts, accepted)
    return counts


def add(counts, accepted):
    for column in accepted.T:
        none = torch.zeros(len(column), dtype=torch.bool)
        counts.proposed(torch.where(column, 0.0, 9.0).double(), column, none, none)


def lots(n_replicas, n, acceptance, seed=0):
    draws = torch.rand((n_replicas, n), generator=torch.Generator().manual_seed(seed))
    return draws < acceptance


def test_the_longest_row_is_that_of_one_replica():
    table = torch.tensor(
        [[1, 0, 0, 1, 0, 0, 0], [0, 1, 0, 1, 0, 1, 0], [0, 0, 0, 0, 1, 1, 1]], dtype=torch.bool
    )
    found = counted(table).statistics(32.0)
    assert (found.longest_row, found.longest_replica) == (4, 2)
    assert not found.stuck
    none = counted(torch.ones((2, 5), dtype=torch.bool)).statistics(32.0)
    assert (none.longest_row, none.longest_replica, none.stuck) == (0, -1, False)
    assert not MetropolisCounts().statistics(32.0).stuck


@pytest.mark.parametrize("acceptance", [0.1, 0.4, 0.8, 0.97])
def test_chance_is_not_called_stuck(acceptance):
    for seed in range(20):
        assert not counted(lots(8, 500, acceptance, seed)).statistics(32.0).stuck, seed


def test_a_replica_that_stays_where_it_is_is_called_stuck():
    table = lots(8, 500, 0.8)
    table[5, 200:280] = False
    found = counted(table).statistics(256.0)
    assert found.stuck
    assert found.longest_row >= 80
    assert found.longest_replica == 5
    said = sampling_sentences(found.to_json())
    assert said[-1].startswith(f"replica 5 had {found.longest_row} proposals in a row rejected")
    calm = counted(lots(8, 500, 0.8)).statistics(256.0).to_json()
    assert not any("in a row" in line for line in sampling_sentences(calm))


def test_a_row_goes_on_after_a_restart():
    table = torch.zeros((2, 30), dtype=torch.bool)
    table[:, 0] = True
    whole, first, second = counted(table), counted(table[:, :11]), MetropolisCounts()
    second.restore(first.restart_state())
    add(second, table[:, 11:])
    assert second.statistics(8.0) == whole.statistics(8.0)
    assert second.statistics(8.0).longest_row == 29
    old = {k: v for k, v in first.restart_state().items() if k in ("counts", "sums")}
    third = MetropolisCounts()
    third.restore(old)  # an earlier version kept no rows
    assert third.statistics(8.0).longest_row == 0
    add(third, table[:, 11:])
    assert third.statistics(8.0).longest_row == 19
