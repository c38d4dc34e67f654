"""Atoms on springs to their places, as an OpenMM system and as an exact propagator."""

from __future__ import annotations

import openmm
import torch
from openmm import app

from egno_md.segment import MadeBy, Segment

#: Stiffness, kJ/mol/nm^2; a carbon atom on it swings once in 0.22 ps.
STIFFNESS = 10_000.0
REFERENCE = openmm.Platform.getPlatformByName("Reference")


def carbons(n_atoms: int, masses: list[float] | None = None):
    """A topology of unbound carbon atoms and a system with a spring on each."""
    topology = app.Topology()
    chain = topology.addChain()
    system = openmm.System()
    force = openmm.CustomExternalForce(f"{STIFFNESS / 2}*((x-x0)^2+y^2+z^2)")
    force.addPerParticleParameter("x0")
    for i in range(n_atoms):
        residue = topology.addResidue("C", chain)
        topology.addAtom(f"C{i}", app.Element.getBySymbol("C"), residue)
        system.addParticle(12.0 if masses is None else masses[i])
        force.addParticle(i, [0.3 * i])
    system.addForce(force)
    return topology, system


class ExactWells:
    """The exact motion of `carbons`; counts its segments and remembers the last start."""

    reversible = volume_preserving = True

    def __init__(self, n_frames: int = 8, frame_interval_fs: float = 20.0, centres=None) -> None:
        self.n_frames, self.frame_interval_fs = n_frames, frame_interval_fs
        self.calls, self.start = 0, None
        self.centres = centres
        self.damage = lambda segment: None

    def advance(self, state, n_frames=None):
        self.calls, self.start = self.calls + 1, state
        n = self.n_frames if n_frames is None else n_frames
        times = self.frame_interval_fs * torch.arange(1, n + 1, dtype=torch.float64)
        masses = state.molecule.masses
        # A carbon's 12 amu, kJ/mol/nm^2 and ps give w^2 = k / m in 1/ps^2.
        w = (STIFFNESS / masses).sqrt() * 1e-3
        phase = times[:, None] * w
        c, s = phase.cos()[..., None], phase.sin()[..., None]
        home = torch.zeros_like(state.positions[0])
        home[:, 0] = 3.0 * torch.arange(len(home)) if self.centres is None else self.centres
        x, v = (state.positions[0] - home)[None], state.velocities[0][None]
        w = w[None, :, None]
        segment = Segment(
            state.molecule,
            state.time_fs + times,
            (home + x * c + v / w * s)[None],
            (v * c - x * w * s)[None],
            torch.full((1, n), int(MadeBy.NETWORK), dtype=torch.int8),
            cell=state.cell,
        )
        self.damage(segment)
        return segment

    def restart_state(self):
        return {"calls": torch.tensor(self.calls)}

    def restore(self, saved):
        self.calls = int(saved["calls"])


def positions_of(simulation):
    return simulation.context.getState(positions=True).getPositions(asNumpy=True)._value


def velocities_of(simulation):
    return simulation.context.getState(velocities=True).getVelocities(asNumpy=True)._value


def start(simulation, seed: int = 0, kelvin: float = 300.0) -> None:
    """Put atoms a little off their places."""
    generator = torch.Generator().manual_seed(seed)
    n = simulation.system.getNumParticles()
    x = 0.01 * torch.randn((n, 3), generator=generator, dtype=torch.float64)
    x[:, 0] += 0.3 * torch.arange(n)
    simulation.context.setPositions(x.numpy())
    simulation.context.setVelocitiesToTemperature(kelvin, seed + 1)
