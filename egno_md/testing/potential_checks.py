"""Does a potential obey physics? Each check returns a number, small when it does.

| check | number |
|---|---|
| force_error | max abs of F + dE/dx, five-point central difference, eV/Å |
| rotation_error | max change of E (eV) and of turned-back F (eV/Å) over rotations |
| translation_error | the same for a shift of everything |
| permutation_error | the same for another order of the atoms |
| batch_error | the same for replicas alone and together |
| wrap_error | the same for atoms moved by whole cell vectors |
| extensivity_error | E of two far copies minus twice E, eV |
| net_force | max abs of the sum of forces, eV/Å |
| cutoff_jump | max change of F over a tiny step across the cutoff, eV/Å |
| repeat_error | max change on asking again: 0 means bit for bit |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from egno_md.roles import Potential
from egno_md.state import Molecule, State

#: Largest system whose every coordinate is moved to check the forces.
MOST_MOVED_ATOMS: Final = 40

#: Of a larger one: atoms that are moved alone, and directions that move all.
_SAMPLED_ATOMS: Final = 8
_SAMPLED_DIRECTIONS: Final = 8


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One number and what it may be.

    Attributes:
        name: what was checked.
        value: what was found.
        limit: what is allowed.
        unit: unit of both.
    """

    name: str
    value: float
    limit: float
    unit: str

    @property
    def passed(self) -> bool:
        """Whether the value is a number within the limit."""
        return math.isfinite(self.value) and self.value <= self.limit

    def __str__(self) -> str:
        """One line: name, value, limit, verdict."""
        verdict = "ok" if self.passed else "FAILED"
        return f"{self.name}: {self.value:.3g} {self.unit} (limit {self.limit:.3g}) {verdict}"


def force_error(
    potential: Potential,
    state: State,
    step_A: float = 1e-3,
    order: Literal[2, 4] = 4,
    directions: Tensor | None = None,
) -> float:
    """Largest difference of a force from the central difference of the energy, eV/Å.

    The plain quotient (order 2) of a true molecule carries h^2/6 times its third derivative,
    about 5e-5 eV/Å for stretched X-H bonds at 1e-3 Å, whatever the forces are; the five-point
    quotient (order 4) is free of it and so shows errors of the forces alone.

    Args:
        potential: what to check.
        state: float64; all replicas are moved.
        step_A: half the distance between the two inner energies.
        order: 2 for the plain quotient, 4 for the five-point one.
        directions: `(n, n_atoms, 3)`, what is moved, in units of the step, one after the other;
            the error is divided by the direction's length. Every coordinate when None.
    """
    forces = potential.evaluate(state).forces
    if directions is None:
        n = 3 * state.molecule.n_atoms
        directions = torch.eye(n, dtype=state.positions.dtype).view(n, -1, 3)

    def slope(direction: Tensor, h: float) -> Tensor:
        ahead = potential.energies(state.with_(positions=state.positions + h * direction))
        behind = potential.energies(state.with_(positions=state.positions - h * direction))
        return (ahead - behind) / (2.0 * h)

    worst = 0.0
    for direction in directions.to(state.positions):
        found = slope(direction, step_A)
        if order == 4:
            found = (4.0 * found - slope(direction, 2.0 * step_A)) / 3.0
        along = (forces * direction).flatten(1).sum(1).to(found)
        worst = max(worst, float((along + found).abs().max() / direction.norm()))
    return worst


def sampled_directions(state: State, generator: torch.Generator) -> Tensor | None:
    """What to move where every coordinate of a large system would take too long.

    Args:
        state: where.
        generator: draws the signs of the directions that move all atoms.

    Returns:
        `(n, n_atoms, 3)` float64: the three axes of some atoms, evenly spread over the list, then
        directions that move every coordinate by half a step, so that no force goes unseen; or None
        for up to `MOST_MOVED_ATOMS` atoms.
    """
    n = state.molecule.n_atoms
    if n <= MOST_MOVED_ATOMS:
        return None
    atoms = torch.linspace(0, n - 1, _SAMPLED_ATOMS).round().long()
    single = torch.zeros(_SAMPLED_ATOMS, 3, n, 3, dtype=torch.float64)
    for axis in range(3):
        single[torch.arange(_SAMPLED_ATOMS), axis, atoms, axis] = 1.0
    signs = torch.randint(0, 2, (_SAMPLED_DIRECTIONS, n, 3), generator=generator)
    return torch.cat((single.flatten(0, 1), signs.double() - 0.5))


def random_rotation(generator: torch.Generator) -> Tensor:
    """A proper rotation, `(3, 3)` float64, uniformly distributed."""
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    q = q * r.diagonal().sign()
    rotation: Tensor = q * torch.linalg.det(q).sign()
    return rotation


def _turn_onto(direction: Tensor, axis: Tensor) -> Tensor:
    """A proper rotation that brings one unit vector onto another, by two reflections."""
    middle = direction + axis
    if float(middle.norm()) < 1e-6:
        # Opposite vectors: half a turn about anything perpendicular.
        other = torch.eye(3, dtype=direction.dtype)[int(direction.abs().argmin())]
        about = torch.linalg.cross(direction, other)
        about = about / about.norm()
        return 2.0 * torch.outer(about, about) - torch.eye(3, dtype=direction.dtype)
    middle = middle / middle.norm()
    eye = torch.eye(3, dtype=direction.dtype)
    reflect = eye - 2.0 * torch.outer(direction, direction)
    return (eye - 2.0 * torch.outer(middle, middle)) @ reflect


def axis_rotations(state: State) -> list[Tensor]:
    """Rotations that lay the line from atom 0 to its nearest atom along +-x, +-y and +-z.

    Edge-aligned networks have their singular directions there. Empty for a single atom.
    """
    if state.molecule.n_atoms < 2:
        return []
    arrows = (state.positions[0, 1:] - state.positions[0, 0]).to(torch.float64)
    nearest = arrows[int(arrows.norm(dim=-1).argmin())]
    eye = torch.eye(3, dtype=torch.float64)
    return [
        _turn_onto(nearest / nearest.norm(), sign * eye[k]) for k in range(3) for sign in (1, -1)
    ]


def _rotated(state: State, rotation: Tensor) -> State:
    turn = rotation.to(state.positions)
    return state.with_(
        positions=state.positions @ turn.T,
        velocities=state.velocities @ turn.T,
        cell=None if state.cell is None else state.cell @ turn.T,
    )


def _difference(
    potential: Potential, energy: Tensor, forces: Tensor, other: State
) -> tuple[float, float]:
    """Largest differences of energy (eV) and force (eV/Å) from those of another state."""
    found = potential.evaluate(other)
    return (
        float((found.energy - energy).abs().max()),
        float((found.forces - forces).abs().max()),
    )


def rotation_error(
    potential: Potential, state: State, n_rotations: int, generator: torch.Generator
) -> tuple[float, float]:
    """Largest change of energy (eV) and of the turned-back forces (eV/Å) under rotations.

    Args:
        potential: what to check.
        state: where.
        n_rotations: random ones, besides those that lay a bond along an axis.
        generator: source of the random ones.
    """
    rotations = axis_rotations(state)
    rotations += [random_rotation(generator) for _ in range(n_rotations)]
    before = potential.evaluate(state)
    worst_energy = worst_force = 0.0
    for rotation in rotations:
        turn = rotation.to(before.forces)
        energy, force = _difference(
            potential, before.energy, before.forces @ turn.T, _rotated(state, rotation)
        )
        worst_energy, worst_force = max(worst_energy, energy), max(worst_force, force)
    return worst_energy, worst_force


def translation_error(
    potential: Potential, state: State, shift_A: tuple[float, float, float] = (7.0, -11.0, 13.0)
) -> tuple[float, float]:
    """Largest change of energy (eV) and forces (eV/Å) when everything is shifted."""
    before = potential.evaluate(state)
    moved = state.with_(positions=state.positions + state.positions.new_tensor(shift_A))
    return _difference(potential, before.energy, before.forces, moved)


def permutation_error(
    potential: Potential, state: State, generator: torch.Generator
) -> tuple[float, float]:
    """Largest change of energy (eV) and forces (eV/Å) under other orders of the atoms."""
    before = potential.evaluate(state)
    m = state.molecule
    # A cyclic order is never the old one; random ones may be.
    orders = [torch.arange(m.n_atoms).roll(1)]
    orders += [torch.randperm(m.n_atoms, generator=generator) for _ in range(2)]
    worst_energy = worst_force = 0.0
    for order in orders:
        shuffled = State(
            Molecule(m.numbers[order], m.masses[order], pbc=m.pbc),
            state.positions[:, order],
            state.velocities[:, order],
            state.time_fs,
            state.cell,
        )
        energy, force = _difference(potential, before.energy, before.forces[:, order], shuffled)
        worst_energy, worst_force = max(worst_energy, energy), max(worst_force, force)
    return worst_energy, worst_force


def batch_error(potential: Potential, state: State) -> tuple[float, float]:
    """Largest change of energy (eV) and forces (eV/Å) when replicas are evaluated alone."""
    together = potential.evaluate(state)
    pairs = [
        _difference(
            potential,
            together.energy[r : r + 1],
            together.forces[r : r + 1],
            state.replica(r),
        )
        for r in range(state.n_replicas)
    ]
    return max(e for e, _ in pairs), max(f for _, f in pairs)


def wrap_error(
    potential: Potential, state: State, generator: torch.Generator
) -> tuple[float, float]:
    """Largest change of energy (eV) and forces (eV/Å) when atoms hop by cell vectors.

    Raises:
        ValueError: if the state is not periodic.
    """
    if state.cell is None or not any(state.molecule.pbc):
        raise ValueError("wrap_error needs a periodic state")
    before = potential.evaluate(state)
    hops = torch.randint(-2, 3, state.positions.shape, generator=generator).to(state.positions)
    hops = hops * state.positions.new_tensor(state.molecule.pbc)
    moved = state.with_(positions=state.positions + hops @ state.cell.to(hops))
    return _difference(potential, before.energy, before.forces, moved)


def _with_copy(state: State, shift: Tensor) -> State:
    """Every molecule twice, the second one shifted; velocities zero."""
    m = state.molecule
    double = Molecule(m.numbers.repeat(2), m.masses.repeat(2))
    return State.at_rest(double, torch.cat((state.positions, state.positions + shift), 1))


def extensivity_error(potential: Potential, state: State, distance_A: float = 100.0) -> float:
    """Energy of two far copies minus twice the energy of one, eV, for an open system."""
    alone = potential.energies(state)
    apart = potential.energies(_with_copy(state, state.positions.new_tensor([distance_A, 0, 0])))
    return float((apart - 2.0 * alone).abs().max())


def net_force(potential: Potential, state: State) -> float:
    """Largest component of the sum of all forces of a replica, eV/Å."""
    return float(potential.evaluate(state).forces.sum(1).abs().max())


def cutoff_jump(potential: Potential, state: State, cutoff_A: float, step_A: float = 1e-4) -> float:
    """Largest change of a force while a copy of the molecule comes just within the cutoff.

    Args:
        potential: what to check; must have a finite range.
        state: an open system; its first replica is used.
        cutoff_A: range of direct interaction.
        step_A: how far the copy moves, from half outside to half inside.

    Returns:
        eV/Å; of the order of the square of the step for a twice continuous energy.
    """
    one = state.replica(0)
    places = one.positions[0]
    right, left = places[int(places[:, 0].argmax())], places[int(places[:, 0].argmin())]
    # The leftmost atom of the copy is the one that crosses, straight along x.
    start = right - left
    shifts = [
        start + start.new_tensor([cutoff_A + 0.5 * sign * step_A, 0.0, 0.0]) for sign in (1, -1)
    ]
    outside, inside = (potential.evaluate(_with_copy(one, shift)).forces for shift in shifts)
    return float((outside - inside).abs().max())


def repeat_error(potential: Potential, state: State, times: int = 3) -> float:
    """Largest change of any energy or force on asking again; exactly 0 is wanted."""
    first = potential.evaluate(state)
    return max(
        max(_difference(potential, first.energy, first.forces, state)) for _ in range(times - 1)
    )


def check_potential(
    potential: Potential,
    state: State,
    *,
    cutoff_A: float | None = None,
    single_precision: bool = False,
    one_molecule: bool = False,
    generator: torch.Generator | None = None,
) -> tuple[CheckResult, ...]:
    """Run the checks that apply to a state.

    Args:
        potential: what to check.
        state: float64, best with two or more replicas.
        cutoff_A: range of the potential, to check its smoothness; not checked when None.
        single_precision: the limits of a float32 network, 1e-5 of the largest force, instead of
            float64; a difference quotient means nothing there and is left out.
        one_molecule: the potential knows one molecule in one order of atoms: other orders and
            two copies are left out.
        generator: source of rotations and orders; seeded with 0 when None.

    Returns:
        One result per number; all `passed` when the potential is sound.
    """
    draw = torch.Generator().manual_seed(0) if generator is None else generator
    tight = 1e-10
    if single_precision:
        tight = 1e-5 * max(1.0, float(potential.evaluate(state).forces.abs().max()))
    results = []
    if not single_precision:
        moved = sampled_directions(state, draw)
        name = "force = -dE/dx" + ("" if moved is None else f", {len(moved)} directions")
        error = force_error(potential, state, directions=moved)
        results.append(CheckResult(name, error, 1e-5, "eV/Å"))
    pairs = {
        "rotation": rotation_error(potential, state, 8, draw),
        "translation": translation_error(potential, state),
        "batch = single": batch_error(potential, state),
    }
    if not one_molecule:
        pairs["permutation"] = permutation_error(potential, state, draw)
    if state.cell is not None and any(state.molecule.pbc):
        pairs["wrapping"] = wrap_error(potential, state, draw)
    for name, (energy, force) in pairs.items():
        results.append(CheckResult(f"{name}, energy", energy, tight, "eV"))
        results.append(CheckResult(f"{name}, forces", force, tight, "eV/Å"))
    results.append(CheckResult("net force", net_force(potential, state), tight, "eV/Å"))
    if not any(state.molecule.pbc) and not one_molecule:
        results.append(
            CheckResult("two far copies", extensivity_error(potential, state), tight, "eV")
        )
        if cutoff_A is not None:
            jump = cutoff_jump(potential, state, cutoff_A)
            limit = 1e-4 if single_precision else 1e-6
            results.append(CheckResult("jump at the cutoff", jump, limit, "eV/Å"))
    results.append(CheckResult("repetition", repeat_error(potential, state), 0.0, "eV, eV/Å"))
    return tuple(results)
