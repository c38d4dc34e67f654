"""Samples of a task: batches, graphs, checks."""

import pytest
import torch

from egno_md.benchmarks.paths import Paths, PathTask

EDGES = torch.tensor([[0, 1, 2, 2], [1, 0, 0, 1]])


def fields(n=4):
    generator = torch.Generator().manual_seed(n)
    return {
        "positions": torch.randn(n, 3, 3, generator=generator),
        "velocities": torch.randn(n, 3, 3, generator=generator),
        "targets": torch.randn(n, 2, 3, 3, generator=generator),
        "times": torch.tensor([0.5, 1.0]),
        "node_features": torch.randn(n, 3, 1, generator=generator),
        "edges": EDGES,
        "edge_features": torch.randn(n, 4, 2, generator=generator),
    }


def own_graphs(n=4):
    made = fields(n)
    count = [4 - k % 2 for k in range(n)]
    features = made["edge_features"]
    return made | {
        "edges": [EDGES[:, :c] for c in count],
        "edge_features": [features[k, :c] for k, c in enumerate(count)],
    }


@pytest.mark.parametrize("make", [fields, own_graphs])
def test_a_batch_is_its_samples(make):
    paths = Paths(**make())
    chosen = torch.tensor([3, 0])
    batch = paths.batch(chosen)
    first = 0
    for place, sample in enumerate(chosen.tolist()):
        alone = paths.batch(torch.tensor([sample]))
        count = alone.edge_index.shape[1]
        part = slice(first, first + count)
        assert torch.equal(batch.edge_index[:, part], alone.edge_index + 3 * place)
        assert torch.equal(batch.edge_features[part], alone.edge_features)
        assert torch.equal(batch.targets[place], paths.targets[sample])
        assert torch.equal(batch.node_features[place], paths.node_features[sample])
        first += count
    assert batch.edge_index.shape[1] == first
    assert (batch.edges is None) == (make is own_graphs)


@pytest.mark.parametrize("make", [fields, own_graphs])
def test_the_first_few(make):
    paths = Paths(**make())
    few = paths.first(2)
    assert (len(few), few.n_nodes, few.n_edge_features) == (2, 3, 2)
    both = torch.arange(2)
    assert torch.equal(few.batch(both).edge_features, paths.batch(both).edge_features)
    with pytest.raises(ValueError, match="there are 4 samples"):
        paths.first(5)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("velocities", lambda a: a[:, :2], "velocities must have shape"),
        ("targets", lambda a: a[:, :1], "targets must have shape"),
        ("positions", lambda a: a[:0], "must have shape"),
        ("node_features", lambda a: a * torch.nan, "not finite"),
        ("edge_features", lambda a: a / 0.0, "not finite"),
        ("edge_features", lambda a: a[:, :3], "edge_features of sample 0 must have shape"),
        ("edge_features", list, "both"),
        ("edge_features", lambda a: a[:3], "of as many"),
        ("edges", lambda a: a + 1, "outside 0..2"),
        ("edges", lambda a: a.int(), "int64"),
        ("times", lambda a: a.flip(0), "increase"),
        ("times", lambda a: a - 0.5, "positive"),
    ],
)
def test_what_does_not_fit_is_refused(name, change, message):
    given = fields()
    with pytest.raises(ValueError, match=message):
        Paths(**(given | {name: change(given[name])}))


def test_splits_must_agree():
    other = fields()
    other["times"] = 2 * other["times"]
    same = Paths(**fields())
    with pytest.raises(ValueError, match="test split of toy"):
        PathTask("toy", same, same, Paths(**other))
    moved = PathTask("toy", same, same, same).to("cpu")
    assert torch.equal(moved.test.targets, same.targets)
