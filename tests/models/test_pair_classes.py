import pytest
import torch

from egno_md.bonds import bond_graph_distance
from egno_md.models.pair_classes import class_of_pairs, distance_statistics, pair_graph

# Water: O, H, H.
NUMBERS = torch.tensor([8, 1, 1])
APART = bond_graph_distance(3, torch.tensor([[0, 1], [0, 2]]), 4)


def test_classes_name_elements_and_bonds_between() -> None:
    pairs, names = class_of_pairs(NUMBERS, APART)
    assert pairs.tolist() == [[0, 0, 1], [1, 2, 2]]
    assert names == [(1, 8, 1), (1, 8, 1), (1, 1, 2)]


def test_statistics_pool_the_pairs_of_a_class() -> None:
    x = torch.tensor(
        [[[0.0, 0, 0], [1.0, 0, 0], [0, 1.2, 0]], [[0.0, 0, 0], [1.2, 0, 0], [0, 1.0, 0]]]
    )
    classes, mean, spread = distance_statistics(x, NUMBERS, APART)
    assert classes == [(1, 1, 2), (1, 8, 1)]
    assert float(mean[1]) == pytest.approx(1.1, abs=1e-6)
    assert float(spread[1]) == pytest.approx(torch.tensor([1.0, 1.2, 1.2, 1.0]).std().item())
    assert float(mean[0]) == pytest.approx((1.0 + 1.2**2) ** 0.5, abs=1e-6)


def test_graph_finds_rows_whatever_the_order_of_atoms() -> None:
    classes = [(1, 1, 2), (1, 8, 1)]
    graph = pair_graph(NUMBERS, torch.ones(3).double(), APART, [1, 8], classes)
    assert graph.element_index.tolist() == [1, 0, 0]
    assert graph.pair_class.tolist() == [1, 1, 0]


def test_unknown_element_is_named() -> None:
    with pytest.raises(ValueError, match=r"atom 0 has atomic number 8; the network knows \[1, 6\]"):
        pair_graph(NUMBERS, torch.ones(3).double(), APART, [1, 6], [(1, 8, 1)])


def test_unknown_pair_is_named() -> None:
    with pytest.raises(ValueError, match=r"atoms 1 and 2 .* 2 bonds apart"):
        pair_graph(NUMBERS, torch.ones(3).double(), APART, [1, 8], [(1, 8, 1)])
