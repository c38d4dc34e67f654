"""Potential and kinetic energy together: what dynamics without a bath keeps."""

from __future__ import annotations

import torch
from torch import Tensor

from egno_md.roles import Potential
from egno_md.state import State, kinetic_energy


def total_energies(potential: Potential, state: State) -> Tensor:
    """Return the total energy of every replica.

    Args:
        potential: gives the potential energy.
        state: where.

    Returns:
        `(n_replicas,)` float64 on the CPU, eV.

    Raises:
        ValueError: if the potential refuses a geometry.
    """
    potential_energy = potential.energies(state).detach().to("cpu", torch.float64)
    return potential_energy + kinetic_energy(state.molecule, state.velocities).cpu()
