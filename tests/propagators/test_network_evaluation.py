"""Own copies, pieces and checks around networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from egno_md.propagators.network_evaluation import (
    check_elements,
    check_finite,
    evaluation_copy,
    replica_pieces,
)
from egno_md.state import Molecule, State


def states(n_replicas: int) -> State:
    """Replicas of a water molecule, each a little larger than the one before."""
    molecule = Molecule.from_numbers([8, 1, 1])
    one = torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [0.0, 0.96, 0.0]], dtype=torch.float64)
    growth = 1.0 + 0.01 * torch.arange(n_replicas, dtype=torch.float64)
    return State.at_rest(molecule, growth[:, None, None] * one)


def test_a_copy_is_of_its_own_and_has_the_dtype_asked_for() -> None:
    model = nn.Linear(2, 1)
    own = evaluation_copy(model, nn.Linear, "", device="cpu", dtype=torch.float64)
    assert own.weight.dtype == torch.float64
    assert not own.training
    with torch.no_grad():
        own.weight.zero_()
    assert bool(model.weight.any())
    assert model.training


def test_another_class_or_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="a Linear was given; a Conv1d is needed"):
        evaluation_copy(nn.Linear(2, 1), nn.Conv1d, "a Conv1d is needed", device="cpu", dtype=None)
    with pytest.raises(ValueError, match=r"dtype must be .* got torch.float16"):
        evaluation_copy(nn.Linear(2, 1), nn.Linear, "", device="cpu", dtype=torch.float16)


@pytest.mark.parametrize(
    ("atoms", "sizes"), [(1, [1] * 5), (6, [2, 2, 1]), (14, [4, 1]), (15, [5])]
)
def test_pieces_hold_every_replica_once(atoms: int, sizes: list[int]) -> None:
    state = states(5)
    pieces = list(replica_pieces(state, atoms))
    assert [piece.n_replicas for piece in pieces] == sizes
    assert torch.equal(torch.cat([piece.positions for piece in pieces]), state.positions)


def test_unknown_elements_and_results_that_are_not_finite_are_named() -> None:
    check_elements(states(1), (1, 8))
    with pytest.raises(ValueError, match=r"atom 0 is O \(Z = 8\).* knows only H, C"):
        check_elements(states(1), (1, 6))
    energy, forces = torch.zeros(2), torch.zeros(2, 3, 3)
    check_finite(energy, forces)
    forces[1, 2, 0] = torch.inf
    with pytest.raises(ValueError, match=r"force on atom 2 \(replica 1\)"):
        check_finite(energy, forces)
    energy[1] = torch.nan
    with pytest.raises(ValueError, match="energy of replica 1 came out as nan eV"):
        check_finite(energy)
