"""Does a potential obey physics in a periodic cell? Numbers that are small when it does.

| check | number |
|---|---|
| stress_error | largest difference of the stress from the slope of the energy, eV/Å^3 |
| supercell_error | change per cell of E (eV), and of F (eV/Å), in an n x n x n supercell |
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from egno_md.roles import Potential
from egno_md.state import Molecule, State


def in_a_cell(state: State, margin_A: float = 3.0) -> State:
    """Put a molecule into a skewed periodic cell that leaves it this much room.

    Args:
        state: an open system.
        margin_A: distance between images along each axis, about.
    """
    size = (state.positions.amax(1) - state.positions.amin(1)).amax(0).double() + margin_A
    cell = torch.diag(size)
    cell[1, 0], cell[2, 0], cell[2, 1] = 0.15 * size[0], -0.1 * size[0], 0.2 * size[1]
    m = state.molecule
    periodic = Molecule(m.numbers, m.masses, m.bonds, m.names, (True, True, True))
    return State(
        periodic,
        state.positions,
        state.velocities,
        state.time_fs,
        cell.to(state.positions).expand(state.n_replicas, 3, 3).clone(),
    )


def _cell_of(state: State) -> Tensor:
    if state.cell is None or not all(state.molecule.pbc):
        raise ValueError("this check needs a state that is periodic in all three directions")
    return state.cell


def stress_error(potential: Potential, state: State, strain: float = 1e-4) -> float:
    """Largest difference of the stress from the energy's slope under strain, eV/Å^3.

    The stress is -virial / volume; the slope a five-point central difference over symmetric
    strains of positions and cell.

    Args:
        potential: its `evaluate` takes `virial=True`.
        state: float64, fully periodic.
        strain: half the distance between the two inner energies.

    Raises:
        ValueError: if the state is not fully periodic, or the potential gives no virial.
    """
    cell = _cell_of(state)
    virial = potential.evaluate(state, virial=True).virial  # type: ignore[call-arg]
    if virial is None:
        raise ValueError(f"{type(potential).__name__} gives no virial")
    volume = torch.linalg.det(cell).abs()

    def energy(shape: Tensor) -> Tensor:
        turn = torch.eye(3, dtype=torch.float64) + shape
        moved = state.with_(positions=state.positions @ turn, cell=cell @ turn)
        return potential.energies(moved)

    worst = 0.0
    for a, b in itertools.combinations_with_replacement(range(3), 2):
        shape = torch.zeros(3, 3, dtype=torch.float64)
        shape[a, b] += 0.5 * strain
        shape[b, a] += 0.5 * strain
        inner = (energy(shape) - energy(-shape)) / (2.0 * strain)
        outer = (energy(2.0 * shape) - energy(-2.0 * shape)) / (4.0 * strain)
        slope = (4.0 * inner - outer) / 3.0
        worst = max(worst, float(((virial[:, a, b] + slope) / volume).abs().max()))
    return worst


def supercell(state: State, repeats: int) -> State:
    """Repeat a cell along its three vectors; atoms of one copy follow one another.

    Args:
        state: fully periodic.
        repeats: copies along each vector.

    Raises:
        ValueError: if the state is not fully periodic.
    """
    cell = _cell_of(state)
    m = state.molecule
    steps = torch.tensor(list(itertools.product(range(repeats), repeat=3)))
    shifts = steps.to(cell) @ cell
    x = (state.positions[:, None] + shifts[:, :, None].to(state.positions)).flatten(1, 2)
    many = Molecule(m.numbers.repeat(len(steps)), m.masses.repeat(len(steps)), pbc=m.pbc)
    return State.at_rest(many, x, cell=repeats * cell)


def supercell_error(potential: Potential, state: State, repeats: int = 4) -> tuple[float, float]:
    """Largest change per cell of energy (eV) and of forces (eV/Å) in a supercell.

    Args:
        potential: what to check.
        state: fully periodic; its first replica is used.
        repeats: copies along each cell vector.

    Raises:
        ValueError: if the state is not fully periodic.
    """
    one = state.replica(0)
    small, large = potential.evaluate(one), potential.evaluate(supercell(one, repeats))
    n = repeats**3
    forces = large.forces.view(n, one.molecule.n_atoms, 3)
    return (
        abs(float(large.energy[0]) / n - float(small.energy[0])),
        float((forces - small.forces).abs().max()),
    )
