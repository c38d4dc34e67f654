"""The published eSCN: the same as its plain statement, and its symmetries.

That its numbers are the published ones is tested in tests/testing/test_escn_parity.py.
"""

from __future__ import annotations

import pytest
import torch

from egno_md.benchmarks.plain_escn import PlainESCN
from egno_md.models.edge_frame import edge_frames
from egno_md.models.escn import ESCN
from egno_md.models.escn_layer import SO2Block
from egno_md.models.so2_convolution import edge_order
from egno_md.models.wigner import WignerMatrices, stack_blocks

SIZES = [(2, 2, 2), (4, 2, 2), (6, 3, 1), (1, 0, 2), (3, 3, 2), (5, 1, 1)]


def model(degree=4, order=2, layers=2, seed=0, **more):
    torch.manual_seed(seed)
    net = ESCN(
        max_degree=degree,
        max_order=order,
        n_layers=layers,
        channels=6,
        hidden_channels=8,
        edge_channels=5,
        n_gaussians=40,
        n_elements=10,
        cutoff_A=5.0,
        **more,
    )
    # Larger than they start, so that every layer and every part of it matters.
    for name, table in net.named_parameters():
        if "edge_block" in name and "embedding" in name:
            torch.nn.init.normal_(table)
        elif name.startswith("layer_blocks") and table.ndim == 2:
            torch.nn.init.normal_(table, std=2.0 / table.shape[1] ** 0.5)
        elif "_block.fc" in name and table.ndim == 2:
            torch.nn.init.normal_(table, std=1.0)
    return net.double().eval().requires_grad_(False)


def cluster(n=7, seed=1):
    """Positions, numbers, edges within 4.5 Å and zero shifts."""
    draw = torch.Generator().manual_seed(seed)
    positions = 1.3 * torch.randn((n, 3), generator=draw, dtype=torch.float64)
    numbers = torch.randint(1, 10, (n,), generator=draw)
    apart = torch.cdist(positions, positions).fill_diagonal_(9.0)
    source, target = (apart < 4.5).nonzero(as_tuple=True)
    edges = torch.stack((source, target))
    return positions, numbers, edges, positions.new_zeros((len(source), 3))


def run(net, positions, numbers, edges, shifts, frames=None):
    graph = torch.zeros_like(numbers)
    return net(positions, numbers, edges, shifts, graph, 1, frames)


def turn(seed=3):
    draw = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn((3, 3), generator=draw, dtype=torch.float64))
    return q * torch.linalg.det(q)


@pytest.mark.parametrize(("degree", "order", "layers"), SIZES)
def test_it_is_what_the_paper_states_step_by_step(degree, order, layers):
    net = model(
        degree,
        order,
        layers,
        energy_scale_eV=2.9,
        energy_shift_eV=-0.8,
        force_scale_eV_A=1.7,
        reference_energies_eV=[0.1 * z for z in range(10)],
    )
    energy, forces = run(net, *cluster())
    plain_energy, plain_forces = run(PlainESCN(net), *cluster())
    assert energy.dtype == torch.float64
    assert torch.allclose(energy, plain_energy, rtol=1e-12, atol=1e-12)
    assert torch.allclose(
        forces, plain_forces, rtol=0, atol=1e-12 * float(plain_forces.abs().max())
    )
    assert float(forces.abs().max()) > 1e-4


def test_float32_is_close_and_constants_lose_no_digit():
    net = model()
    exact_energy, exact_forces = run(net, *cluster())
    single = model().float()
    energy, forces = run(single, *cluster())
    scale = float(exact_forces.abs().max())
    assert forces.dtype == torch.float32
    assert float((forces - exact_forces).abs().max()) < 1e-5 * scale
    assert float((energy - exact_energy).abs().max()) < 1e-5 * float(exact_energy.abs().max())
    again = single.double().grids()
    for name in ("edge_to", "edge_from", "atom_to", "atom_from"):
        assert torch.equal(getattr(again, name), getattr(net.grids(), name))


def test_messages_turn_with_the_structure_and_its_frames():
    net, (positions, numbers, edges, shifts) = model(), cluster()
    q = turn()
    arrows = positions[edges[0]] - positions[edges[1]]
    frames = edge_frames(arrows / arrows.norm(dim=1, keepdim=True))
    draw = torch.Generator().manual_seed(5)
    features = torch.randn((len(numbers), 25, 6), generator=draw, dtype=torch.float64)
    wigner = WignerMatrices(4).double()
    whole = stack_blocks(wigner(q[None]), torch.arange(25))[0]
    block = net.layer_blocks[1].message_block
    before = block(features, net.edges(positions, numbers, edges, shifts, frames), net.grids())
    moved = net.edges(positions @ q.T, numbers, edges, shifts, frames @ q.T)
    after = block(whole @ features, moved, net.grids())
    assert float(before.abs().max()) > 1e-3
    assert torch.allclose(after, whole @ before, rtol=0, atol=1e-12 * float(before.abs().max()))


def test_a_convolution_commutes_with_a_roll_about_the_edge():
    torch.manual_seed(2)
    block = SO2Block(4, 2, 3, 8, 5).double().requires_grad_(False)
    rows = torch.tensor(edge_order(4, 2)[0])
    angle = torch.tensor(0.7).double()
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros(()), torch.ones(())
    roll = torch.stack((c, zero, s, zero, one, zero, -s, zero, c)).double().view(1, 3, 3)
    matrix = stack_blocks(WignerMatrices(4).double()(roll), rows)[0][:, rows]
    draw = torch.Generator().manual_seed(5)
    parts = torch.randn((9, len(rows), 3), generator=draw, dtype=torch.float64)
    edge = torch.randn((9, 5), generator=draw, dtype=torch.float64)
    assert float((matrix - torch.eye(len(rows)).double()).abs().max()) > 0.5
    assert torch.allclose(block(matrix @ parts, edge), matrix @ block(parts, edge), atol=1e-13)


def test_grids_let_a_little_of_a_roll_through_from_the_second_layer_on():
    # One layer sees no m > 0 input, so the roll cannot matter; two layers show the aliasing.
    arrows = cluster()[0][cluster()[2][0]] - cluster()[0][cluster()[2][1]]
    frames = edge_frames(arrows / arrows.norm(dim=1, keepdim=True))
    roll = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]], dtype=torch.float64)
    differences = []
    for layers in (1, 2):
        net = model(2, 1, layers)
        energies = [float(run(net, *cluster(), frames=f)[0]) for f in (frames, roll @ frames)]
        differences.append(abs(energies[0] - energies[1]) / abs(energies[0]))
    assert differences[0] < 1e-13
    assert differences[1] > 1e-11


def test_order_of_atoms_and_place_in_space_do_not_matter():
    net, (positions, numbers, edges, shifts) = model(), cluster()
    energy, forces = run(net, positions, numbers, edges, shifts)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    where = order.argsort()
    moved = run(net, positions[order] + 4.0, numbers[order], where[edges], shifts)
    assert torch.allclose(moved[0], energy, rtol=1e-12, atol=0)
    assert torch.allclose(moved[1], forces[order], rtol=0, atol=1e-12)


def test_graphs_of_a_batch_do_not_see_each_other():
    net, first, second = model(), cluster(5, 1), cluster(6, 2)
    alone = [run(net, *given) for given in (first, second)]
    joined = [
        torch.cat((first[0], second[0])),
        torch.cat((first[1], second[1])),
        torch.cat((first[2], second[2] + 5), 1),
        torch.cat((first[3], second[3])),
    ]
    batch = torch.tensor([0] * 5 + [1] * 6)
    energy, forces = net(*joined, batch, 2)
    assert torch.allclose(energy, torch.cat([e for e, _ in alone]), rtol=1e-12, atol=0)
    assert torch.allclose(forces, torch.cat([f for _, f in alone]), rtol=0, atol=1e-12)


def test_an_atom_alone_is_fine():
    positions = torch.zeros((1, 3), dtype=torch.float64)
    none = torch.zeros((2, 0), dtype=torch.int64)
    energy, forces = run(model(), positions, torch.tensor([8]), none, positions[:0])
    assert bool(torch.isfinite(energy).all())
    assert forces.shape == (1, 3)


def test_it_is_built_again_from_its_architecture():
    net = model(elements=[1, 8], reference_energies_eV=[float(z) for z in range(10)])
    again = ESCN.from_architecture(net.architecture())
    assert again.architecture() == net.architecture()
    assert again.elements == (1, 8)
    assert again.cutoff_A == 5.0
    with pytest.raises(ValueError, match="'escn-md', ESCN needs"):
        ESCN.from_architecture({"name": "escn-md"})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"max_degree": 12}, "max_degree must be a whole number from 1 to 11, got 12"),
        ({"max_degree": 2, "max_order": 3}, "max_order 3 is above max_degree 2"),
        ({"channels": 0}, "channels"),
        ({"n_layers": True}, "n_layers must be a whole number"),
        ({"cutoff_A": -1.0}, "cutoff_A must be positive"),
        ({"basis_width": float("nan")}, "basis_width must be positive"),
        ({"energy_shift_eV": float("inf")}, "energy_shift_eV must be finite"),
        ({"reference_energies_eV": [1.0]}, "none, or 90 finite numbers"),
        ({"elements": [0, 1]}, "atomic numbers from 1 to 89"),
        ({"elements": []}, "atomic numbers from 1 to 89"),
    ],
)
def test_settings_that_do_not_fit_are_named(given, words):
    with pytest.raises(ValueError, match=words):
        ESCN(**{"n_layers": 1, "channels": 4, "hidden_channels": 4, "max_degree": 2} | given)
