"""What a propagator must keep: the way back, momenta, and volume in phase space."""

from __future__ import annotations

import torch
from torch import Tensor

from egno_md.propagators.learned import LearnedPropagator, molecule_graph
from egno_md.propagators.reversible_maps import reversal_error_A as reversal_error_A
from egno_md.roles import Propagator
from egno_md.state import State


def momentum_changes(propagator: Propagator, start: State) -> tuple[float, float]:
    """Change of the total momentum and of the angular momentum about the origin over a segment.

    Both relative to what there is to lose: the sum of the sizes of the atoms' own momenta.

    Args:
        propagator: made for the molecule.
        start: float64, not periodic.

    Returns:
        The largest relative changes of all replicas, linear and angular.
    """
    end = propagator.advance(start).last
    changes = []
    for of in (_momenta, _angular_momenta):
        before, after = of(start), of(end)
        lost = (after.sum(1) - before.sum(1)).norm(dim=-1)
        changes.append(float((lost / before.norm(dim=-1).sum(1)).max()))
    return changes[0], changes[1]


def _momenta(state: State) -> Tensor:
    """Momentum of every atom, `(n_replicas, n_atoms, 3)`, amu Å/fs."""
    return state.molecule.masses[:, None] * state.velocities.double()


def _angular_momenta(state: State) -> Tensor:
    found: Tensor = torch.linalg.cross(state.positions.double(), _momenta(state))
    return found


def phase_space_jacobian(propagator: LearnedPropagator, start: State) -> Tensor:
    """Derivative of one application of the map with respect to its start.

    Coordinates are q = sqrt(m) x and p = sqrt(m) v, in which symplectic means J^T W J = W
    with W = [[0, 1], [-1, 0]].

    Args:
        propagator: float64.
        start: its first replica is the point.

    Returns:
        `(6 n_atoms, 6 n_atoms)` float64.

    Raises:
        ValueError: if the molecule is periodic.
    """
    molecule = start.molecule
    graph = molecule_graph(molecule, propagator.model)
    root = molecule.masses.sqrt()[:, None]
    shape = (2, 1, molecule.n_atoms, 3)

    def mapped(flat: Tensor) -> Tensor:
        x, v = flat.view(shape) / root
        end_x, end_v = propagator.model.advance(x, v, graph, 1)
        return torch.stack([root * end_x, root * end_v]).reshape(-1)

    here = root * torch.stack([start.positions[:1], start.velocities[:1]]).double()
    # Gradients of gradients exist only in training mode; nothing else of the network depends on it.
    propagator.model.train()
    try:
        rows = torch.autograd.functional.jacobian(mapped, here.reshape(-1))  # type: ignore[no-untyped-call]
    finally:
        propagator.model.eval()
    found: Tensor = rows
    return found


def volume_error(jacobian: Tensor) -> float:
    """|det J - 1|: 0 where the map preserves volume.

    Args:
        jacobian: `(n, n)` float64.
    """
    sign, logarithm = torch.linalg.slogdet(jacobian)
    return float(torch.expm1(logarithm).abs()) if float(sign) > 0 else float("inf")


def symplectic_error(jacobian: Tensor) -> float:
    """Largest entry of J^T W J - W: 0 where the map is symplectic.

    Args:
        jacobian: `(2 n, 2 n)` float64, positions first.
    """
    half = jacobian.shape[0] // 2
    one, zero = torch.eye(half).to(jacobian), torch.zeros(half, half).to(jacobian)
    form = torch.cat([torch.cat([zero, one], 1), torch.cat([-one, zero], 1)])
    return float((jacobian.T @ form @ jacobian - form).abs().max())
