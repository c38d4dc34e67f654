"""Does constant-energy dynamics with a potential keep its energy?

| number | meaning |
|---|---|
| drift | slope of the total energy, meV/atom/ps |
| fluctuation | rms of the total energy about that line, meV/atom |
| order | log2 of the fluctuation's ratio at a step and at half of it: 2 for velocity Verlet |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from egno_md.propagators.classical import VelocityVerlet
from egno_md.roles import Potential
from egno_md.state import State, kinetic_energy, maxwell_boltzmann


@dataclass(frozen=True, slots=True)
class EnergyConservation:
    """How the total energy behaved.

    Attributes:
        drift: mean slope of the replicas, meV/atom/ps.
        drift_error: its standard error, from the scatter of the replicas.
        fluctuation: rms about the lines, meV/atom.
    """

    drift: float
    drift_error: float
    fluctuation: float


def energy_conservation(
    potential: Potential, start: State, *, timestep_fs: float, length_ps: float
) -> EnergyConservation:
    """Run velocity Verlet and fit a line to the total energy of every replica.

    Args:
        potential: moves the atoms.
        start: two or more replicas, moving.
        timestep_fs: time step.
        length_ps: length of the run.

    Raises:
        ValueError: if there is one replica, or fewer than three frames.
    """
    n_frames = round(1000.0 * length_ps / timestep_fs / 4.0)
    if start.n_replicas < 2 or n_frames < 3:
        raise ValueError(
            f"needed are two or more replicas and three or more frames of four steps, got "
            f"{start.n_replicas} and {n_frames}"
        )
    dynamics = VelocityVerlet(potential, timestep_fs, 4.0 * timestep_fs, 1)
    state, energies, times = start, [], []
    for _ in range(n_frames):
        segment = dynamics.advance(state)
        state = segment.last
        kinetic = kinetic_energy(state.molecule, state.velocities)
        energies.append(segment.potential_energies[:, 0] + kinetic)
        times.append(state.time_fs / 1000.0)
    t = torch.tensor(times, dtype=torch.float64)
    e = torch.stack(energies) * (1000.0 / start.molecule.n_atoms)
    t, e = t - t.mean(), e - e.mean(0)
    slopes = (t[:, None] * e).sum(0) / t.square().sum()
    rest = e - t[:, None] * slopes
    return EnergyConservation(
        float(slopes.mean()),
        float(slopes.std()) / math.sqrt(start.n_replicas),
        float(rest.square().mean().sqrt()),
    )


def fluctuation_order(large: EnergyConservation, small: EnergyConservation) -> float:
    """Order of the integrator seen in the fluctuations at a step and at half of it."""
    return math.log2(large.fluctuation / small.fluctuation)


def thermal(state: State, n_replicas: int, temperature_K: float, seed: int = 0) -> State:
    """Copies of a state's first replica with Maxwell-Boltzmann velocities.

    Args:
        state: gives the geometry.
        n_replicas: how many.
        temperature_K: of the velocities; about half of it stays where the start is a minimum.
        seed: of the velocities.
    """
    one = state.replica(0)
    generator = torch.Generator().manual_seed(seed)
    v = maxwell_boltzmann(one.molecule, n_replicas, temperature_K, generator)
    return State(
        one.molecule,
        one.positions.double().expand(n_replicas, -1, -1).clone(),
        v.double(),
        one.time_fs,
        None if one.cell is None else one.cell.expand(n_replicas, 3, 3).clone(),
    )
