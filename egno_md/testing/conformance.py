"""Everything a bundle must obey, as one list of numbers with limits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from egno_md.bundle import Bundle
from egno_md.propagators.learned import LearnedPropagator
from egno_md.propagators.potential_bundles import potential_of
from egno_md.state import State
from egno_md.testing.cell_checks import in_a_cell, stress_error, supercell_error
from egno_md.testing.derivative_checks import (
    force_convergence,
    hessian_asymmetry,
    single_precision_error,
)
from egno_md.testing.dynamics_checks import energy_conservation, fluctuation_order, thermal
from egno_md.testing.potential_checks import (
    MOST_MOVED_ATOMS,
    CheckResult,
    check_potential,
    sampled_directions,
)
from egno_md.testing.propagator_checks import (
    momentum_changes,
    phase_space_jacobian,
    reversal_error_A,
    symplectic_error,
    volume_error,
)

#: Atoms of the largest supercell that is made.
_LARGEST_SUPERCELL = 8000


@dataclass(frozen=True, slots=True)
class CheckPlan:
    """How thoroughly a bundle is checked.

    Attributes:
        rattle_A: standard deviation of the displacements that make the geometries.
        length_ps: length of the runs at constant energy; 0 leaves them out.
        timestep_fs: their time step.
        n_replicas: their replicas.
        temperature_K: of their first velocities.
        seed: of everything random.
    """

    rattle_A: float = 0.05
    length_ps: float = 0.5
    timestep_fs: float = 0.25
    n_replicas: int = 4
    temperature_K: float = 300.0
    seed: int = 0


def check_bundle(bundle: Bundle, start: State, plan: CheckPlan | None = None) -> list[CheckResult]:
    """Check a bundle near a geometry.

    Args:
        bundle: a potential or an EGNO propagator.
        start: a geometry that the bundle is meant for; its first replica is used.
        plan: how thoroughly.

    Raises:
        ValueError: if the bundle and the geometry do not fit, or the dynamics fails.
    """
    plan = plan or CheckPlan()
    generator = torch.Generator().manual_seed(plan.seed)
    x = start.positions[:1].double().expand(2, -1, -1)
    x = x + plan.rattle_A * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    cell = None if start.cell is None else start.cell[:1].double().expand(2, 3, 3)
    state = State.at_rest(start.molecule, x, cell=cell)
    if bundle.card.kind == "egno":
        return list(_propagator_checks(bundle, thermal(state, 2, plan.temperature_K, plan.seed)))
    return [
        *_network_checks(bundle, state, generator),
        *(() if bundle.card.kind == "distance" else _cell_checks(bundle, state, generator)),
        *_dynamics_checks(bundle, start, plan),
    ]


def _network_checks(
    bundle: Bundle, state: State, generator: torch.Generator
) -> Iterator[CheckResult]:
    double = potential_of(bundle, dtype=torch.float64)
    single = potential_of(bundle, dtype=torch.float32)
    alone, cutoff_A = bundle.card.kind == "distance", bundle.card.cutoff_A
    yield from check_potential(
        double, state, cutoff_A=cutoff_A, one_molecule=alone, generator=generator
    )
    moved = sampled_directions(state, generator)
    per_decade = abs(math.log10(force_convergence(double, state, directions=moved)) - 2.0)
    yield CheckResult("quotient nears force 100 x per decade", per_decade, 0.1, "off log10")
    if state.molecule.n_atoms <= MOST_MOVED_ATOMS:
        yield CheckResult("Hessian symmetric", hessian_asymmetry(double, state), 1e-6, "eV/Å^2")
    for result in check_potential(
        single, state, single_precision=True, one_molecule=alone, generator=generator
    ):
        yield CheckResult(f"float32: {result.name}", result.value, result.limit, result.unit)
    rounding = single_precision_error(double, single, state)
    yield CheckResult("float32 against float64, forces", rounding, 1e-4, "eV/Å")


def _cell_checks(bundle: Bundle, state: State, generator: torch.Generator) -> Iterator[CheckResult]:
    double = potential_of(bundle, dtype=torch.float64)
    if not any(state.molecule.pbc):
        state = in_a_cell(state)
        for result in check_potential(double, state, generator=generator):
            yield CheckResult(f"in a cell: {result.name}", result.value, result.limit, result.unit)
    if not all(state.molecule.pbc):
        return
    yield CheckResult("stress = dE/d(strain)/V", stress_error(double, state), 1e-5, "eV/Å^3")
    repeats = 4 if 64 * state.molecule.n_atoms <= _LARGEST_SUPERCELL else 2
    energy, force = supercell_error(double, state, repeats)
    name = f"{repeats} x {repeats} x {repeats} supercell"
    yield CheckResult(f"{name}, energy per cell", energy, 1e-10, "eV")
    yield CheckResult(f"{name}, forces", force, 1e-10, "eV/Å")


def _dynamics_checks(bundle: Bundle, start: State, plan: CheckPlan) -> Iterator[CheckResult]:
    if plan.length_ps == 0.0:
        return
    state = thermal(start, plan.n_replicas, plan.temperature_K, plan.seed)
    double = potential_of(bundle, dtype=torch.float64)
    single = potential_of(bundle, dtype=torch.float32)
    dt, length = plan.timestep_fs, plan.length_ps
    exact = energy_conservation(double, state, timestep_fs=dt, length_ps=length)
    yield CheckResult("constant energy: drift", abs(exact.drift), 0.01, "meV/atom/ps")
    coarse = energy_conservation(double, state, timestep_fs=2.0 * dt, length_ps=length)
    order = abs(fluctuation_order(coarse, exact) - 2.0)
    yield CheckResult("constant energy: fluctuation ~ step^2", order, 0.2, "off the power")
    rounded = energy_conservation(single, state, timestep_fs=dt, length_ps=length)
    yield CheckResult("float32: constant energy: drift", abs(rounded.drift), 0.1, "meV/atom/ps")


def _propagator_checks(bundle: Bundle, state: State) -> Iterator[CheckResult]:
    propagator = LearnedPropagator.from_bundle(bundle, state.molecule, dtype=torch.float64)
    yield CheckResult("there and back", reversal_error_A(propagator, state), 1e-10, "Å")
    if any(state.molecule.pbc):
        return
    linear, angular = momentum_changes(propagator, state)
    yield CheckResult("momentum", linear, 1e-12, "relative")
    yield CheckResult("angular momentum", angular, 1e-12, "relative")
    if state.molecule.n_atoms <= MOST_MOVED_ATOMS:
        jacobian = phase_space_jacobian(propagator, state)
        yield CheckResult("volume: |det J - 1|", volume_error(jacobian), 1e-10, "")
        yield CheckResult("symplectic: J^T W J = W", symplectic_error(jacobian), 1e-10, "")
