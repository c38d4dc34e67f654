"""Longer steps for eSCN: a cheap potential inside, what it misses outside (r-RESPA).

The energy is eSCN's in every row. With V of a smaller eSCN, or of `bonded_force_field`, r-RESPA
(Tuckerman, Berne and Martyna, J. Chem. Phys. 97, 1990 (1992)) integrates V in short inner steps and
eSCN - V, which has nothing stiff left, once in an outer step: eSCN is asked once per outer step.

OpenMM does this with force groups: V in group 0; eSCN and -V in group 1.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import openmm
import torch

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.bonded_force_field import fitted, openmm_forces, terms_at
from egno_md.benchmarks.model_clock import ModelClock
from egno_md.benchmarks.rollout_subject import find_file
from egno_md.benchmarks.table import Cell, Table
from egno_md.bundle import load_bundle
from egno_md.calculators.escn_calculator import ESCNCalculator
from egno_md.calculators.openmm_force import openmm_force
from egno_md.models.frozen_graph import Compiling
from egno_md.propagators.classical import Langevin
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.propagators.multiple_time_step import Correction
from egno_md.propagators.potential_bundles import POTENTIAL_KINDS, potential_of
from egno_md.roles import Potential
from egno_md.state import State, maxwell_boltzmann
from egno_md.units import BOLTZMANN_EV_PER_K, KJ_PER_MOL, NM_PER_A, PS_PER_FS

#: eSCN evaluations of every row and start, where no length is asked for: rows cost the same then
#: and differ in length.
N_CALLS: Final = 500

#: From this length on, ps, eSCN is compiled.
_COMPILE_FROM_PS: Final = 5.0

#: Time between energies that are looked at, fs; every outer step divides it.
_LOOK_FS: Final = 16.0

#: Inner step, fs.
_INNER_FS: Final = 0.5

#: Temperature at which frames for the fit are sampled, K, and their number.
_HOT_K: Final = 450.0
_N_FRAMES: Final = (16, 8)

_BUNDLE: Final = "ethanol-escn"


@dataclass(frozen=True, slots=True)
class Scheme:
    """A row.

    Attributes:
        outer_fs: time between evaluations of eSCN.
        split: whether the force field goes inside.
        friction_per_ps: of a Langevin bath; None: constant energy.
    """

    outer_fs: float
    split: bool
    friction_per_ps: float | None = None

    def integrator(self, kelvin: float, seed: int) -> openmm.Integrator:
        """Make the integrator; without a split it is velocity Verlet."""
        groups = [(1, 1), (0, round(self.outer_fs / _INNER_FS))] if self.split else [(1, 1)]
        step_ps = self.outer_fs * PS_PER_FS
        if self.friction_per_ps is None:
            return openmm.MTSIntegrator(step_ps, groups)
        made = openmm.MTSLangevinIntegrator(kelvin, self.friction_per_ps, step_ps, groups)
        made.setRandomNumberSeed(seed)
        return made


SCHEMES: Final[Mapping[str, Scheme]] = {
    "Verlet, 0.5 fs": Scheme(0.5, False),
    "Verlet, 1 fs": Scheme(1.0, False),
    "Verlet, 2 fs": Scheme(2.0, False),
    "MTS, 2 fs": Scheme(2.0, True),
    "MTS, 4 fs": Scheme(4.0, True),
    "MTS, Langevin 10/ps, 2 fs": Scheme(2.0, True, 10.0),
    "MTS, Langevin 10/ps, 4 fs": Scheme(4.0, True, 10.0),
}


@dataclass(slots=True)
class Run:
    """What a row's runs gave.

    Attributes:
        slopes: of the total energy, meV/atom/ps, for each start.
        wobbles: rms about that line, meV/atom.
        kelvins: mean temperature of each start.
        hydrogens: the same of hydrogens over that of the other atoms.
        failed_ps: when starts failed; what they gave before is not counted.
        seconds: processor time, inside and outside the model.
        calls: evaluations.
        length_ps: simulated.
    """

    slopes: list[float] = field(default_factory=list)
    wobbles: list[float] = field(default_factory=list)
    kelvins: list[float] = field(default_factory=list)
    hydrogens: list[float] = field(default_factory=list)
    failed_ps: list[float] = field(default_factory=list)
    seconds: float = 0.0
    calls: int = 0
    length_ps: float = 0.0


def time_step_table(config: BenchmarkConfig) -> Table:
    """Run every scheme from the same starts.

    Args:
        config: `n_replicas` starts instead of 3; `length_ps` of every run; `potentials`, the
            true bundle and a cheap one; temperature and first seed.

    Raises:
        ValueError: if more than two potentials are named.
    """
    compiled = (config.length_ps or 0.0) >= _COMPILE_FROM_PS
    names = config.potentials or (_BUNDLE,)
    calculator = ESCNCalculator(names[0], compile=compiled)
    potential = calculator.potential
    minimum = _minimum(calculator)
    draw = torch.Generator().manual_seed(config.seeds[0])
    frames = _sampled(potential, minimum, draw)
    inside = _inside(names, potential, minimum, frames, compiled=compiled)
    n_starts = min(config.n_replicas or 3, frames.n_replicas)
    # The last frames of as many replicas.
    x = frames.positions[-n_starts:]
    v = maxwell_boltzmann(minimum.molecule, n_starts, config.temperature_K, draw)
    starts = State(minimum.molecule, x, v, 0.0)
    clock = ModelClock()
    clock.watch(potential, "evaluate")
    runs = {name: Run() for name in SCHEMES}
    for r in range(n_starts):
        for name, scheme in SCHEMES.items():
            system = _system(potential, starts, inside if scheme.split else None)
            integrator = scheme.integrator(config.temperature_K, config.seeds[0] + r)
            looks = _looks(config.length_ps, scheme)
            _follow(system, integrator, starts.replica(r), scheme, looks, clock, runs[name])
    each = f"{N_CALLS} evaluations" if config.length_ps is None else f"{config.length_ps:g} ps"
    about = (Path(names[0]).name, inside.name, "float32, compiled" if compiled else "float32")
    return _table(runs, n_starts, about, each, inside.missed)


@dataclass(frozen=True, slots=True)
class _Inside:
    """The cheap potential.

    Attributes:
        name: of it.
        missed: share of the true force that it misses, rms.
        forces: makes the forces for OpenMM: its own in group 0, in group 1 what it misses.
    """

    name: str
    missed: float
    forces: Callable[[], list[openmm.Force]]


def _inside(
    names: Sequence[str],
    potential: Potential,
    minimum: State,
    frames: State,
    *,
    compiled: bool,
) -> _Inside:
    """The second bundle, or a force field fitted to the first.

    Raises:
        ValueError: if more than two are named.
    """
    if len(names) > 2:
        raise ValueError(f"potentials are the true one and a cheap one, got {len(names)}")
    wanted = potential.evaluate(frames).forces.double()
    numbers = minimum.molecule.numbers.tolist()
    if len(names) == 2:
        cheap = potential_of(load_bundle(names[1], kind=POTENTIAL_KINDS))
        if compiled and isinstance(cheap, ESCNPotential):
            cheap.compile(Compiling())
        missed = (cheap.evaluate(frames).forces.double() - wanted).norm() / wanted.norm()

        def networks() -> list[openmm.Force]:
            return [openmm_force(cheap, numbers), _slow(Correction(potential, cheap), numbers)]

        return _Inside(Path(names[1]).name, float(missed), networks)
    terms = terms_at(minimum)
    constants = fitted(terms, potential, frames)
    x = frames.positions.clone().requires_grad_()
    found = -torch.autograd.grad((terms.shapes(x) @ constants).sum(), x)[0]
    missed = (found - wanted).norm() / wanted.norm()

    def bonded() -> list[openmm.Force]:
        fast = openmm_forces(terms, constants, sign=1.0, group=0)
        taken = openmm_forces(terms, constants, sign=-1.0, group=1)
        return [*fast, *taken, _slow(potential, numbers)]

    return _Inside("a bonded force field fitted to it", float(missed), bonded)


def _slow(potential: Potential, numbers: list[int]) -> openmm.Force:
    force = openmm_force(potential, numbers)
    force.setForceGroup(1)
    return force


def _looks(length_ps: float | None, scheme: Scheme) -> int:
    """How often energies are looked at."""
    if length_ps is None:
        return max(2, N_CALLS // round(_LOOK_FS / scheme.outer_fs))
    return max(2, round(length_ps / (_LOOK_FS * PS_PER_FS)))


def _minimum(calculator: ESCNCalculator) -> State:
    """Ethanol at rest where its energy is least."""
    import ase.io
    from ase.optimize import BFGS

    from egno_md.ase_atoms import state_from_atoms

    atoms = ase.io.read(find_file("ethanol.xyz", None))
    atoms.calc = calculator  # type: ignore[union-attr]
    BFGS(atoms, logfile=None).run(fmax=0.005, steps=300)  # type: ignore[arg-type, no-untyped-call]
    return state_from_atoms(atoms, at_rest=True)  # type: ignore[arg-type]


def _sampled(potential: Potential, minimum: State, draw: torch.Generator) -> State:
    """Frames of hot dynamics, a replica each."""
    molecule, (n, per) = minimum.molecule, _N_FRAMES
    # Half of the energy that this puts into the velocities goes into the springs.
    hot = maxwell_boltzmann(molecule, n, 2.0 * _HOT_K, draw)
    start = State(molecule, minimum.positions.expand(n, -1, -1).clone(), hot, 0.0)
    bath = Langevin(potential, 1.0, 25.0, per, _HOT_K, 20.0, draw)
    x = bath.advance(start).positions
    return State.at_rest(molecule, x.transpose(0, 1).reshape(-1, molecule.n_atoms, 3))


def _system(potential: Potential, state: State, inside: _Inside | None) -> openmm.System:
    """What is asked once in an outer step in group 1, and what is inside in group 0."""
    system = openmm.System()
    for mass in state.molecule.masses.tolist():
        system.addParticle(mass)
    numbers = state.molecule.numbers.tolist()
    forces = [_slow(potential, numbers)] if inside is None else inside.forces()
    for force in forces:
        system.addForce(force)
    return system


def _follow(
    system: openmm.System,
    integrator: openmm.Integrator,
    start: State,
    scheme: Scheme,
    looks: int,
    clock: ModelClock,
    run: Run,
) -> None:
    """Run one start and note what came out."""
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    context.setPositions(start.positions[0].numpy() * NM_PER_A)
    context.setVelocities(start.velocities[0].numpy() * (NM_PER_A / PS_PER_FS))
    n = start.molecule.n_atoms
    masses = start.molecule.masses.numpy()
    light = start.molecule.numbers.numpy() == 1
    every = round(_LOOK_FS / scheme.outer_fs)
    calls, began = clock.calls, time.process_time()
    energies, squares = [], []
    for k in range(looks):
        try:
            integrator.step(every)
        except openmm.OpenMMException:
            run.failed_ps.append(k * _LOOK_FS * PS_PER_FS)
            return
        seen = context.getState(energy=True, velocities=True)
        kinetic = seen.getKineticEnergy()._value * KJ_PER_MOL
        energies.append(1e3 * (seen.getPotentialEnergy()._value * KJ_PER_MOL + kinetic) / n)
        v = seen.getVelocities(asNumpy=True)._value
        squares.append(masses * (v * v).sum(1))
    run.seconds += time.process_time() - began
    run.calls += clock.calls - calls
    run.length_ps += looks * _LOOK_FS * PS_PER_FS
    times = [k * _LOOK_FS * PS_PER_FS for k in range(looks)]
    slope, offset = statistics.linear_regression(times, energies)
    off = [e - offset - slope * t for t, e in zip(times, energies, strict=True)]
    run.slopes.append(slope)
    run.wobbles.append(statistics.fmean(e * e for e in off) ** 0.5)
    # In amu nm^2/ps^2, which is kJ/mol.
    per_atom = np.mean(squares, 0) * KJ_PER_MOL / (3.0 * BOLTZMANN_EV_PER_K)
    run.kelvins.append(float(per_atom.mean()))
    run.hydrogens.append(float(per_atom[light].mean() / per_atom[~light].mean()))


def _table(
    runs: Mapping[str, Run],
    n_starts: int,
    about: tuple[str, str, str],
    each: str,
    missed: float,
) -> Table:
    true, inside, how = about
    table = Table(
        "doors-time-steps",
        f"Ethanol by eSCN (bundle {true}) in OpenMM, Reference platform, {how}: velocity Verlet, "
        f"and multiple time steps (MTSIntegrator, MTSLangevinIntegrator) with {inside} inside "
        f"({_INNER_FS:g} fs) and what it misses outside; the energy is that of {true} in every "
        f"row. {n_starts} starts, mean ± spread, {each} each. "
        "Drift: slope of the total energy; wobble: rms about that line.",
        (
            "scheme", "ps", "eSCN calls per ps", "CPU s per ps", "times 0.5 fs", "times 1 fs",
            "drift, meV/atom/ps", "wobble, meV/atom", "T, K", "T(H)/T(others)",
        ),
    )  # fmt: skip
    costs = {name: run.seconds / run.length_ps for name, run in runs.items() if run.length_ps}
    for name, run in runs.items():
        if run.failed_ps:
            at = ", ".join(f"{t:.1f}" for t in run.failed_ps)
            table.notes.append(
                f"{name}: {len(run.failed_ps)} of {n_starts} starts failed, after {at} ps."
            )
        if name not in costs:
            table.add(name, *(None,) * (len(table.columns) - 1))
            continue
        bath = SCHEMES[name].friction_per_ps is not None
        table.add(
            name,
            run.length_ps,
            run.calls / run.length_ps,
            costs[name],
            costs["Verlet, 0.5 fs"] / costs[name],
            costs["Verlet, 1 fs"] / costs[name],
            None if bath else Cell.of(run.slopes),
            None if bath else Cell.of(run.wobbles),
            Cell.of(run.kelvins),
            Cell.of(run.hydrogens),
        )
    table.notes.append(f"What is inside misses {100 * missed:.2g} % of the true forces (rms).")
    return table
