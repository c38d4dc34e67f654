"""Energies of a run held against statistical mechanics, with the package physical_validation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import physical_validation
import torch

from egno_md.roles import EnergyForces
from egno_md.segment import MadeBy, Segment
from egno_md.units import ACCELERATION_PER_FORCE, KJ_PER_MOL

#: Largest deviation allowed, in standard errors, and the chance of a larger one.
SIGMAS, CHANCE = 3.0, 0.0027

#: Of every atom's spring, eV/Å^2.
STIFFNESS = 5.0


@dataclass
class Energies:
    """What was seen of a canonical run: eV, an entry per sample."""

    kelvin: float
    n_atoms: int
    held: int = 0
    kinetic: list[float] = field(default_factory=list)
    potential: list[float] = field(default_factory=list)

    def data(self):
        kinetic, potential = (np.array(e) / KJ_PER_MOL for e in (self.kinetic, self.potential))
        parts = physical_validation.data
        return parts.SimulationData(
            units=parts.UnitData.units("GROMACS"),
            ensemble=parts.EnsembleData("NVT", self.n_atoms, volume=1.0, temperature=self.kelvin),
            system=parts.SystemData(
                natoms=self.n_atoms,
                nconstraints=0,
                ndof_reduction_tra=self.held,
                ndof_reduction_rot=0,
            ),
            observables=parts.ObservableData(
                kinetic_energy=kinetic,
                potential_energy=potential,
                total_energy=kinetic + potential,
            ),
        )


def assert_kinetic(run: Energies) -> None:
    """Mean, width and shape of the kinetic energy are the canonical ones."""
    check = physical_validation.kinetic_energy.distribution
    mean, width = check(run.data(), strict=False, verbosity=0, bootstrap_seed=1)
    assert mean < SIGMAS
    assert width < SIGMAS
    assert check(run.data(), strict=True, verbosity=0) > CHANCE


def assert_ensemble(cold: Energies, hot: Energies) -> None:
    """Potential and total energies at two temperatures differ as Boltzmann says."""
    for total in (False, True):
        (off,) = physical_validation.ensemble.check(
            cold.data(), hot.data(), total_energy=total, verbosity=0, bootstrap_seed=1
        )
        assert off < SIGMAS


def slowest_convergence(energies: dict[float, np.ndarray]) -> float:
    """How far the fluctuation of the total energy is from a share of dt^2, at worst.

    Args:
        energies: total energies, eV, of the same motion by time step, ps.
    """
    parts = physical_validation.data
    runs = [
        parts.SimulationData(
            dt=step,
            units=parts.UnitData.units("GROMACS"),
            ensemble=parts.EnsembleData("NVE", 1, volume=1.0),
            observables=parts.ObservableData(constant_of_motion=np.array(e) / KJ_PER_MOL),
        )
        for step, e in energies.items()
    ]
    return float(physical_validation.integrator.convergence(runs, verbose=False))


class MixedSprings:
    """The exact motion of atoms on equal springs to their homes, whose directions then mix.

    Kinetic and potential energy exchange in the motion: 210 fs are far from whole half turns of
    carbon and of hydrogen. Then velocities times the roots of the
    masses, and displacements, are mirrored in random planes: this keeps both energies and the
    canonical distribution, and leaves nothing else that is conserved.
    """

    reversible = volume_preserving = True
    n_frames = 1

    def __init__(self, homes: torch.Tensor, frame_interval_fs=210.0, stiffness=STIFFNESS) -> None:
        self.homes, self.frame_interval_fs, self.stiffness = homes, frame_interval_fs, stiffness
        self.noise = torch.Generator().manual_seed(7)

    def mirrored(self, values):
        flat = values.flatten(1)
        plane = torch.randn(flat.shape, generator=self.noise, dtype=flat.dtype)
        plane = plane / plane.norm(dim=1, keepdim=True)
        return (flat - 2 * (flat * plane).sum(1, keepdim=True) * plane).view(values.shape)

    def advance(self, state, n_frames=None):
        root = state.molecule.masses.sqrt()[:, None]
        w = (self.stiffness * ACCELERATION_PER_FORCE) ** 0.5 / root
        c, s = torch.cos(w * self.frame_interval_fs), torch.sin(w * self.frame_interval_fs)
        away, v = state.positions - self.homes, state.velocities
        x = self.homes + self.mirrored(away * c + v * s / w)
        v = self.mirrored((v * c - away * w * s) * root) / root
        times = torch.tensor([state.time_fs + self.frame_interval_fs], dtype=torch.float64)
        made_by = torch.full((len(x), 1), int(MadeBy.NETWORK), dtype=torch.int8)
        return Segment(state.molecule, times, x[:, None], v[:, None], made_by, cell=state.cell)

    def potential(self, positions) -> list[float]:
        return (0.5 * self.stiffness * (positions - self.homes).square().sum((1, 2))).tolist()

    def restart_state(self):
        return {}

    def restore(self, saved):
        pass


class HardeningSprings:
    """A potential: springs to homes that harden, so that no integrator is exact."""

    def __init__(self, homes: torch.Tensor) -> None:
        self.homes = homes

    def evaluate(self, state):
        away = state.positions - self.homes
        square = away.square().sum(-1, keepdim=True)
        energy = STIFFNESS * (0.5 * square + square.square()).sum((1, 2))
        return EnergyForces(energy, -STIFFNESS * (1.0 + 4.0 * square) * away)

    def energies(self, state):
        return self.evaluate(state).energy
