"""Atoms on springs, whose motion is known: potential, propagator and ASE atoms."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms

from egno_md.ase_atoms import state_from_atoms
from egno_md.calculators.segment_dynamics import SegmentDynamics
from egno_md.roles import EnergyForces
from egno_md.segment import MadeBy, Segment
from egno_md.state import State
from egno_md.units import ACCELERATION_PER_FORCE, FS_PER_ASE_TIME

STIFFNESS = 5.0  # eV/Å^2


def some_atoms(n: int = 3, spread: float = 0.1, seed: int = 0) -> Atoms:
    """Carbon and hydrogen, 3 Å apart, near their tethers, with momenta."""
    draw = np.random.default_rng(seed)
    home = homes(n)
    atoms = Atoms(["CH"[i % 2] for i in range(n)], positions=home)
    atoms.positions += spread * draw.standard_normal((n, 3))
    atoms.set_momenta(0.3 * draw.standard_normal((n, 3)))
    return atoms


def homes(n: int) -> np.ndarray:
    """Where the tethers end, `(n, 3)` Å."""
    return np.array([[3.0 * i, 0.5 * (i % 3), 0.0] for i in range(n)])


class Tethers:
    """A potential: every atom on its own spring; counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def evaluate(self, state):
        self.calls += 1
        away = state.positions - torch.from_numpy(homes(state.molecule.n_atoms))
        return EnergyForces(self.energies(state), -STIFFNESS * away)

    def energies(self, state):
        away = state.positions - torch.from_numpy(homes(state.molecule.n_atoms))
        return 0.5 * STIFFNESS * away.square().sum((1, 2))


class Oscillators:
    """A propagator: the exact motion on the springs, or without any; counts its segments."""

    reversible = volume_preserving = True

    def __init__(self, n_frames=5, frame_interval_fs=2.0, springs=True) -> None:
        self.n_frames, self.frame_interval_fs, self.springs = n_frames, frame_interval_fs, springs
        self.calls = 0
        self.damage = None

    def moved(self, state, t):
        x, v = state.positions, state.velocities
        if not self.springs:
            return x + v * t, v
        home = torch.from_numpy(homes(state.molecule.n_atoms))
        w = (STIFFNESS * ACCELERATION_PER_FORCE / state.molecule.masses).sqrt()[:, None]
        c, s = torch.cos(w * t), torch.sin(w * t)
        return home + (x - home) * c + v * s / w, -w * (x - home) * s + v * c

    def advance(self, state: State, n_frames=None) -> Segment:
        self.calls += 1
        count = self.n_frames if n_frames is None else n_frames
        times = self.frame_interval_fs * torch.arange(1, count + 1, dtype=torch.float64)
        frames = [self.moved(state, t) for t in times]
        x, v = (torch.stack([f[k] for f in frames], 1) for k in (0, 1))
        made_by = torch.full(tuple(x.shape[:2]), int(MadeBy.NETWORK), dtype=torch.int8)
        times = state.time_fs + times
        segment = Segment(state.molecule, times, x, v, made_by, cell=state.cell)
        if self.damage is not None:
            self.damage(segment)
        return segment

    def restart_state(self):
        return {"calls": torch.tensor(self.calls)}

    def restore(self, saved):
        self.calls = int(saved["calls"])


BATHS = [
    {},
    {"temperature_K": 300.0},
    {"temperature_K": 300.0, "thermostat": "bussi"},
    {"temperature_K": 300.0, "thermostat": "andersen"},
]


def driver(atoms: Atoms, propagator=None, **options) -> SegmentDynamics:
    return SegmentDynamics(atoms, propagator or Oscillators(), bonds=[], **options)


def exact(atoms: Atoms, fs: float) -> tuple[np.ndarray, np.ndarray]:
    """Where tethered atoms are later, and their velocities in ASE's unit."""
    x, v = Oscillators().moved(state_from_atoms(atoms), torch.tensor(fs).double())
    return x[0].numpy(), v[0].numpy() * FS_PER_ASE_TIME
