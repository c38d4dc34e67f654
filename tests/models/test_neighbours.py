import itertools

import pytest
import torch

from egno_md.models.neighbours import find_neighbours


def brute_force(positions, cell, pbc, cutoff):
    """Distances of all (target, source, image) triples within the cutoff, sorted."""
    spans = [range(-5, 6) if p else (0,) for p in pbc]
    images = torch.tensor(list(itertools.product(*spans)), dtype=torch.float64)
    shifts = images @ cell
    arrows = positions[None, :, None] + shifts - positions[:, None, None]
    distances = arrows.norm(dim=-1)
    distances[:, :, (images == 0).all(1)] += torch.eye(len(positions))[:, :, None] * 1e9
    return sorted(
        (i, j, *(round(x, 6) + 0.0 for x in shifts[k].tolist()))
        for i, j, k in (distances < cutoff).nonzero().tolist()
    )


def as_triples(near, replica, n_atoms):
    mine = (near.edge_index[1] // n_atoms) == replica
    source, target = (near.edge_index[:, mine] - replica * n_atoms).tolist()
    shifts = near.shifts[mine].tolist()
    return sorted(
        (i, j, *(round(s, 6) + 0.0 for s in shift))
        for i, j, shift in zip(target, source, shifts, strict=True)
    )


@pytest.fixture
def places():
    draw = torch.Generator().manual_seed(3)
    return 6.0 * torch.rand((3, 7, 3), generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
def test_finds_what_brute_force_finds(places, pbc):
    # Thinner than the cutoff along one vector, and not at right angles.
    cell = torch.tensor([[3.1, 0, 0], [1.0, 6.0, 0], [0, -2.0, 7.0]], dtype=torch.float64)
    near = find_neighbours(places, 3.5, cell.expand(3, 3, 3), pbc)
    for r in range(3):
        assert as_triples(near, r, 7) == brute_force(places[r], cell, pbc, 3.5)
    assert near.batch.tolist() == [0] * 7 + [1] * 7 + [2] * 7


def test_dense_and_cell_list_agree_for_open_systems(monkeypatch, places):
    dense = find_neighbours(places, 3.0)
    monkeypatch.setattr("egno_md.models.neighbours._DENSE_ATOMS", 0)
    listed = find_neighbours(places, 3.0)
    assert torch.equal(dense.edge_index, listed.edge_index)
    assert torch.equal(dense.shifts, listed.shifts)


def test_edges_are_sorted_by_target(places):
    target = find_neighbours(places, 4.0).edge_index[1]
    assert bool((target.diff() >= 0).all())


def test_no_limit_on_the_number_of_neighbours():
    draw = torch.Generator().manual_seed(0)
    crowd = torch.rand((1, 400, 3), generator=draw, dtype=torch.float64) * 5.0
    assert find_neighbours(crowd, 9.0).edge_index.shape[1] == 400 * 399


def test_a_lone_atom_has_no_edges():
    near = find_neighbours(torch.zeros(2, 1, 3), 5.0)
    assert near.edge_index.shape == (2, 0)
    assert near.shifts.shape == (0, 3)


def test_a_lone_atom_sees_its_images():
    cell = 2.0 * torch.eye(3, dtype=torch.float64)[None]
    near = find_neighbours(torch.zeros(1, 1, 3, dtype=torch.float64), 2.1, cell, (True,) * 3)
    assert near.edge_index.shape[1] == 6
    assert near.shifts.norm(dim=-1).tolist() == pytest.approx([2.0] * 6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_names_the_atom_that_is_not_finite(places, bad):
    places[1, 4, 2] = bad
    with pytest.raises(ValueError, match=r"atom 4 \(replica 1, z\)"):
        find_neighbours(places, 3.0)


@pytest.mark.parametrize("gap", [0.0, 5e-4])
@pytest.mark.parametrize("pbc", [(False,) * 3, (True,) * 3])
def test_names_atoms_in_one_place(places, gap, pbc):
    places[2, 5] = places[2, 1] + gap * torch.tensor([1.0, 0, 0])
    cell = 8.0 * torch.eye(3, dtype=torch.float64).expand(3, 3, 3)
    with pytest.raises(ValueError, match=r"atoms 1 and 5 \(replica 2\)"):
        find_neighbours(places, 3.0, cell, pbc)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (None, "need a cell"),
        (torch.zeros(3, 3, 3), "thick"),
        (torch.diag(torch.tensor([5.0, 5.0, 0.3])).expand(3, 3, 3), "vector c"),
        (torch.full((3, 3, 3), float("nan")), "finite"),
        (torch.eye(3), "shape"),
    ],
)
def test_refuses_bad_cells(places, cell, words):
    with pytest.raises(ValueError, match=words):
        find_neighbours(places, 3.0, cell, (True, True, True))


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan"), float("inf")])
def test_refuses_bad_cutoffs(places, cutoff):
    with pytest.raises(ValueError, match="cutoff"):
        find_neighbours(places, cutoff)


def test_refuses_empty_systems():
    with pytest.raises(ValueError, match="at least one"):
        find_neighbours(torch.zeros(1, 0, 3), 3.0)
