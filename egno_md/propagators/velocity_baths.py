"""Baths that act on velocities between segments: rescaling and collisions.

Each is an exact move in the canonical distribution of velocities, whatever the time it stands
for, as the Ornstein-Uhlenbeck kick of `egno_md.propagators.classical` is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from egno_md.propagators.restart import Drawing
from egno_md.state import Molecule, kinetic_energy, maxwell_boltzmann
from egno_md.units import BOLTZMANN_EV_PER_K, PS_PER_FS


class VelocityBath(Protocol):
    """Changes velocities between segments."""

    def kicked(self, molecule: Molecule, velocities: Tensor, span_fs: float) -> Tensor:
        """Return velocities after the bath has acted for so long."""
        ...

    def restart_state(self) -> dict[str, Tensor]:
        """What the next kick depends on."""
        ...

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave."""
        ...


def _check(**numbers: float) -> None:
    """Refuse numbers that are negative or not finite."""
    for name, value in numbers.items():
        if not 0.0 <= value < float("inf"):
            raise ValueError(f"{name} is {value}; it must be a finite number >= 0")


class StochasticRescaling(Drawing):
    """All velocities of a replica times one factor, so that its kinetic energy is canonical.

    Bussi, Donadio and Parrinello, J. Chem. Phys. 126, 014101 (2007), equation A7:
    a^2 = c + (1-c) K1/(f K) sum_i R_i^2 + 2 R_1 sqrt(c (1-c) K1/(f K)).

    | symbol | variable |
    |---|---|
    | c = exp(-time/tau) | `kept` |
    | f, degrees of freedom | `degrees_of_freedom` |
    | K1 / f = kT / 2 | `target` |
    | K | `kinetic` |
    | R_i, f normal numbers | `noise` |

    Directions stay, so that a momentum or angular momentum of zero stays zero.
    """

    def __init__(
        self,
        temperature_K: float,
        rate_per_ps: float,
        degrees_of_freedom: int,
        generator: torch.Generator,
    ) -> None:
        """Check the numbers.

        Args:
            temperature_K: temperature of the bath.
            rate_per_ps: 1/tau.
            degrees_of_freedom: those that share the kinetic energy.
            generator: source of randomness.

        Raises:
            ValueError: if a number is negative or not finite, or there is no freedom.
        """
        _check(temperature_K=temperature_K, rate_per_ps=rate_per_ps)
        if degrees_of_freedom < 1:
            raise ValueError(
                f"degrees_of_freedom is {degrees_of_freedom}; a bath needs at least one"
            )
        self.temperature_K, self.rate_per_ps = temperature_K, rate_per_ps
        self.degrees_of_freedom = degrees_of_freedom
        self.generator = generator

    def kicked(self, molecule: Molecule, velocities: Tensor, span_fs: float) -> Tensor:
        """Return velocities after the bath has acted for so long.

        Args:
            molecule: gives the masses.
            velocities: `(n_replicas, n_atoms, 3)`, Å/fs.
            span_fs: for how long.

        Raises:
            ValueError: if a replica is at rest: there is nothing to rescale.
        """
        kinetic = kinetic_energy(molecule, velocities)
        if not bool((kinetic > 0).all()):
            raise ValueError(
                "rescaling needs velocities, and all are zero; draw them first "
                "(ase.md.thermalize_momenta, egno_md.maxwell_boltzmann)"
            )
        shape = (len(kinetic), self.degrees_of_freedom)
        noise = torch.randn(
            shape, generator=self.generator, dtype=torch.float64, device=self.generator.device
        ).to(kinetic.device)
        kept = math.exp(-self.rate_per_ps * PS_PER_FS * span_fs)
        target = 0.5 * BOLTZMANN_EV_PER_K * self.temperature_K
        drawn = (1.0 - kept) * target / kinetic
        squares = kept + drawn * noise.square().sum(1) + 2 * noise[:, 0] * (kept * drawn).sqrt()
        return velocities * squares.clamp_min(0.0).sqrt().to(velocities)[:, None, None]


class Collisions(Drawing):
    """Atoms collide with the bath at random and get new velocities, all three components.

    Andersen, J. Chem. Phys. 72, 2384 (1980): in a time t an atom collides with probability
    1 - exp(-rate t). Nothing is conserved.
    """

    def __init__(
        self, temperature_K: float, rate_per_ps: float, generator: torch.Generator
    ) -> None:
        """Check the numbers.

        Args:
            temperature_K: temperature of the bath.
            rate_per_ps: collisions per atom and ps.
            generator: source of randomness.

        Raises:
            ValueError: if a number is negative or not finite.
        """
        _check(temperature_K=temperature_K, rate_per_ps=rate_per_ps)
        self.temperature_K, self.rate_per_ps = temperature_K, rate_per_ps
        self.generator = generator

    def kicked(self, molecule: Molecule, velocities: Tensor, span_fs: float) -> Tensor:
        """Return velocities after the bath has acted for so long.

        Args:
            molecule: gives the masses.
            velocities: `(n_replicas, n_atoms, 3)`, Å/fs.
            span_fs: for how long.
        """
        chance = -math.expm1(-self.rate_per_ps * PS_PER_FS * span_fs)
        # Drawn for all atoms, so that a run does not depend on who collided.
        shape = velocities.shape[:2]
        lots = torch.rand(
            shape, generator=self.generator, dtype=torch.float64, device=self.generator.device
        )
        fresh = maxwell_boltzmann(molecule, shape[0], self.temperature_K, self.generator)
        hit = (lots < chance).to(velocities.device)
        return torch.where(hit[..., None], fresh.to(velocities), velocities)
