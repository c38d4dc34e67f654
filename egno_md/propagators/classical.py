"""Classical dynamics as propagators: velocity Verlet (NVE) and Langevin (NVT)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from egno_md.propagators.frame_grid import OnFrameGrid
from egno_md.propagators.integrator import KickDriftKick
from egno_md.propagators.restart import Drawing, named_under, taken_from
from egno_md.roles import Potential
from egno_md.segment import Segment
from egno_md.state import Molecule, State
from egno_md.units import BOLTZMANN_EV_PER_K, EV_PER_AMU_A2_FS2, PS_PER_FS


class VelocityVerlet(OnFrameGrid):
    """Newton's equations by velocity Verlet: reversible, volume preserving, second order.

    Momentum is conserved, so for a temperature count the degrees of freedom with
    `degrees_of_freedom(molecule, zero_momentum=True)` if it starts at zero.
    """

    reversible = True
    volume_preserving = True

    def __init__(
        self, potential: Potential, timestep_fs: float, frame_interval_fs: float, n_frames: int
    ) -> None:
        """Set up the grid of frames.

        Args:
            potential: gives the forces.
            timestep_fs: integration step; 0.5 fs is safe with hydrogens.
            frame_interval_fs: time between frames, a multiple of the step.
            n_frames: frames of a full segment.

        Raises:
            ValueError: if the interval is not a multiple of the step, naming both.
        """
        self._loop = KickDriftKick(potential, timestep_fs, frame_interval_fs, n_frames)

    @property
    def timestep_fs(self) -> float:
        """Integration step."""
        return self._loop.timestep_fs

    def advance(self, state: State, n_frames: int | None = None) -> Segment:
        """Return the segment that follows `state`, with the potential energy of each frame.

        Args:
            state: where to start.
            n_frames: how many frames; a full segment when None.

        Raises:
            ValueError: naming replica, atom and time where the dynamics fails.
        """
        step = self._loop.timestep_fs
        return self._loop.advance(state, n_frames, lambda x, v: (x + step * v, v))

    def restart_state(self) -> dict[str, Tensor]:
        """The remembered forces."""
        return self._loop.restart_state()

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave."""
        self._loop.restore(saved)


class OrnsteinUhlenbeck(Drawing):
    """The exact solution of friction and noise alone: v <- c v + sqrt((1 - c^2) kT/m) xi.

    c = exp(-friction * time). Noise is drawn in float64 for every replica, atom and axis in
    order, so it is the same whatever the dtype of the velocities.
    """

    def __init__(
        self, temperature_K: float, friction_per_ps: float, generator: torch.Generator
    ) -> None:
        """Check the numbers.

        Args:
            temperature_K: temperature of the bath, not negative.
            friction_per_ps: friction, not negative.
            generator: source of randomness.

        Raises:
            ValueError: if a number is negative or not finite, or the generator is none.
        """
        for name, value in (("temperature_K", temperature_K), ("friction_per_ps", friction_per_ps)):
            if not 0.0 <= value < float("inf"):
                raise ValueError(f"{name} is {value}; it must be a finite number >= 0")
        if not isinstance(generator, torch.Generator):
            raise ValueError(
                f"generator is {generator!r}; noise needs one, such as "
                "torch.Generator().manual_seed(1)"
            )
        self.temperature_K = temperature_K
        self.friction_per_ps = friction_per_ps
        self.generator = generator

    def kicked(self, molecule: Molecule, velocities: Tensor, span_fs: float) -> Tensor:
        """Return velocities after friction and noise have acted.

        Args:
            molecule: gives the masses.
            velocities: `(n_replicas, n_atoms, 3)`, Å/fs.
            span_fs: for how long.
        """
        exponent = self.friction_per_ps * PS_PER_FS * span_fs
        # -expm1(-2 g t) is 1 - c^2 without loss of digits at small g t.
        thermal_eV = BOLTZMANN_EV_PER_K * self.temperature_K * -math.expm1(-2.0 * exponent)
        spread = (thermal_eV / EV_PER_AMU_A2_FS2 / molecule.masses).sqrt()[:, None]
        noise = torch.randn(
            velocities.shape,
            generator=self.generator,
            dtype=torch.float64,
            device=self.generator.device,
        )
        kick = (spread.to(noise.device) * noise).to(velocities)
        return math.exp(-exponent) * velocities + kick

    def moved(
        self, molecule: Molecule, positions: Tensor, velocities: Tensor, span_fs: float
    ) -> tuple[Tensor, Tensor]:
        """Return positions and velocities after half a drift, friction and noise, half a drift.

        Args:
            molecule: gives the masses.
            positions: `(n_replicas, n_atoms, 3)`, Å.
            velocities: same shape, Å/fs.
            span_fs: for how long.
        """
        halfway = positions + 0.5 * span_fs * velocities
        velocities = self.kicked(molecule, velocities, span_fs)
        return halfway + 0.5 * span_fs * velocities, velocities


class Langevin(OnFrameGrid):
    """Langevin dynamics by the BAOAB splitting of Leimkuhler and Matthews (2013).

    Half kick (B), half drift (A), friction and noise (O, exact), half drift, half kick:
    J. Chem. Phys. 138, 174102, doi:10.1063/1.4802990. Positions of a harmonic system are
    sampled exactly at any stable step; velocities are too cold by (omega dt)^2 / 4, which is
    2 % for an X-H stretch at 0.5 fs. Nothing is conserved: the temperature has
    `degrees_of_freedom(molecule)` = 3 n_atoms.
    """

    reversible = False
    volume_preserving = False
    has_bath = True

    def __init__(
        self,
        potential: Potential,
        timestep_fs: float,
        frame_interval_fs: float,
        n_frames: int,
        temperature_K: float,
        friction_per_ps: float,
        generator: torch.Generator,
    ) -> None:
        """Set up the grid of frames and the bath.

        Args:
            potential: gives the forces.
            timestep_fs: integration step.
            frame_interval_fs: time between frames, a multiple of the step.
            n_frames: frames of a full segment.
            temperature_K: temperature of the bath.
            friction_per_ps: friction; 1 per ps barely disturbs the dynamics.
            generator: source of randomness.

        Raises:
            ValueError: if a number is out of range, or the interval is not a multiple of the
                step, naming both.
        """
        self._loop = KickDriftKick(potential, timestep_fs, frame_interval_fs, n_frames)
        self._bath = OrnsteinUhlenbeck(temperature_K, friction_per_ps, generator)

    @property
    def timestep_fs(self) -> float:
        """Integration step."""
        return self._loop.timestep_fs

    def advance(self, state: State, n_frames: int | None = None) -> Segment:
        """Return the segment that follows `state`, with the potential energy of each frame.

        Args:
            state: where to start.
            n_frames: how many frames; a full segment when None.

        Raises:
            ValueError: naming replica, atom and time where the dynamics fails.
        """
        step, molecule = self._loop.timestep_fs, state.molecule
        return self._loop.advance(
            state, n_frames, lambda x, v: self._bath.moved(molecule, x, v, step)
        )

    def restart_state(self) -> dict[str, Tensor]:
        """The remembered forces and the generator's state."""
        return named_under("forces", self._loop.restart_state()) | self._bath.restart_state()

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave."""
        self._bath.restore(saved)
        self._loop.restore(taken_from("forces", saved))
