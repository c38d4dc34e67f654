from __future__ import annotations

import pytest
import torch

from egno_md.models.neighbours import find_neighbours
from egno_md.models.reused_neighbours import ReusedNeighbours

PERIODIC = (True, True, False)


def crowd(n_replicas: int = 2, n_atoms: int = 40, width: float = 8.0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return width * torch.rand((n_replicas, n_atoms, 3), generator=draw, dtype=torch.float64)


def box(width: float = 8.0, n_replicas: int = 2) -> torch.Tensor:
    cell = width * torch.eye(3, dtype=torch.float64)
    cell[1, 0] = 1.0
    return cell.expand(n_replicas, 3, 3)


def assert_same(found, expected) -> None:
    for name in ("edge_index", "shifts", "batch"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert found.n_graphs == expected.n_graphs


@pytest.mark.parametrize("open_atoms", [0, 80])
def test_the_neighbours_are_those_found_anew(open_atoms) -> None:
    places = crowd(n_atoms=open_atoms or 40)
    cell, pbc = (None, (False,) * 3) if open_atoms else (box(), PERIODIC)
    reused, draw = ReusedNeighbours(1.0), torch.Generator().manual_seed(1)
    changed = 0
    for _ in range(12):
        noise = torch.randn(places.shape, generator=draw, dtype=torch.float64)
        places = places + 0.06 * noise
        before = reused.n_searches
        assert_same(reused(places, 4.0, cell, pbc), find_neighbours(places, 4.0, cell, pbc))
        changed += reused.n_searches - before
    assert 1 < changed < 9


def test_few_atoms_in_the_open_are_not_remembered() -> None:
    reused = ReusedNeighbours()
    assert_same(reused(crowd(), 4.0), find_neighbours(crowd(), 4.0))
    assert reused.n_searches == 0


@pytest.mark.parametrize("what", ["cell", "cutoff", "atoms", "pbc", "dtype"])
def test_whatever_else_changes_is_noticed(what) -> None:
    reused, places = ReusedNeighbours(), crowd()
    reused(places, 4.0, box(), PERIODIC)
    given = {
        "cell": (places, 4.0, box(8.1), PERIODIC),
        "cutoff": (places, 4.5, box(), PERIODIC),
        "atoms": (places[:, :30], 4.0, box(), PERIODIC),
        "pbc": (places, 4.0, box(), (True, True, True)),
        "dtype": (places.float(), 4.0, box(), PERIODIC),
    }[what]
    assert_same(reused(*given), find_neighbours(*given))
    assert reused.n_searches == 2


def test_bad_places_are_refused_as_ever() -> None:
    reused, places = ReusedNeighbours(), crowd()
    reused(places, 4.0, box(), PERIODIC)
    bad = places.clone()
    bad[1, 3, 2] = float("nan")
    with pytest.raises(ValueError, match=r"position of atom 3 \(replica 1, z\) is nan"):
        reused(bad, 4.0, box(), PERIODIC)
    close = places.clone()
    close[0, 4] = close[0, 3]
    for _ in range(2):
        with pytest.raises(ValueError, match="atoms 3 and 4"):
            reused(close, 4.0, box(), PERIODIC)
    with pytest.raises(ValueError, match="skin_A is 0"):
        ReusedNeighbours(0.0)
