"""Are forces true derivatives, of the right order, and the second derivatives symmetric?

| check | number |
|---|---|
| force_convergence | factor by which a difference quotient comes nearer per decade of the step |
| hessian_asymmetry | largest difference of H from its transpose, eV/Å^2 |
| single_precision_error | largest change of F in float32, eV/Å |
"""

from __future__ import annotations

import torch
from torch import Tensor

from egno_md.roles import Potential
from egno_md.state import State
from egno_md.testing.potential_checks import force_error


def force_convergence(
    potential: Potential,
    state: State,
    steps_A: tuple[float, float] = (1e-2, 1e-3),
    directions: Tensor | None = None,
) -> float:
    """Factor by which the plain difference quotient nears the force when the step shrinks.

    The quotient's own error goes with the square of the step: 100 per decade, until rounding.

    Args:
        potential: what to check.
        state: float64.
        steps_A: the two steps, the larger first; the factor is given for a decade.
        directions: what is moved, as in `force_error`.
    """
    large, small = (
        force_error(potential, state, step, order=2, directions=directions) for step in steps_A
    )
    decades = torch.log10(torch.tensor(steps_A[0] / steps_A[1])).item()
    return float((large / max(small, 1e-300)) ** (1.0 / decades))


def hessian(potential: Potential, state: State, step_A: float = 1e-4) -> Tensor:
    """Second derivatives of the energy by five-point differences of forces.

    Args:
        potential: what to differentiate.
        state: float64; its first replica is used.
        step_A: half the distance between the two inner forces.

    Returns:
        `(3 n_atoms, 3 n_atoms)` float64, eV/Å^2; row: the coordinate that is moved.
    """
    one = state.replica(0)
    n = 3 * one.molecule.n_atoms
    moves = torch.eye(n, dtype=torch.float64).view(n, -1, 3)

    def forces(factor: float) -> Tensor:
        x = one.positions.double() + factor * step_A * moves
        cell = None if one.cell is None else one.cell.expand(n, 3, 3)
        v = torch.zeros_like(x)
        moved = State(one.molecule, x, v, one.time_fs, cell)
        return potential.evaluate(moved).forces.double().flatten(1)

    inner = (forces(1.0) - forces(-1.0)) / (2.0 * step_A)
    outer = (forces(2.0) - forces(-2.0)) / (4.0 * step_A)
    return -(4.0 * inner - outer) / 3.0


def hessian_asymmetry(potential: Potential, state: State) -> float:
    """Largest difference of the Hessian from its transpose, eV/Å^2.

    Args:
        potential: what to check.
        state: float64; its first replica is used.
    """
    found = hessian(potential, state)
    return float((found - found.T).abs().max())


def single_precision_error(double: Potential, single: Potential, state: State) -> float:
    """Largest change of a force (eV/Å) when the same network computes in float32.

    Args:
        double: computes in float64.
        single: computes in float32.
        state: float64.
    """
    exact, rounded = double.evaluate(state).forces, single.evaluate(state).forces
    return float((exact.double() - rounded.double()).abs().max())
