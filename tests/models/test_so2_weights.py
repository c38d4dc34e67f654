"""One SO(2) convolution in the edge frame is e3nn's tensor product, weight by weight."""

import pytest
import torch

from egno_md.benchmarks.full_tensor_product import (
    edge_harmonics,
    from_e3nn,
    full_tensor_product,
    to_e3nn,
)
from egno_md.models.edge_frame import edge_frames
from egno_md.models.so2_convolution import SO2Convolution, edge_order, order_sizes
from egno_md.models.so2_weights import (
    _orders_of_paths,
    equal_convolution,
    order_weights,
    path_weights,
    tensor_product_paths,
)
from egno_md.models.wigner import WignerMatrices, stack_blocks

IN, OUT = 2, 3
DEGREES = [*range(1, 5), *(pytest.param(degree, marks=pytest.mark.slow) for degree in range(5, 9))]


def normal(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def directions():
    """Along the polar axis, 1e-9 off it, across it, and five anywhere."""
    near = [[0, 1, 0], [0, -1, 0], [1e-9, 1, 0], [1e-9, -1, 0], [0, -1, 1e-9], [0, 1, -1e-9]]
    across = [[1, 0, 0], [1, 1e-9, 0], [0, -1e-9, 1]]
    arrows = torch.cat((torch.tensor(near + across, dtype=torch.float64), normal(5, 3)))
    return arrows / arrows.norm(dim=-1, keepdim=True)


def in_edge_frame(convolution, features, frames):
    """Turn into the frame, apply the convolution, turn back."""
    max_degree, max_order = int(features.shape[1] ** 0.5) - 1, len(convolution.real) - 1
    rows = torch.tensor(edge_order(max_degree, max_order)[0])
    into = stack_blocks(WignerMatrices(max_degree).double()(frames), rows)
    parts = convolution((into @ features).split(order_sizes(max_degree, max_order), 1))
    return into.transpose(1, 2) @ torch.cat(parts, 1)


def by_e3nn(weights, features, arrows):
    max_degree = int(features.shape[1] ** 0.5) - 1
    product = full_tensor_product(max_degree, IN, OUT, torch.float64)
    filters = edge_harmonics(arrows, 2 * max_degree)
    return from_e3nn(product(to_e3nn(features), filters, weights.flatten()), max_degree)


def relative_error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


def about_y(angles):
    c, s = torch.cos(angles), torch.sin(angles)
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    return torch.stack((c, zero, s, zero, one, zero, -s, zero, c), -1).view(-1, 3, 3)


@pytest.mark.parametrize("max_degree", DEGREES)
def test_equals_the_tensor_product_whatever_the_roll(max_degree):
    arrows = directions()
    features = normal(len(arrows), (max_degree + 1) ** 2, IN, seed=1)
    weights = normal(len(tensor_product_paths(max_degree)), IN, OUT, seed=2)
    convolution = equal_convolution(weights, max_degree).requires_grad_(False)
    frames = edge_frames(arrows)
    found = in_edge_frame(convolution, features, frames)
    assert relative_error(found, by_e3nn(weights, features, arrows)) < 1e-12
    rolled = about_y(torch.linspace(0.3, 6.0, len(arrows)).double()) @ frames
    assert relative_error(in_edge_frame(convolution, features, rolled), found) < 1e-12


@pytest.mark.parametrize("max_degree", DEGREES)
def test_weights_come_back(max_degree):
    weights = normal(len(tensor_product_paths(max_degree)), IN, OUT, seed=2)
    there = order_weights(weights, max_degree)
    assert torch.allclose(path_weights(*there, max_degree), weights, rtol=0, atol=1e-12)
    torch.manual_seed(0)
    convolution = SO2Convolution(max_degree, max_degree, IN, OUT).double()
    own = list(convolution.real), list(convolution.imaginary)
    real, imaginary = order_weights(path_weights(*own, max_degree), max_degree)
    for mine, given in zip(real + imaginary, own[0] + own[1], strict=True):
        assert torch.allclose(mine, given, rtol=0, atol=1e-12)


@pytest.mark.parametrize("max_degree", DEGREES)
def test_is_a_rotation_of_the_weights_up_to_a_factor(max_degree):
    for degree in range(max_degree + 1):
        table = _orders_of_paths(degree, max_degree)
        twice = torch.full((len(table), 1), 2**0.5, dtype=torch.float64)
        twice[0] = 1.0
        one = (twice * table) @ (twice * table).T
        assert torch.allclose(one, torch.eye(len(table)).double(), rtol=0, atol=1e-12)


def test_fewer_orders_are_a_tensor_product_too():
    torch.manual_seed(0)
    convolution = SO2Convolution(3, 1, IN, OUT).double().requires_grad_(False)
    arrows = directions()
    features = normal(len(arrows), 16, IN, seed=1)
    weights = path_weights(list(convolution.real), list(convolution.imaginary), 3)
    found = in_edge_frame(convolution, features, edge_frames(arrows))
    assert relative_error(found, by_e3nn(weights, features, arrows)) < 1e-12


def test_imaginary_weights_are_the_paths_that_mirrors_change():
    odd = torch.tensor([sum(path) % 2 == 1 for path in tensor_product_paths(3)])
    torch.manual_seed(0)
    convolution = SO2Convolution(3, 3, IN, OUT, mirror=True).double().requires_grad_(False)
    weights = path_weights(list(convolution.real), (), 3)
    assert float(weights[odd].abs().max()) < 1e-15
    assert float(weights[~odd].abs().min(0).values.max()) > 1e-3
    weights = normal(len(odd), IN, OUT)
    weights[~odd] = 0.0
    real, imaginary = order_weights(weights, 3)
    assert max(float(part.abs().max()) for part in real) < 1e-15
    assert min(float(part.abs().max()) for part in imaginary) > 1e-3


def test_building_an_equal_convolution_draws_nothing():
    weights = normal(6, IN, OUT)
    torch.manual_seed(0)
    convolution = equal_convolution(weights, 1)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))
    names = ["bias", "real.0", "real.1", "imaginary.0"]
    assert [name for name, _ in convolution.named_parameters()] == names
    assert all(p.requires_grad and p.dtype is weights.dtype for p in convolution.parameters())
    own = list(convolution.real), list(convolution.imaginary)
    assert torch.allclose(path_weights(*own, 1), weights, rtol=0, atol=1e-12)


def test_gradients_pass():
    weights = normal(len(tensor_product_paths(1)), 1, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: torch.cat(order_weights(w, 1)[0][:1]), (weights,))
    assert torch.autograd.gradcheck(lambda w: path_weights(*order_weights(w, 1), 1), (weights,))


def test_paths():
    assert tensor_product_paths(1) == [
        (0, 0, 0), (0, 1, 1), (1, 1, 0), (1, 0, 1), (1, 1, 1), (1, 2, 1)
    ]  # fmt: skip
    with pytest.raises(ValueError, match="max_degree"):
        tensor_product_paths(-1)


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="6 paths"):
        order_weights(normal(5, IN, OUT), 1)
    real, imaginary = order_weights(normal(6, IN, OUT), 1)
    with pytest.raises(ValueError, match="1 to 1 real matrices"):
        path_weights(real, imaginary, 0)
    with pytest.raises(ValueError, match="got 2 and 2"):
        path_weights(real, [*imaginary, imaginary[0]], 1)
    with pytest.raises(ValueError, match="imaginary matrix of order 1 must be"):
        path_weights(real, [imaginary[0].T], 1)
