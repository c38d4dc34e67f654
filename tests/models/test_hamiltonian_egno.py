import math

import pytest
import torch
from torch import Tensor

from egno_md.bonds import bond_graph_distance
from egno_md.models.hamiltonian_egno import HamiltonianEGNO, smooth_cutoff
from egno_md.models.pair_classes import PairGraph, distance_statistics, pair_graph
from egno_md.state import Molecule

# Methanol-like: C, O, four H; with a full set of bond distances and two elements in pairs.
NUMBERS = torch.tensor([6, 8, 1, 1, 1, 1])
BONDS = torch.tensor([[0, 1], [0, 2], [0, 3], [0, 4], [1, 5]])
POSITIONS = torch.tensor(
    [
        [-0.05, 0.66, 0.0],
        [-0.05, -0.76, 0.0],
        [-1.09, 0.98, 0.0],
        [0.44, 1.07, 0.89],
        [0.44, 1.07, -0.89],
        [0.87, -1.06, 0.0],
    ],
    dtype=torch.float64,
)


def make(n_stages: int = 2, n_modes: int = 2, seed: int = 0) -> tuple[HamiltonianEGNO, PairGraph]:
    generator = torch.Generator().manual_seed(seed)
    apart = bond_graph_distance(6, BONDS, 4)
    frames = POSITIONS + 0.05 * torch.randn((50, 6, 3), generator=generator, dtype=torch.float64)
    classes, mean, spread = distance_statistics(frames, NUMBERS, apart)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = HamiltonianEGNO(
            [1, 6, 8], classes, n_stages=n_stages, n_modes=n_modes, n_hidden=12, n_vectors=4
        )
        with torch.no_grad():
            # Untrained networks hardly push; make every mode matter.
            model.readout[2].weight.normal_(std=0.3)
            model.pair_terms[:, 1].normal_(0.01, 0.005)
    model.distance_mean.copy_(mean)
    model.distance_spread.copy_(spread)
    masses = Molecule.from_numbers(NUMBERS).masses
    graph = pair_graph(NUMBERS, masses, apart, model.elements, model.classes)
    return model.double().eval(), graph


def start(n: int = 3, seed: int = 1) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = POSITIONS + 0.05 * torch.randn((n, 6, 3), generator=g, dtype=torch.float64)
    return x, 0.01 * torch.randn((n, 6, 3), generator=g, dtype=torch.float64)


def rotation(seed: int, improper: bool) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn((3, 3), generator=g, dtype=torch.float64)).Q
    q = q * torch.sign(torch.linalg.det(q))
    return -q if improper else q


@pytest.mark.parametrize("improper", [False, True])
def test_potentials_are_invariant_and_the_map_equivariant(improper: bool) -> None:
    model, graph = make()
    (x, v), r = start(), rotation(3, improper)
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    u = model.potentials(x, graph)
    torch.testing.assert_close(model.potentials(x @ r.T + shift, graph), u, rtol=1e-11, atol=1e-11)
    x1, v1 = model.advance(x, v, graph, 2)
    x2, v2 = model.advance(x @ r.T + shift, v @ r.T, graph, 2)
    torch.testing.assert_close(x2, x1 @ r.T + shift, rtol=0, atol=1e-10)
    torch.testing.assert_close(v2, v1 @ r.T, rtol=0, atol=1e-11)


def test_permuted_atoms_give_permuted_frames() -> None:
    model, graph = make()
    x, v = start()
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    inverse = torch.argsort(order)
    bonds = inverse[BONDS].sort(1).values
    masses = Molecule.from_numbers(NUMBERS[order]).masses
    apart = bond_graph_distance(6, bonds, 4)
    permuted = pair_graph(NUMBERS[order], masses, apart, model.elements, model.classes)
    x1, v1 = model.advance(x, v, graph, 1)
    x2, v2 = model.advance(x[:, order], v[:, order], permuted, 1)
    torch.testing.assert_close(x2, x1[:, :, order], rtol=0, atol=1e-11)
    torch.testing.assert_close(v2, v1[:, :, order], rtol=0, atol=1e-11)


def test_force_is_minus_the_gradient_at_every_stage() -> None:
    model, graph = make()
    x, _ = start(1)
    for stage in range(3):
        weights = model.stage_weights(stage).double()
        force = model.force(x, graph, stage)[0]
        for atom, axis in ((0, 0), (3, 2), (5, 1)):
            h = 1e-4
            plus, minus = x.clone(), x.clone()
            plus[0, atom, axis] += h
            minus[0, atom, axis] -= h
            up, down = ((model.potentials(p, graph) * weights).sum().item() for p in (plus, minus))
            assert force[atom, axis].item() == pytest.approx(
                -(up - down) / (2 * h), rel=1e-6, abs=1e-6
            )


@pytest.mark.parametrize("n_stages", [1, 2, 3, 4])
def test_map_is_reversible(n_stages: int) -> None:
    model, graph = make(n_stages, n_modes=n_stages // 2 + 1)
    x, v = start()
    x1, v1 = model.advance(x, v, graph, 3)
    x2, v2 = model.advance(x1[:, -1], -v1[:, -1], graph, 3)
    torch.testing.assert_close(x2[:, -1], x, rtol=0, atol=1e-11)
    torch.testing.assert_close(-v2[:, -1], v, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_stages", [2, 4])
def test_map_is_symplectic(n_stages: int) -> None:
    model, graph = make(n_stages, n_modes=n_stages // 2 + 1)
    model.requires_grad_(False)
    x, v = start(1)
    masses = graph.masses.repeat_interleave(3)

    def flow(phase: Tensor) -> Tensor:
        model.train()  # keeps the graph of the forces
        q, p = phase[:18], phase[18:]
        x1, v1 = model.advance(q.view(1, 6, 3), (p / masses).view(1, 6, 3), graph, 1)
        return torch.cat([x1.flatten(), v1.flatten() * masses])

    phase = torch.cat([x.flatten(), v.flatten() * masses])
    jacobian = torch.autograd.functional.jacobian(flow, phase)
    zero, one = torch.zeros(18, 18).double(), torch.eye(18).double()
    omega = torch.cat([torch.cat([zero, one], 1), torch.cat([-one, zero], 1)])
    torch.testing.assert_close(jacobian.T @ omega @ jacobian, omega, rtol=0, atol=1e-10)
    assert torch.linalg.det(jacobian).item() == pytest.approx(1.0, abs=1e-10)
    assert (jacobian - torch.eye(36).double()).abs().max().item() > 0.1


def test_momentum_and_angular_momentum_are_conserved() -> None:
    model, graph = make()
    x, v = start()
    m = graph.masses[:, None]
    x1, v1 = model.advance(x, v, graph, 4)
    momentum, turning = (m * v).sum(1), torch.linalg.cross(x, m * v).sum(1)
    torch.testing.assert_close(
        (m * v1[:, -1]).sum(1), momentum, rtol=0, atol=1e-12 * momentum.abs().max().item()
    )
    after = torch.linalg.cross(x1[:, -1], m * v1[:, -1]).sum(1)
    torch.testing.assert_close(after, turning, rtol=0, atol=1e-12 * turning.abs().max().item())
    assert (v1[:, -1] - v).abs().max().item() > 0.1 * v.abs().max().item()


def test_any_time_is_exact_at_frames_and_smooth_between() -> None:
    model, graph = make()
    x, v = start()
    frames, velocities = model.advance(x, v, graph, 3)
    times = torch.tensor([8.0, 0.0, 4.0 - 1e-6, 4.0, 4.0 + 1e-6, 12.0, 5.0], dtype=torch.float64)
    xs, vs = model.at_times(x, v, graph, times)
    assert torch.equal(xs[:, 1], x)
    assert torch.equal(vs[:, 1], v)
    for place, frame in ((3, 0), (0, 1), (5, 2)):
        assert torch.equal(xs[:, place], frames[:, frame])
        assert torch.equal(vs[:, place], velocities[:, frame])
    # Velocities are the slope of positions, through a frame as well.
    slope = (xs[:, 4] - xs[:, 2]) / 2e-6
    torch.testing.assert_close(slope, vs[:, 3], rtol=0, atol=1e-8)
    # Dense frames leave no gap.
    dense = torch.arange(0.0, 12.01, 0.05, dtype=torch.float64)
    path, speed = model.at_times(x, v, graph, dense)
    step = 0.025 * (speed[:, 1:] + speed[:, :-1])
    torch.testing.assert_close(path.diff(dim=1), step, rtol=0, atol=1e-5)


def test_any_time_keeps_symmetry_and_momentum() -> None:
    model, graph = make()
    (x, v), r = start(), rotation(5, improper=True)
    times = torch.tensor([0.3, 2.0, 5.7], dtype=torch.float64)
    xs, vs = model.at_times(x, v, graph, times)
    xr, vr = model.at_times(x @ r.T + 1.5, v @ r.T, graph, times)
    torch.testing.assert_close(xr, xs @ r.T + 1.5, rtol=0, atol=1e-11)
    torch.testing.assert_close(vr, vs @ r.T, rtol=0, atol=1e-12)
    m = graph.masses[:, None]
    momentum = (m * v).sum(1, keepdim=True).expand(-1, 3, -1)
    scale = momentum.abs().max().item()
    torch.testing.assert_close((m * vs).sum(2), momentum, rtol=0, atol=1e-12 * scale)


def test_chain_equals_single_steps() -> None:
    model, graph = make()
    x, v = start()
    xs, vs = model.advance(x, v, graph, 3)
    for k in range(3):
        one_x, one_v = model.advance(x, v, graph, 1)
        x, v = one_x[:, 0], one_v[:, 0]
        torch.testing.assert_close(x, xs[:, k], rtol=0, atol=1e-13)
        torch.testing.assert_close(v, vs[:, k], rtol=0, atol=1e-14)


def test_replicas_do_not_see_each_other() -> None:
    model, graph = make()
    x, v = start(5)
    together = model.advance(x, v, graph, 2)
    alone = model.advance(x[2:3], v[2:3], graph, 2)
    torch.testing.assert_close(together[0][2:3], alone[0], rtol=0, atol=1e-13)
    torch.testing.assert_close(together[1][2:3], alone[1], rtol=0, atol=1e-14)


def test_float32_network_keeps_float64_states() -> None:
    model, graph = make()
    x, v = start()
    exact = model.advance(x, v, graph, 1)
    single, _ = make()
    x1, v1 = single.float().advance(x, v, graph, 1)
    assert x1.dtype == torch.float64
    assert (x1 - exact[0]).abs().max().item() < 1e-5
    assert (v1 - exact[1]).abs().max().item() < 1e-5


def test_float32_states_follow_the_float64_ones() -> None:
    model, graph = make()
    x, v = start()
    exact = model.advance(x, v, graph, 2)
    x1, v1 = make()[0].float().advance(x.float(), v.float(), graph, 2)
    assert x1.dtype == v1.dtype == torch.float32
    assert (x1 - exact[0]).abs().max().item() < 2e-5
    assert (v1 - exact[1]).abs().max().item() < 2e-5


def test_training_reaches_the_weights_through_the_forces() -> None:
    model, graph = make()
    model.train()
    x, v = start()
    x1, v1 = model.advance(x, v, graph, 1)
    (x1.square().sum() + v1.square().sum()).backward()
    for name, weight in model.named_parameters():
        # A constant added to the energy moves nothing.
        if name == "readout.2.bias":
            continue
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        assert weight.grad.abs().max().item() > 0, name


def test_architecture_round_trip() -> None:
    model, graph = make()
    again = HamiltonianEGNO.from_architecture(model.architecture()).double().eval()
    again.load_state_dict(model.state_dict())
    x, _ = start()
    torch.testing.assert_close(again.potentials(x, graph), model.potentials(x, graph))


def test_too_many_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="n_modes is 3; 2 stages can tell apart 1 to 2"):
        HamiltonianEGNO([1], [(1, 1, 1)], n_modes=3)


def test_cutoff_is_flat_at_both_ends() -> None:
    d = torch.tensor([0.0, 4.0, 8.0, 9.0], dtype=torch.float64, requires_grad=True)
    values = smooth_cutoff(d, 8.0)
    assert values.tolist() == pytest.approx([1.0, 0.5, 0.0, 0.0])
    (slope,) = torch.autograd.grad(values.sum(), d)
    assert slope[[0, 2, 3]].abs().max().item() < 1e-12
    assert slope[1].item() == pytest.approx(-15 / 8 / 8.0)
    assert math.isfinite(values.sum().item())
