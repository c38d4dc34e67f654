import pytest
import torch

from egno_md.models.so2_convolution import SO2Convolution, edge_order, order_sizes
from egno_md.models.wigner import WignerMatrices, stack_blocks


def about_y(angle):
    c, s = torch.cos(angle), torch.sin(angle)
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    return torch.stack((c, zero, s, zero, one, zero, -s, zero, c), -1).view(-1, 3, 3)


def matrices(rotations, max_degree, max_order):
    """Wigner matrices in the m-primary order, `(n, n_coefficients, n_coefficients)`."""
    order = torch.tensor(edge_order(max_degree, max_order)[0])
    return stack_blocks(WignerMatrices(max_degree).double()(rotations), order)[:, :, order]


def apply(convolution, features, max_degree, max_order):
    return torch.cat(convolution(features.split(order_sizes(max_degree, max_order), 1)), 1)


def features_for(n, max_degree, max_order, channels=3):
    draw = torch.Generator().manual_seed(0)
    rows = len(edge_order(max_degree, max_order)[0])
    return torch.randn((n, rows, channels), generator=draw, dtype=torch.float64)


def test_order_is_m_primary():
    index, degrees = edge_order(2, 2)
    assert index == [0, 2, 6, 3, 7, 1, 5, 8, 4]
    assert degrees == [0, 1, 2, 1, 2, 1, 2, 2, 2]
    assert order_sizes(2, 2) == [3, 2, 2, 1, 1]
    assert sum(order_sizes(4, 2)) == len(edge_order(4, 2)[0])
    assert len(edge_order(4, 2)[0]) == 5 + 2 * 4 + 2 * 3


@pytest.mark.parametrize(("max_degree", "max_order"), [(1, 1), (2, 2), (3, 2), (4, 1), (2, 0)])
@pytest.mark.parametrize("mirror", [False, True])
def test_commutes_with_turns_about_the_edge(max_degree, max_order, mirror):
    torch.manual_seed(0)
    convolution = SO2Convolution(max_degree, max_order, 3, 4, mirror=mirror).double()
    features = features_for(6, max_degree, max_order)
    turn = matrices(about_y(torch.linspace(0.1, 6.0, 6).double()), max_degree, max_order)
    one_way = apply(convolution, turn @ features, max_degree, max_order)
    other = turn @ apply(convolution, features, max_degree, max_order)
    assert torch.allclose(one_way, other, rtol=0, atol=1e-13)


@pytest.mark.parametrize("mirror", [False, True])
def test_commutes_with_reflections_only_when_told_to(mirror):
    torch.manual_seed(0)
    convolution = SO2Convolution(2, 2, 3, 4, mirror=mirror).double()
    features = features_for(2, 2, 2)
    # x -> -x is half a turn about x followed by inversion, which is (-1)^l.
    half_turn = torch.diag(torch.tensor([1.0, -1.0, -1.0])).double()[None]
    parity = torch.tensor([(-1.0) ** l for l in edge_order(2, 2)[1]]).double()  # noqa: E741
    reflect = matrices(half_turn, 2, 2) * parity
    one_way = apply(convolution, reflect @ features, 2, 2)
    other = reflect @ apply(convolution, features, 2, 2)
    assert torch.allclose(one_way, other, rtol=0, atol=1e-13) is mirror


def test_is_linear_apart_from_the_bias():
    torch.manual_seed(0)
    convolution = SO2Convolution(2, 2, 3, 4).double()
    a, b = features_for(4, 2, 2)[:2], features_for(4, 2, 2)[2:]
    torch.nn.init.zeros_(convolution.bias)
    together = apply(convolution, a + 2.0 * b, 2, 2)
    apart = apply(convolution, a, 2, 2) + 2.0 * apply(convolution, b, 2, 2)
    assert torch.allclose(together, apart, rtol=0, atol=1e-13)


def test_refuses_orders_above_the_degree():
    with pytest.raises(ValueError, match="max_order"):
        edge_order(2, 3)
