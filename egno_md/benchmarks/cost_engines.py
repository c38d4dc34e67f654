"""Engines whose processor time is compared: each moves replicas of a molecule on by a piece."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import openmm
import torch
from openmm import app

from egno_md.bundle import Bundle
from egno_md.calculators.potential_from_ase import ASEPotential
from egno_md.calculators.potential_from_openmm import FORCE_FIELDS
from egno_md.models.frozen_graph import Compiling
from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.propagators.learned import LearnedPropagator
from egno_md.roles import Propagator
from egno_md.state import State

#: Time step of every classical engine, fs.
TIMESTEP_FS = 0.5

#: Steps between two frames of velocity Verlet; the fewer, the shorter a piece.
_STEPS_PER_FRAME = 2

#: Steps of OpenMM at once; a call from Python costs as much as a step.
_OPENMM_STEPS = 200


class Engine(Protocol):
    """Moves replicas on."""

    @property
    def span_fs(self) -> float:
        """Time that one piece covers, of every replica."""
        ...

    @property
    def n_replicas(self) -> int:
        """Replicas that it moves."""
        ...

    def reset(self) -> None:
        """Go back to the start."""
        ...

    def advance(self) -> None:
        """Move every replica on by one piece."""
        ...


class PropagatorEngine:
    """Propagators, each with replicas of its own, one after the other."""

    def __init__(self, propagators: Sequence[Propagator], starts: Sequence[State]) -> None:
        """Put them together.

        Args:
            propagators: one that moves all replicas, or one for each.
            starts: what each begins with.
        """
        self._propagators, self._starts = tuple(propagators), tuple(starts)
        self._states = list(starts)

    @property
    def span_fs(self) -> float:
        """A full segment."""
        first = self._propagators[0]
        return first.n_frames * first.frame_interval_fs

    @property
    def n_replicas(self) -> int:
        """Replicas of all propagators."""
        return sum(start.n_replicas for start in self._starts)

    def reset(self) -> None:
        """Go back to the starts."""
        self._states = list(self._starts)

    def advance(self) -> None:
        """Move each on by a segment."""
        for k, propagator in enumerate(self._propagators):
            self._states[k] = propagator.advance(self._states[k]).last


class OpenMMEngine:
    """A force field of OpenMM under OpenMM's own integrator, one context for each replica."""

    def __init__(self, force_field: str, structure: Path, start: State, platform: str) -> None:
        """Set the contexts up.

        Args:
            force_field: short name, such as amber14.
            structure: PDB file.
            start: gives positions and velocities of the replicas.
            platform: Reference or CPU.

        Raises:
            ValueError: if the force field does not fit the structure.
        """
        try:
            topology = app.PDBFile(str(structure)).topology
            system = app.ForceField(*FORCE_FIELDS[force_field]).createSystem(
                topology,
                nonbondedMethod=app.NoCutoff,
                constraints=None,
                rigidWater=False,
                removeCMMotion=False,
            )
        except Exception as error:  # OpenMM raises whatever its parsing meets
            raise ValueError(f"force field {force_field} and {structure}: {error}") from error
        options = {"Threads": "1"} if platform == "CPU" else {}
        self._start = start
        self._contexts = [
            openmm.Context(
                system,
                openmm.VerletIntegrator(TIMESTEP_FS * 1e-3),
                openmm.Platform.getPlatformByName(platform),
                options,
            )
            for _ in range(start.n_replicas)
        ]

    @property
    def span_fs(self) -> float:
        """Some hundred steps."""
        return _OPENMM_STEPS * TIMESTEP_FS

    @property
    def n_replicas(self) -> int:
        """Contexts."""
        return len(self._contexts)

    def reset(self) -> None:
        """Hand over the start: nm, and nm/ps."""
        for r, context in enumerate(self._contexts):
            context.setPositions(0.1 * self._start.positions[r].numpy())
            context.setVelocities(100.0 * self._start.velocities[r].numpy())

    def advance(self) -> None:
        """Step each context."""
        for context in self._contexts:
            context.getIntegrator().step(_OPENMM_STEPS)


def egno_engine(bundle: Bundle, start: State, *, compiled: bool) -> PropagatorEngine:
    """Segments of a bundle, all replicas at once.

    Args:
        bundle: of kind egno.
        start: the replicas.
        compiled: whether stages are compiled, on the first piece.

    Raises:
        ValueError: if the bundle does not suit the molecule.
    """
    how = Compiling(strict=True) if compiled else False
    return PropagatorEngine(
        [LearnedPropagator.from_bundle(bundle, start.molecule, compile=how)], [start]
    )


def escn_engine(bundle: Bundle, start: State, *, compiled: bool) -> PropagatorEngine:
    """Velocity Verlet with an eSCN potential, all replicas at once.

    Args:
        bundle: of kind escn.
        start: the replicas.
        compiled: whether energies and forces are compiled, on the first piece.
    """
    how = Compiling(strict=True) if compiled else False
    potential = ESCNPotential(bundle, dtype=torch.float32, compile=how)
    return PropagatorEngine([_verlet(potential)], [start])


def xtb_engine(start: State, n_threads: int) -> PropagatorEngine:
    """Velocity Verlet with GFN2-xTB, for each replica a calculator that knows its last density.

    Args:
        start: the replicas, neutral and of closed shell.
        n_threads: threads of the program.

    Raises:
        ModuleNotFoundError: if tblite is not installed.
    """
    with _openmp_threads(n_threads):
        from tblite.ase import TBLite

        made = [TBLite(method="GFN2-xTB", verbosity=0) for _ in range(start.n_replicas)]
        starts = [start.replica(r) for r in range(start.n_replicas)]
        return PropagatorEngine([_verlet(ASEPotential(one)) for one in made], starts)


def _verlet(potential: ESCNPotential | ASEPotential) -> VelocityVerlet:
    return VelocityVerlet(potential, TIMESTEP_FS, _STEPS_PER_FRAME * TIMESTEP_FS, 1)


@contextmanager
def _openmp_threads(n: int) -> Iterator[None]:
    """Let an OpenMP runtime that is loaded within use so many threads; it reads this only once."""
    name = "OMP_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = str(n)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
