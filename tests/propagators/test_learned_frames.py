from __future__ import annotations

import pytest
import torch

from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.models.periodic_pairs import periodic_graph
from egno_md.propagators import learned_frames
from egno_md.propagators.learned import LearnedPropagator
from egno_md.propagators.learned_frames import NearFrames
from egno_md.state import Molecule, State, maxwell_boltzmann

PERIODIC = (True, True, True)
MONOMER = torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]).double()


def network(n_stages: int = 2) -> HamiltonianEGNO:
    classes = [(1, 1, 2), (1, 1, 4), (1, 8, 1), (1, 8, 4), (8, 8, 4)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HamiltonianEGNO(
            [1, 8], classes, n_stages=n_stages, n_hidden=8, n_vectors=3, cutoff_A=4.0
        )
        with torch.no_grad():
            model.readout[2].weight.normal_(std=0.5)
            model.pair_terms[:, 1].normal_(0.01, 0.005)
    model.distance_mean.copy_(torch.tensor([1.5, 2.5, 0.96, 2.5, 2.8]))
    model.distance_spread.copy_(torch.tensor([0.1, 0.5, 0.05, 0.5, 0.4]))
    return model.double().eval().requires_grad_(False)


def box(n_replicas: int = 2, temperature_K: float = 300.0) -> State:
    """Eight waters in a cell that is not at right angles."""
    g = torch.Generator().manual_seed(4)
    grid = torch.cartesian_prod(*[torch.arange(2).double()] * 3) / 2
    cell = 6.8 * torch.tensor([[1.0, 0, 0], [0.15, 1, 0], [-0.1, 0.2, 1]]).double()
    turns = torch.linalg.qr(torch.randn(8, 3, 3, generator=g).double()).Q
    x = ((grid @ cell)[:, None] + MONOMER @ turns).reshape(1, -1, 3).repeat(n_replicas, 1, 1)
    x = x + 0.03 * torch.randn(x.shape, generator=g, dtype=torch.float64)
    bonds = [(3 * k, 3 * k + h) for k in range(8) for h in (1, 2)]
    waters = Molecule.from_numbers([8, 1, 1] * 8, bonds=bonds, pbc=PERIODIC)
    v = maxwell_boltzmann(waters, n_replicas, temperature_K, g)
    return State(waters, x, v, 0.0, cell.expand(n_replicas, 3, 3))


def propagator(n_frames: int = 4, skin_A: float = 1.0, n_stages: int = 2) -> LearnedPropagator:
    return LearnedPropagator(
        network(n_stages), box().molecule, n_frames=n_frames, dtype=torch.float64, skin_A=skin_A
    )


@pytest.mark.parametrize("n_stages", [2, 3])
def test_flipped_velocities_lead_back(n_stages: int) -> None:
    go, state = propagator(n_stages=n_stages), box()
    end = go.advance(state).last
    back = go.advance(end.with_(velocities=-end.velocities)).last
    assert (end.velocities - state.velocities).abs().max().item() > 0.01
    torch.testing.assert_close(back.positions, state.positions, rtol=0, atol=1e-10)
    torch.testing.assert_close(-back.velocities, state.velocities, rtol=0, atol=1e-11)


def test_momentum_is_conserved_at_frames_and_between() -> None:
    state = box()
    m = state.molecule.masses[:, None]
    before = (m * state.velocities).sum(1)
    segment = propagator().at_times(state, [0.7, 4.0, 9.1, 16.0])
    after = (m * segment.velocities).sum(2)
    scale = (m * state.velocities).abs().sum(1).max().item()
    torch.testing.assert_close(after, before[:, None].expand(-1, 4, -1), rtol=0, atol=1e-12 * scale)


def test_map_is_symplectic() -> None:
    # One water in a cell where it sees its own images.
    cell = 4.1 * torch.eye(3, dtype=torch.float64)[None]
    lone = Molecule.from_numbers([8, 1, 1], bonds=[(0, 1), (0, 2)], pbc=PERIODIC)
    model = network()
    graph = periodic_graph(model, lone, MONOMER[None], cell, 1.0)
    v = maxwell_boltzmann(lone, 1, 300.0, torch.Generator().manual_seed(0))
    masses = lone.masses.repeat_interleave(3)

    def flow(phase: torch.Tensor) -> torch.Tensor:
        model.train()  # keeps the graph of the forces
        x1, v1 = model.advance(
            phase[:9].view(1, 3, 3), (phase[9:] / masses).view(1, 3, 3), graph, 1
        )
        return torch.cat([x1.flatten(), v1.flatten() * masses])

    phase = torch.cat([MONOMER.flatten(), v.flatten() * masses])
    jacobian = torch.autograd.functional.jacobian(flow, phase)
    zero, one = torch.zeros(9, 9).double(), torch.eye(9).double()
    omega = torch.cat([torch.cat([zero, one], 1), torch.cat([-one, zero], 1)])
    torch.testing.assert_close(jacobian.T @ omega @ jacobian, omega, rtol=0, atol=1e-10)
    assert torch.linalg.det(jacobian).item() == pytest.approx(1.0, abs=1e-10)
    assert (jacobian - torch.eye(18).double()).abs().max().item() > 0.1


def test_replicas_move_as_if_alone() -> None:
    state, go = box(3), propagator()
    together, alone = go.advance(state), go.advance(state.replica(1))
    torch.testing.assert_close(together.positions[1:2], alone.positions, rtol=0, atol=1e-11)


def test_order_of_molecules_does_not_matter() -> None:
    state = box(1)
    order = torch.tensor([5, 2, 7, 0, 1, 6, 3, 4])
    atoms = (3 * order[:, None] + torch.arange(3)).flatten()
    first = propagator().advance(state)
    second = propagator().advance(
        state.with_(positions=state.positions[:, atoms], velocities=state.velocities[:, atoms])
    )
    torch.testing.assert_close(second.positions, first.positions[:, :, atoms], rtol=0, atol=1e-11)


def test_wrapped_and_turned_starts_give_the_same_path() -> None:
    state, go = box(), propagator()
    first = go.advance(state)
    x = state.positions.clone()
    away = 2 * state.cell[:, 0] - state.cell[:, 2]
    x[:, 7] += away
    wrapped = go.advance(state.with_(positions=x))
    moved = wrapped.positions.clone()
    moved[:, :, 7] -= away[:, None]
    torch.testing.assert_close(moved, first.positions, rtol=0, atol=1e-11)
    g = torch.Generator().manual_seed(1)
    q = torch.linalg.qr(torch.randn((3, 3), generator=g, dtype=torch.float64)).Q
    turned = go.advance(
        state.with_(
            positions=state.positions @ q, velocities=state.velocities @ q, cell=state.cell @ q
        )
    )
    torch.testing.assert_close(turned.positions, first.positions @ q, rtol=0, atol=1e-10)


def test_paths_are_not_wrapped() -> None:
    state = box(1)
    v = state.velocities + torch.tensor([0.02, -0.05, 0.0])
    path = propagator(n_frames=30).advance(state.with_(velocities=v)).positions
    whole = torch.cat((state.positions[:, None], path), 1)
    # All drift by more than half a cell, none jumps.
    assert (whole[:, -1] - whole[:, 0])[..., 1].abs().min().item() > 3.4
    assert whole.diff(dim=1).abs().max().item() < 1.0


def test_pairs_are_looked_up_again_where_atoms_move_beyond_the_skin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    make = learned_frames.periodic_graph

    def counted(*given, **options):
        made.append(1)
        return make(*given, **options)

    monkeypatch.setattr(learned_frames, "periodic_graph", counted)
    state = box(temperature_K=600.0)
    wide = propagator(n_frames=6, skin_A=4.0).advance(state)
    assert len(made) == 1
    for skin_A, at_least in ((1.0, 3), (0.25, 8)):
        # The second is too thin for single steps and has to grow.
        made.clear()
        thin = propagator(n_frames=6, skin_A=skin_A).advance(state)
        assert len(made) >= at_least
        torch.testing.assert_close(thin.positions, wide.positions, rtol=0, atol=1e-11)


def test_a_replica_that_flies_apart_is_lost_alone() -> None:
    state = box(3)
    v = state.velocities.clone()
    v[1, 4] += 1.0
    segment = propagator(n_frames=3).advance(state.with_(velocities=v))
    assert segment.positions[1].isnan().all()
    expected = propagator(n_frames=3).advance(state)
    for r in (0, 2):
        torch.testing.assert_close(segment.positions[r], expected.positions[r], rtol=0, atol=1e-11)
    all_lost = propagator(n_frames=3).advance(state.with_(velocities=v + 1.0))
    assert all_lost.positions.shape[1] == 3
    assert all_lost.velocities.isnan().all()


def test_a_float32_network_follows_the_float64_one() -> None:
    state = box()
    exact = propagator().advance(state)
    single = LearnedPropagator(network(), state.molecule, n_frames=4).advance(state)
    assert single.positions.dtype == torch.float64
    assert (single.positions - exact.positions).abs().max().item() < 1e-4


@pytest.mark.parametrize("skin_A", [0.0, -1.0, float("nan")])
def test_a_skin_without_thickness_is_refused(skin_A: float) -> None:
    with pytest.raises(ValueError, match="skin_A is"):
        NearFrames(network(), skin_A)
