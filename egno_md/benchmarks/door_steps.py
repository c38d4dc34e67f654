"""Doors as they are used, each with the same model behind it: what the benchmark has act."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import openmm
import torch
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md import VelocityVerlet as ASEVelocityVerlet
from openmm import app

from egno_md.benchmarks.model_clock import Door, ModelClock
from egno_md.calculators.escn_calculator import ESCNCalculator
from egno_md.calculators.openmm_evaluation import ForceEvaluation, ForcePlan
from egno_md.calculators.openmm_force import openmm_force
from egno_md.calculators.segment_dynamics import SegmentDynamics
from egno_md.calculators.segment_force import SegmentForceCalculator
from egno_md.calculators.segment_integrator import SegmentIntegrator
from egno_md.calculators.segment_simulation import SegmentSimulation
from egno_md.calculators.shared_models import open_shared
from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.learned import LearnedPropagator
from egno_md.roles import EnergyForces, Potential
from egno_md.state import State, maxwell_boltzmann
from egno_md.units import FS_PER_ASE_TIME, NM_PER_A, PS_PER_FS

#: Time step of force-driven doors, fs.
TIMESTEP_FS: Final = 0.5

#: Calls in a loop without a model.
LOOP: Final = 100


class FreeForces(Calculator):
    """Forces of zero at no cost: what is left is ASE."""

    implemented_properties: Any = ("energy", "forces")

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: object = ("forces",),
        system_changes: object = tuple(all_changes),
    ) -> None:
        """Answer."""
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        zeros = np.zeros((len(self.atoms), 3))  # type: ignore[arg-type]
        self.results = {"energy": 0.0, "forces": zeros}


class FreeForce:
    """A function of a `PythonForce` that returns zeros: what is left is OpenMM."""

    def __init__(self, n: int) -> None:
        """Make the zeros."""
        self._zeros = np.zeros((n, 3))

    def __call__(self, state: Any) -> tuple[float, Any]:  # noqa: ANN401
        """Answer."""
        return 0.0, self._zeros


@dataclass(frozen=True, slots=True)
class Walker:
    """What moves: one replica, with velocities.

    Attributes:
        state: the start.
        n_steps: steps that a force-driven door takes at once.
    """

    state: State
    n_steps: int

    def atoms(self) -> Atoms:
        """For ASE."""
        molecule, cell = self.state.molecule, self.state.cell
        made = Atoms(
            molecule.numbers.numpy(),
            self.state.positions[0].numpy(),
            masses=molecule.masses.numpy(),
            cell=None if cell is None else cell[0].numpy(),
            pbc=molecule.pbc,
        )
        made.set_velocities(self.state.velocities[0].numpy() * FS_PER_ASE_TIME)  # type: ignore[no-untyped-call]
        return made

    def topology(self) -> app.Topology:
        """For OpenMM."""
        made = app.Topology()
        residue = made.addResidue("MOL", made.addChain())
        atoms = [
            made.addAtom(f"A{i}", app.Element.getByAtomicNumber(z), residue)
            for i, z in enumerate(self.state.molecule.numbers.tolist())
        ]
        for i, j in self.state.molecule.bonds.tolist():
            made.addBond(atoms[i], atoms[j])
        return made

    def system(self, *forces: openmm.Force) -> openmm.System:
        """For OpenMM; it has no other forces."""
        made = openmm.System()
        for mass in self.state.molecule.masses.tolist():
            made.addParticle(mass)
        if self.state.cell is not None:
            made.setDefaultPeriodicBoxVectors(*(self.state.cell[0] * NM_PER_A).tolist())
        for force in forces:
            made.addForce(force)
        return made

    def placed(self, context: openmm.Context) -> None:
        """Put positions and velocities into a context."""
        context.setPositions(self.state.positions[0].numpy() * NM_PER_A)
        context.setVelocities(self.state.velocities[0].numpy() * (NM_PER_A / PS_PER_FS))


def potential_doors(walker: Walker, calculator: ESCNCalculator, clock: ModelClock) -> list[Door]:
    """Doors that ask for forces.

    Args:
        walker: what moves.
        calculator: one of the doors; its potential is behind all of them.
        clock: is told to watch that.
    """
    potential = calculator.potential
    clock.watch(potential, "evaluate", "atom_energies")
    n, per = walker.n_steps, "step"
    numbers = walker.state.molecule.numbers.tolist()
    periodic = any(walker.state.molecule.pbc)
    plain = _Chain(VelocityVerlet(potential, TIMESTEP_FS, TIMESTEP_FS, n), walker.state)
    learned, free = (
        ASEVelocityVerlet(_with(walker.atoms(), calc), TIMESTEP_FS * units.fs)
        for calc in (calculator, FreeForces())  # type: ignore[no-untyped-call]
    )
    ours, zeros = (
        _verlet(walker, force)
        for force in (
            openmm_force(potential, numbers, periodic=periodic),
            openmm.PythonForce(FreeForce(len(numbers))),
        )
    )
    asked = _Asked(walker, potential, 1)
    loop = _Asked(walker, FreePotential(len(numbers)), LOOP)
    return [
        Door("velocity Verlet of egno_md, no engine", per, plain.advance, n),
        Door("ASE's velocity Verlet, ESCNCalculator", per, partial(learned.run, n), n),
        Door("ASE's velocity Verlet, forces at no cost", per, partial(free.run, n), n),
        Door("the function of openmm_force alone", "call", asked.ask, 1, asked.move),
        Door("the same in a loop, a model at no cost", "call", loop.ask, LOOP, loop.move),
        Door("OpenMM's Verlet, openmm_force", per, lambda: ours.step(n), n),
        Door("OpenMM's Verlet, a function that returns zeros", per, lambda: zeros.step(n), n),
    ]


def segment_doors(
    walker: Walker, propagator: LearnedPropagator, clock: ModelClock, *, forces: bool
) -> list[Door]:
    """Doors that ask for segments.

    Args:
        walker: what moves.
        propagator: behind all of them.
        clock: is told to watch it.
        forces: whether `SegmentForceCalculator`, which asks for two replicas first, is among them.
    """
    clock.watch(propagator, "advance", "at_times")
    n = propagator.n_frames
    per = f"segment of {n} frames"
    plain = _Chain(propagator, walker.state)
    drivers = [
        SegmentDynamics(walker.atoms(), propagator, temperature_K=kelvin) for kelvin in (None, 300)
    ]
    simulation = _simulation(walker, propagator)
    system = walker.system()
    framewise = _Stepped(walker, system, SegmentIntegrator(walker.topology(), system, propagator))

    def one_by_one() -> None:
        for _ in range(n):
            simulation.step(1)

    doors = [
        Door("advance in a loop, no engine", per, plain.advance),
        Door("SegmentDynamics, constant energy", per, partial(drivers[0].run, n)),
        Door("SegmentDynamics, Langevin", per, partial(drivers[1].run, n)),
        Door(f"SegmentSimulation, step({n})", per, lambda: simulation.step(n)),
        Door(f"SegmentSimulation, {n} times step(1)", per, one_by_one),
        Door("SegmentIntegrator", "frame", lambda: framewise.step(n), n),
    ]
    if forces:
        with warnings.catch_warnings():
            # Too long a span for velocity Verlet to stay stable, which does not matter here.
            warnings.simplefilter("ignore", UserWarning)
            atoms = _with(walker.atoms(), SegmentForceCalculator(propagator))
            atoms.get_forces()  # type: ignore[no-untyped-call]
        # So short steps that the atoms stay where they are, in other bits.
        driver = ASEVelocityVerlet(atoms, 0.01 * units.fs)
        doors.append(
            Door("ASE's velocity Verlet, SegmentForceCalculator", "step", partial(driver.run, n), n)
        )
    return doors


class _Chain:
    """Segments one after the other."""

    def __init__(self, propagator: VelocityVerlet | LearnedPropagator, start: State) -> None:
        self._propagator, self._state = propagator, start

    def advance(self) -> None:
        self._state = self._propagator.advance(self._state).last


class FreePotential:
    """A potential that gives forces of zero at no cost: what is left is the door."""

    def __init__(self, n: int) -> None:
        """Make the answer."""
        zeros = torch.zeros((1, n, 3), dtype=torch.float64)
        self._answer = EnergyForces(torch.zeros(1, dtype=torch.float64), zeros)

    def evaluate(self, state: State) -> EnergyForces:
        """Answer."""
        return self._answer

    def energies(self, state: State) -> torch.Tensor:
        """Answer."""
        return self._answer.energy


class _Asked:
    """The function that OpenMM would call, with the states that OpenMM would pass."""

    def __init__(self, walker: Walker, potential: Potential, times: int) -> None:
        shared = open_shared(potential)
        molecule = walker.state.molecule
        plan = ForcePlan(shared.source, tuple(molecule.numbers.tolist()), any(molecule.pbc))
        self._ask = ForceEvaluation(plan, shared)
        self._context = openmm.Context(
            walker.system(), openmm.VerletIntegrator(TIMESTEP_FS * PS_PER_FS), _reference()
        )
        walker.placed(self._context)
        self._times = times
        self._states: list[Any] = []

    def move(self) -> None:
        """Make new states: answers are kept for old ones."""
        self._states = []
        for _ in range(self._times):
            self._context.getIntegrator().step(1)
            self._states.append(self._context.getState(positions=True))

    def ask(self) -> None:
        """Ask about each state."""
        for state in self._states:
            self._ask(state)


def _with(atoms: Atoms, calculator: Calculator) -> Atoms:
    atoms.calc = calculator
    return atoms


class _Stepped:
    """An integrator and its context, which would not live on by itself."""

    def __init__(
        self, walker: Walker, system: openmm.System, integrator: openmm.Integrator
    ) -> None:
        self.context = openmm.Context(system, integrator, _reference())
        walker.placed(self.context)

    def step(self, n: int) -> None:
        self.context.getIntegrator().step(n)


def _verlet(walker: Walker, force: openmm.Force) -> _Stepped:
    integrator = openmm.VerletIntegrator(TIMESTEP_FS * PS_PER_FS)
    return _Stepped(walker, walker.system(force), integrator)


def _simulation(walker: Walker, propagator: LearnedPropagator) -> SegmentSimulation:
    made = SegmentSimulation(walker.topology(), walker.system(), propagator, platform=_reference())
    walker.placed(made.context)
    return made


def _reference() -> openmm.Platform:
    """The platform that is fastest for few atoms, and keeps to one thread."""
    return openmm.Platform.getPlatformByName("Reference")


def with_speeds(state: State, kelvin: float, seed: int) -> State:
    """Return the state with velocities of a temperature.

    Args:
        state: one replica.
        kelvin: temperature.
        seed: of the velocities.
    """
    noise = torch.Generator().manual_seed(seed)
    return state.with_(velocities=maxwell_boltzmann(state.molecule, 1, kelvin, noise))
