"""Langevin dynamics with bonds of fixed length, for steps of several fs: g-BAOAB.

The geodesic integrator of Leimkuhler and Matthews, Proc. R. Soc. A 472, 20160138 (2016),
doi:10.1098/rspa.2016.0138: BAOAB with every part kept on the constraints,

    B: v <- v + (dt/2) M^-1 F_c(x)         F_c: the force with that of the bonds
    A: dt/2 of free motion on the constraints, in K equal pieces of SHAKE and RATTLE
    O: v <- P(x) [c v + sqrt((1 - c^2) kT/m) xi],   c = exp(-friction * dt)

in the order B A O A B. P(x) takes away what would stretch a bond. F_c is remembered from step to
step, so that a step costs one evaluation of the potential.

| symbol | variable |
|---|---|
| dt | `timestep_fs` |
| K | `n_geodesic` |
| F_c | `BondConstraints.tangent_forces` |
| P(x) | `BondConstraints.tangent` |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from egno_md.propagators.bond_constraints import BondConstraints
from egno_md.propagators.classical import OrnsteinUhlenbeck
from egno_md.propagators.frame_grid import OnFrameGrid
from egno_md.propagators.integrator import KickDriftKick
from egno_md.propagators.restart import named_under, taken_from
from egno_md.roles import EnergyForces, Potential
from egno_md.segment import Segment
from egno_md.state import Molecule, State


class _OnConstraints:
    """A potential with the forces of the fixed bonds."""

    def __init__(self, potential: Potential, constraints: BondConstraints) -> None:
        self.potential, self.constraints = potential, constraints

    def evaluate(self, state: State) -> EnergyForces:
        result = self.potential.evaluate(state)
        forces = self.constraints.tangent_forces(state.positions, result.forces)
        return replace(result, forces=forces)

    def energies(self, state: State) -> Tensor:
        return self.potential.energies(state)


class ConstrainedLangevin(OnFrameGrid):
    """Langevin dynamics on bonds of fixed length by g-BAOAB.

    The temperature has `degrees_of_freedom()` = 3 n_atoms - n_constraints. Without friction it is
    Newtonian dynamics by RATTLE. A start that is off the constraints, from flexible dynamics or
    rounded in a file, is brought onto them first. With heavier hydrogens (`heavy_hydrogens`), a
    step of 4 fs is usual.
    """

    reversible = False
    volume_preserving = False
    has_bath = True

    def __init__(
        self,
        potential: Potential,
        constraints: BondConstraints,
        timestep_fs: float,
        frame_interval_fs: float,
        n_frames: int,
        temperature_K: float,
        friction_per_ps: float,
        generator: torch.Generator,
        *,
        n_geodesic: int = 1,
    ) -> None:
        """Set up the grid of frames, the constraints and the bath.

        Args:
            potential: gives the forces.
            constraints: of the molecule that will move, with its masses.
            timestep_fs: integration step.
            frame_interval_fs: time between frames, a multiple of the step.
            n_frames: frames of a full segment.
            temperature_K: temperature of the bath.
            friction_per_ps: friction; 0 for none.
            generator: source of randomness.
            n_geodesic: pieces K of half a step of free motion; more cost no forces.

        Raises:
            ValueError: if a number is out of range, or the interval is not a multiple of the
                step, naming both.
        """
        if n_geodesic < 1:
            raise ValueError(f"n_geodesic is {n_geodesic}; it must be at least 1")
        held = _OnConstraints(potential, constraints)
        self._loop = KickDriftKick(held, timestep_fs, frame_interval_fs, n_frames)
        self._bath = OrnsteinUhlenbeck(temperature_K, friction_per_ps, generator)
        self.constraints, self.n_geodesic = constraints, n_geodesic

    @property
    def timestep_fs(self) -> float:
        """Integration step."""
        return self._loop.timestep_fs

    def degrees_of_freedom(self, molecule: Molecule) -> int:
        """Count the degrees of freedom that share the kinetic energy.

        Args:
            molecule: the one that moves.

        Raises:
            ValueError: if the constraints are of another molecule.
        """
        self._check(molecule)
        return self.constraints.degrees_of_freedom()

    def advance(self, state: State, n_frames: int | None = None) -> Segment:
        """Return the segment that follows `state`, with the potential energy of each frame.

        Args:
            state: where to start.
            n_frames: how many frames; a full segment when None.

        Raises:
            ValueError: if the molecule is not that of the constraints, a bond of the start is far
                from its length, or naming where the dynamics fails.
        """
        self._check(state.molecule)
        bonds = self.constraints
        x, v = bonds.start(state.positions, state.velocities)
        on = state.with_(positions=x, velocities=v)
        molecule, half = state.molecule, 0.5 * self._loop.timestep_fs

        def moved(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            # In float64 throughout: (x' - x) / dt has few digits left in float32.
            near, u = self._free(x.to(torch.float64), v.to(torch.float64), half)
            u = bonds.tangent(near, self._bath.kicked(molecule, u, 2.0 * half))
            near, u = self._free(near, u, half)
            return near.to(x), u.to(v)

        return self._loop.advance(on, n_frames, moved)

    def restart_state(self) -> dict[str, Tensor]:
        """The remembered forces and the generator's state."""
        return named_under("forces", self._loop.restart_state()) | self._bath.restart_state()

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave."""
        self._bath.restore(saved)
        self._loop.restore(taken_from("forces", saved))

    def _free(self, x: Tensor, v: Tensor, span_fs: float) -> tuple[Tensor, Tensor]:
        """Move freely on the constraints for some time."""
        piece = span_fs / self.n_geodesic
        for _ in range(self.n_geodesic):
            there = self.constraints.onto(x + piece * v, x)
            x, v = there, self.constraints.tangent(there, (there - x) / piece)
        return x, v

    def _check(self, molecule: Molecule) -> None:
        mine = self.constraints.molecule
        if not torch.equal(mine.numbers, molecule.numbers) or not torch.equal(
            mine.masses, molecule.masses
        ):
            raise ValueError(
                "the constraints are of a molecule with other atoms or masses; make them for the "
                "molecule of the state, after heavy_hydrogens"
            )
