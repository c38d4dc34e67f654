"""Symmetries, independence of the batch, and errors of the published EGNO.

That its numbers are the published ones is tested in tests/testing/test_parity.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from egno_md.models.egno import EGNO, PUBLISHED_DEFAULTS, graph_centres, time_embedding

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def model(*, trained: bool = False, **changes: object) -> EGNO:
    torch.manual_seed(5)
    arguments = {"num_timesteps": 6, "num_modes": 3} | changes
    return EGNO(3, 2, 2, 16, **arguments).double().requires_grad_(trained)


def inputs(n_graphs: int = 2, n: int = 5, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    row, col = torch.nonzero(~torch.eye(n, dtype=torch.bool)).unbind(1)
    shift = n * torch.arange(n_graphs).repeat_interleave(len(row))
    edges = torch.stack((row.repeat(n_graphs) + shift, col.repeat(n_graphs) + shift))
    graph = torch.arange(n_graphs).repeat_interleave(n)
    x = 2 * draw(n_graphs * n, 3)
    centres = graph_centres(x, graph, n_graphs)
    return x, draw(*x.shape), draw(len(x), 2), edges, draw(edges.shape[1], 2), centres


def turned(given: Inputs, matrix: Tensor, shift: Tensor) -> Inputs:
    x, v, s, edges, e, c = given
    return x @ matrix.T + shift, v @ matrix.T, s, edges, e, c @ matrix.T + shift


SYMMETRIES = {
    "rotation": lambda q: q * torch.linalg.det(q),
    "improper rotation": lambda q: -q * torch.linalg.det(q),
    "mirror": lambda _: torch.diag(torch.tensor([1.0, 1.0, -1.0]).double()),
    "inversion": lambda _: -torch.eye(3, dtype=torch.float64),
}


@pytest.mark.parametrize("name", SYMMETRIES)
@pytest.mark.parametrize("changes", [{}, {"norm": True}, {"use_time_conv": False}])
def test_it_is_equivariant_under_rotations_reflections_and_translations(
    name: str, changes: dict[str, object]
) -> None:
    net, given = model(**changes), inputs()
    generator = torch.Generator().manual_seed(1)
    random = torch.randn((3, 3), generator=generator, dtype=torch.float64)
    matrix = SYMMETRIES[name](torch.linalg.qr(random)[0])
    shift = torch.tensor([3.0, -20.0, 100.0], dtype=torch.float64)
    x, v, h = net(*given)
    new_x, new_v, new_h = net(*turned(given, matrix, shift))
    scale = float(x.abs().max())
    assert float((x - given[0]).abs().max()) > 0.1
    torch.testing.assert_close(new_x, x @ matrix.T + shift, rtol=0, atol=1e-11 * scale)
    torch.testing.assert_close(new_v, v @ matrix.T, rtol=0, atol=1e-11 * scale)
    torch.testing.assert_close(new_h, h, rtol=1e-9, atol=1e-11)


def test_float32_keeps_the_symmetry_to_rounding() -> None:
    net, given = model().float(), inputs()
    low = tuple(t.float() if t.is_floating_point() else t for t in given)
    matrix = -torch.linalg.qr(torch.randn((3, 3), generator=torch.Generator().manual_seed(8)))[0]
    x, _, _ = net(*low)
    new_x, _, _ = net(*turned(low, matrix, torch.zeros(3)))
    assert float((new_x - x @ matrix.T).abs().max() / x.abs().max()) < 1e-5


def test_nodes_may_be_numbered_in_any_order() -> None:
    net, (x, v, s, edges, e, c) = model(), inputs()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    place = torch.argsort(order)
    mixed = torch.randperm(edges.shape[1], generator=torch.Generator().manual_seed(3))
    other = net(x[order], v[order], s[order], place[edges][:, mixed], e[mixed], c[order])
    for new, old in zip(other, net(x, v, s, edges, e, c), strict=True):
        torch.testing.assert_close(new, old[:, order], rtol=1e-11, atol=1e-12)


def test_graphs_of_a_batch_do_not_see_each_other() -> None:
    net, given = model(), inputs(3)
    x, v, s, edges, e, c = given
    inside = (edges[0] >= 5) & (edges[0] < 10)
    part = slice(5, 10)
    alone = net(x[part], v[part], s[part], edges[:, inside] - 5, e[inside], c[part])
    for new, old in zip(alone, net(*given), strict=True):
        torch.testing.assert_close(new, old[:, part], rtol=1e-12, atol=1e-13)
    leaf = x.clone().requires_grad_()
    net(leaf, *given[1:])[0][:, part].sum().backward()
    assert leaf.grad is not None
    assert float(leaf.grad[part].abs().max()) > 0
    assert float(leaf.grad[:5].abs().max()) == 0.0
    assert float(leaf.grad[10:].abs().max()) == 0.0


def test_a_node_without_edges_only_follows_its_velocity() -> None:
    net = model(use_time_conv=False)
    x, v, s, edges, e, c = inputs(1)
    keep = (edges != 0).all(0)
    new_x, new_v, h = net(x, v, s, edges[:, keep], e[keep], c)
    moved = new_x[:, 0] - x[0]
    torch.testing.assert_close(torch.linalg.cross(moved, v[0].expand_as(moved)), 0 * moved)
    assert torch.equal(new_v[3], v)
    assert bool(torch.isfinite(h).all())


def test_without_any_edges_it_still_works() -> None:
    x, v, s, edges, e, c = inputs(1)
    out = model()(x, v, s, edges[:, :0], e[:0], c)
    assert all(bool(torch.isfinite(t).all()) for t in out)


def test_steps_are_clamped() -> None:
    net = model(use_time_conv=False)
    with torch.no_grad():
        for layer in net.layers:
            layer.coord_net.mlp[2].bias.fill_(1e6)
            layer.node_v_net.mlp[2].weight.zero_()
            layer.node_v_net.mlp[2].bias.zero_()
    given = inputs()
    moved = (net(*given)[0] - given[0]).abs()
    assert float(moved.max()) == pytest.approx(300.0, abs=1e-9)


def test_features_of_the_last_layer_reach_nothing() -> None:
    net = model(trained=True)
    net(*inputs())[0].square().sum().backward()
    dead = [n for n, p in net.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert dead == [f"layers.2.node_net.mlp.{i}.{k}" for i in (0, 2) for k in ("weight", "bias")]


def test_the_norm_option_hides_the_distance() -> None:
    x, v, s, edges, e, c = inputs(1)
    for norm, same in ((True, True), (False, False)):
        one = EGNO(1, 2, 2, 16, norm=norm, use_time_conv=False).double()
        near, far = one(x, v, s, edges, e, c)[2], one(2 * x, v, s, edges, e, c)[2]
        assert torch.allclose(near, far, rtol=1e-9) is same


def test_gradients_are_those_of_finite_differences() -> None:
    net, given = model(), inputs(1)
    x = given[0].clone().requires_grad_()

    def loss(positions: Tensor) -> Tensor:
        return net(positions, *given[1:])[0].square().mean()

    (grad,) = torch.autograd.grad(loss(x), x)
    step = torch.zeros_like(x)
    for i, axis in ((0, 0), (3, 2)):
        step[i, axis] = 1e-5
        numeric = (loss(given[0] + step) - loss(given[0] - step)) / 2e-5
        assert float(grad[i, axis]) == pytest.approx(float(numeric), rel=1e-6)
        step[i, axis] = 0.0


def test_the_architecture_is_json_and_makes_the_same_model() -> None:
    net = model(flat=True, time_emb_dim=9)
    text = json.dumps(net.architecture())
    again = EGNO.from_architecture(json.loads(text)).double()
    again.load_state_dict(net.state_dict())
    given = inputs()
    assert torch.equal(net(*given)[0], again(*given)[0])
    assert net.architecture()["name"] == "egno"
    short = {"name": "egno", "n_layers": 1, "in_node_nf": 1, "in_edge_nf": 2, "hidden_nf": 8}
    assert EGNO.from_architecture(short).num_timesteps == PUBLISHED_DEFAULTS["num_timesteps"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: model(num_modes=5), "num_modes is 5, but 6 time points have only 4"),
        (lambda: model(num_timesteps=1, num_modes=2), "1 time points have only 1"),
        (lambda: EGNO(0, 1, 1, 8), "n_layers must be an integer of at least 1, got 0"),
        (lambda: EGNO(1, 1, -1, 8), "in_edge_nf must be an integer of at least 0, got -1"),
        (lambda: EGNO(1, 1, 1, 8, time_emb_dim=2), "time_emb_dim"),
        (lambda: EGNO(1, 1, 1, "8"), "hidden_nf must be an integer of at least 1, got '8'"),
        (
            lambda: EGNO.from_architecture({"name": "egno", "hidden": 3}),
            r"unknown keys \['hidden'\]",
        ),
        (lambda: EGNO.from_architecture({"n_layers": 3}), r"missing keys \['in_node_nf'"),
    ],
)
def test_impossible_arguments_are_named(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("index", "name"),
    list(enumerate(["velocities", "velocities", "node_features", "edge_index", "edge_features"]))[
        1:
    ],
)
def test_wrong_shapes_are_named(index: int, name: str) -> None:
    given = list(inputs())
    given[index] = given[index][:-1]
    with pytest.raises(ValueError, match=f"{name} must have shape"):
        model()(*given)


def test_time_embedding_of_index_zero_and_of_an_odd_width() -> None:
    table = time_embedding(3, 9)
    assert table.shape == (3, 9)
    assert table[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0]
    assert float(table[2, 0]) == pytest.approx(0.909297427)
    assert float(table[2, 3]) == pytest.approx(2e-4)
    assert time_embedding(4, 0).shape == (4, 0)


def test_centres_of_graphs_of_different_sizes() -> None:
    x = torch.tensor([[0.0, 0, 0], [2, 0, 0], [0, 3, 0], [1, 1, 1]])
    centres = graph_centres(x, torch.tensor([0, 0, 2, 0]), 3)
    assert centres[0].tolist() == pytest.approx([1, 1 / 3, 1 / 3])
    assert torch.equal(centres[0], centres[3])
    assert centres[2].tolist() == [0, 3, 0]
