"""The nearest neighbours of each atom, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from egno_md.models.nearest_neighbours import keep_nearest
from egno_md.models.neighbours import Neighbours, find_neighbours


def random_cell(n=9, replicas=2):
    draw = torch.Generator().manual_seed(0)
    places = 5.0 * torch.rand((replicas, n, 3), generator=draw, dtype=torch.float64)
    cell = 5.0 * torch.eye(3, dtype=torch.float64).expand(replicas, 3, 3)
    return places, find_neighbours(places, 6.0, cell, (True, True, True))


def distances(near: Neighbours, flat: torch.Tensor) -> torch.Tensor:
    source, target = near.edge_index
    return (flat[source] + near.shifts - flat[target]).norm(dim=1)


@pytest.mark.parametrize("most", [1, 7, 20])
def test_every_atom_keeps_its_nearest(most):
    places, near = random_cell()
    flat = places.reshape(-1, 3)
    kept = keep_nearest(near, flat, most)
    before, after = distances(near, flat), distances(kept, flat)
    for atom in range(len(flat)):
        wanted = before[near.edge_index[1] == atom].sort().values[:most]
        found = after[kept.edge_index[1] == atom].sort().values
        assert torch.equal(found, wanted)
    assert bool((kept.edge_index[1].diff() >= 0).all())
    assert kept.n_graphs == 2


def test_all_stay_where_there_are_few():
    places, near = random_cell()
    kept = keep_nearest(near, places.reshape(-1, 3), 10_000)
    assert torch.equal(kept.edge_index, near.edge_index)
    assert torch.equal(kept.shifts, near.shifts)


def line(gap):
    """Atom 0 with neighbours at 1, 2 and 2 + gap Å on either side."""
    places = torch.tensor([[[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0], [-2.0 - gap, 0, 0]]]).double()
    return places[0], find_neighbours(places, 2.5)


@pytest.mark.parametrize(("gap", "strict", "count"), [(0.0, True, 2), (0.0, False, 3)])
def test_ties_are_cut_or_kept(gap, strict, count):
    places, near = line(gap)
    kept = keep_nearest(near, places, 2, strict=strict)
    assert int((kept.edge_index[1] == 0).sum()) == count


def test_rounding_does_not_decide_ties():
    # The first listed stays whichever is nearer by less than the tolerance.
    for gap in (1e-12, -1e-12):
        places, near = line(gap)
        kept = keep_nearest(near, places, 2)
        assert kept.edge_index[0][kept.edge_index[1] == 0].tolist() == [1, 2]


def test_no_neighbours_are_refused_and_no_edges_are_fine():
    places, near = line(0.0)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        keep_nearest(near, places, 0)
    none = Neighbours(near.edge_index[:, :0], near.shifts[:0], near.batch, 1)
    for strict in (True, False):
        assert keep_nearest(none, places, 3, strict=strict).edge_index.shape == (2, 0)


def test_the_published_graph_comes_out():
    folder = os.environ.get("EGNO_MD_PARITY")
    if not folder:
        pytest.skip("set EGNO_MD_PARITY to the folder with published numbers")
    given = load_file(Path(folder, "escn", "L2M2_io_f64.safetensors"))
    places, cell = given["pos"][None], given["cell"][None]
    near = find_neighbours(places, 6.0, cell, (True, True, True))
    kept = keep_nearest(near, given["pos"], 20)

    def named(edges: torch.Tensor, shifts: torch.Tensor) -> set[tuple[int, ...]]:
        images = (shifts @ torch.linalg.inv(given["cell"])).round().long()
        return {tuple(row) for row in torch.cat((edges.T, images), 1).tolist()}

    published = named(given["edge_index"], given["cell_offsets"].double() @ given["cell"])
    assert named(kept.edge_index, kept.shifts) == published
