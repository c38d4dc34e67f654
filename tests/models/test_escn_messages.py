"""Fast messages of the published eSCN are the plain ones."""

from __future__ import annotations

import copy

import pytest
import torch

from egno_md.benchmarks.plain_escn import PlainESCN
from egno_md.models import escn_messages
from egno_md.models.escn import ESCN
from egno_md.models.escn_messages import convolve, pack

SIZES = [(4, 2), (2, 2), (3, 0), (6, 3)]


def network(degree=4, order=2):
    torch.manual_seed(0)
    net = ESCN(
        max_degree=degree,
        max_order=order,
        n_layers=2,
        channels=4,
        hidden_channels=6,
        edge_channels=5,
        n_gaussians=30,
        n_elements=10,
        cutoff_A=5.0,
    )
    for name, weight in net.named_parameters():
        if "fc" in name and weight.ndim == 2:
            torch.nn.init.normal_(weight, std=2.0 / weight.shape[1] ** 0.5)
    return net.double()


def given(n=8):
    draw = torch.Generator().manual_seed(1)
    positions = 1.5 * torch.randn((n, 3), generator=draw, dtype=torch.float64)
    edges = (~torch.eye(n, dtype=torch.bool)).nonzero().T
    numbers = torch.randint(1, 10, (n,), generator=draw)
    return positions, numbers, edges, positions.new_zeros((edges.shape[1], 3))


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def close(ours, wanted):
    return torch.allclose(ours, wanted, rtol=0, atol=1e-13 * float(wanted.abs().max()))


@pytest.mark.parametrize(("degree", "order"), SIZES)
def test_both_convolutions_at_once_are_the_two_one_by_one(degree, order):
    net = network(degree, order).requires_grad_(False)
    block = net.layer_blocks[1].message_block
    edge = drawn(11, 5)
    sent, kept = drawn(2, 11, len(net.edge_rows), 4)
    packed = pack(block)
    gates = torch.nn.functional.silu(edge @ packed.gate_weight + packed.gate_bias)
    wanted = block.so2_block_source(sent, edge) + block.so2_block_target(kept, edge)
    assert close(convolve(packed, sent, kept, gates), wanted)
    only = block.so2_block_source(sent, edge)
    assert close(convolve(packed, sent, torch.zeros_like(kept), gates), only)


@pytest.mark.parametrize(("degree", "order"), SIZES)
def test_scalars_alone_give_what_the_full_way_gives(degree, order):
    net = network(degree, order).requires_grad_(False)
    edges, start = net.edges(*given()), net.start(given()[1])
    block = net.layer_blocks[0].message_block
    full = block(start, edges, net.grids())
    assert float(full[:, 1:].abs().max()) > 1e-3
    assert close(block(start, edges, net.grids(), scalars_only=True), full)


@pytest.mark.parametrize("at_once", [1, 7, 56, 1000])
def test_pieces_leave_no_trace(monkeypatch, at_once):
    net = network().requires_grad_(False)
    edges, features = net.edges(*given()), drawn(8, 25, 4)
    block = net.layer_blocks[1].message_block
    whole = block(features, edges, net.grids())
    monkeypatch.setattr(escn_messages, "EDGES_AT_ONCE", at_once)
    assert close(block(features, edges, net.grids()), whole)


def test_no_edges_give_no_messages():
    net = network().requires_grad_(False)
    positions, numbers, edges, shifts = given()
    none = net.edges(positions, numbers, edges[:, :0], shifts[:0])
    features = drawn(8, 25, 4)
    received = net.layer_blocks[1].message_block(features, none, net.grids())
    assert received.shape == features.shape
    assert float(received.abs().max()) == 0.0


def test_frozen_weights_give_the_same_and_follow_what_is_loaded():
    net, other = network(), network()
    graph = torch.zeros(8, dtype=torch.int64)
    before = net(*given(), graph, 1)[1].detach()
    net.freeze()
    assert not any(p.requires_grad for p in net.parameters())
    assert all(layer.message_block.packed is not None for layer in net.layer_blocks)
    assert torch.equal(net(*given(), graph, 1)[1], before)
    assert torch.equal(copy.deepcopy(net)(*given(), graph, 1)[1], before)
    with torch.no_grad():
        for weight in other.parameters():
            weight *= 1.1
    net.load_state_dict(other.state_dict())
    wanted = other(*given(), graph, 1)[1].detach()
    assert torch.equal(net(*given(), graph, 1)[1], wanted)
    assert float((wanted - before).abs().max()) > 1e-3
    net.freeze()
    single = net.float()(*given(), graph, 1)[1]
    assert single.dtype == torch.float32
    assert float((single - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())


def test_every_weight_learns():
    net = network()
    energy, forces = net(*given(), torch.zeros(8, dtype=torch.int64), 1)
    (energy.sum() + forces.square().sum()).backward()
    for name, weight in net.named_parameters():
        # The first layer sees elements only: its m > 0 parts have nothing to turn.
        silent = "layer_blocks.0" in name and "so2_conv" in name
        if weight.requires_grad and not silent:
            assert weight.grad is not None, name
            assert float(weight.grad.abs().max()) > 0.0, name


def test_gaussians_are_cut_where_rounding_has_hidden_them():
    net = network().requires_grad_(False)
    distances = torch.linspace(0.01, 5.0, 40).double()
    basis = net.distance_expansion(distances)
    centres = torch.linspace(0.0, 5.0, 30).double()
    exact = torch.exp(-0.5 * ((distances[:, None] - centres) / (2.0 * 5.0 / 29)) ** 2)
    assert float(basis.min()) > 1e-27
    assert torch.allclose(basis, exact, rtol=0, atol=1e-6)
    net.distance_expansion.offset = centres
    assert torch.allclose(net.distance_expansion(distances), exact, rtol=1e-13, atol=1e-26)


def test_the_plain_way_shares_the_weights():
    net = network().requires_grad_(False)
    plain, graph = PlainESCN(net), torch.zeros(8, dtype=torch.int64)
    net.energy_block.fc3.weight.mul_(2.0)
    ours, wanted = net(*given(), graph, 1), plain(*given(), graph, 1)
    assert torch.allclose(ours[0], wanted[0], rtol=1e-12, atol=0)
    assert close(ours[1], wanted[1])
