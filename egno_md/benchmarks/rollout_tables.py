"""The tables of long runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from egno_md.benchmarks.rollout_measures import Heating, Record
from egno_md.benchmarks.rollout_reference import TIMESTEP_FS, WINDOW_TIMESTEP_FS, RolloutPlan
from egno_md.benchmarks.table import Cell, Table
from egno_md.state import Molecule
from egno_md.trajectories.comparison import Comparison, Difference
from egno_md.trajectories.divergence import sampling_floor
from egno_md.trajectories.run_setup import seeded
from egno_md.trajectories.vibrations import spectral_gap, spectral_overlap

#: Times of the segment errors, fs.
TIMES_FS = (4, 8, 16, 32)


@dataclass(slots=True)
class RolloutResult:
    """What was measured of one bundle; what was not asked for is None or empty.

    Attributes:
        name: of the bundle.
        potential: name of the true potential.
        molecule: what moved.
        run: record of the chained run.
        reference: record of the classical run.
        comparison: of the two.
        heating: without a bath.
        segments: measures of segments by temperature, K.
        kept: what is conserved, and how well.
    """

    name: str
    potential: str
    molecule: Molecule
    run: Record | None = None
    reference: Record | None = None
    comparison: Comparison | None = None
    heating: Heating | None = None
    segments: dict[float, dict[str, float]] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)


def tables_of(results: Sequence[RolloutResult], plan: RolloutPlan) -> list[Table]:
    """Make the tables; those without rows are left out.

    Args:
        results: one for each bundle.
        plan: the protocol, for the captions.
    """
    made = [
        _rollouts(results, plan),
        _temperatures(results, plan),
        _divergences(results),
        _heating(results, plan),
        _segments(results, plan),
        _conservation(results),
    ]
    return [table for table in made if table.rows]


def _chained(plan: RolloutPlan) -> str:
    return (
        "Learned segments with friction and noise between them (Langevin, "
        f"{plan.temperature_K:g} K, {plan.friction_per_ps:g}/ps), no guard, "
        f"{plan.n_replicas} replicas of {plan.length_ps:g} ps; seed {plan.seed}. Reference: "
        f"Langevin with the true potential, {TIMESTEP_FS:g} fs steps, the same bath and frames, "
        f"{plan.n_reference} replicas of {plan.reference_ps:g} ps after {plan.burn_in_ps:g} ps."
    )


def _rollouts(results: Sequence[RolloutResult], plan: RolloutPlan) -> Table:
    table = Table(
        "rollouts",
        _chained(plan)
        + " Failed: a bond 0.5 Å off, or NaN. JSD: Jensen-Shannon divergence, natural logarithm; "
        "floor: of pieces of the reference as long as the run, against the rest. Overlap: common "
        "area of the normalised spectra of mass-weighted velocities.",
        (
            "bundle",
            "true potential",
            "replicas failed",
            "first failure, ps",
            "bond JSD, mean",
            "its floor",
            "worst bond JSD / floor",
            "worst torsion JSD / floor",
            "VDOS overlap",
            "reference against reference",
        ),
    )
    for one in results:
        if one.run is None:
            continue
        failed = one.run["failed_fs"]
        first = failed[~torch.isnan(failed)]
        mean = one.comparison.bond_mean if one.comparison else None
        table.add(
            one.name,
            one.potential,
            f"{len(first)} of {len(failed)}",
            float(first.min()) * 1e-3 if len(first) else None,
            _difference(mean),
            mean.floor if mean else None,
            _worst(one.comparison.bonds if one.comparison else ()),
            _worst(one.comparison.torsions if one.comparison else ()),
            *_overlaps(one, plan),
        )
    return table


def _difference(found: Difference | None) -> Cell | None:
    if found is None:
        return None
    return Cell(found.value, None if math.isnan(found.error) else found.error)


def _worst(found: Sequence[Difference]) -> float | None:
    return max((d.ratio for d in found), default=None)


def _overlaps(one: RolloutResult, plan: RolloutPlan) -> tuple[float | None, float | None]:
    """Overlap of run and reference, and of pieces of the reference as long as the run."""
    if one.run is None or one.reference is None:
        return None, None
    mine, theirs = one.run["vdos_power"], one.reference["vdos_power"]
    n_run, n_reference = (r["vdos_windows"] for r in (one.run, one.reference))
    if not int(n_run.sum()) or not int(n_reference.sum()):
        return None, None
    filled = theirs[n_reference > 0]
    length = float(n_run.sum()) / float(n_reference[n_reference > 0].double().mean())
    draws = seeded(plan.seed, "spectra")
    floor = sampling_floor(filled, length, spectral_gap, draws, noise_power=0.5)
    return float(spectral_overlap(mine.sum(0), theirs.sum(0))), 1.0 - float(floor.mean)


def _temperatures(results: Sequence[RolloutResult], plan: RolloutPlan) -> Table:
    from ase.data import chemical_symbols

    table = Table(
        "rollout-temperatures",
        "The runs of the table `rollouts`: kinetic temperature ± its standard error, by element.",
        ("bundle", "element", "T, K", "off the bath, %", "reference T, K"),
        notes=[
            "Velocities of the reference's integrator are too cold by (omega dt)^2 / 4, "
            "about 2 % for X-H stretches."
        ],
    )
    for one in results:
        if one.run is None or one.reference is None or "elements" not in one.run:
            continue
        key, error = "element_temperature_mean_K", "element_temperature_error_K"
        for k, z in enumerate(one.run["elements"].tolist()):
            here, there = (
                Cell(float(record[key][k]), float(record[error][k]))
                for record in (one.run, one.reference)
            )
            off = 100.0 / plan.temperature_K
            deviation = Cell(off * (here.mean - plan.temperature_K), off * (here.spread or 0.0))
            table.add(one.name, chemical_symbols[z], here, deviation, there)
    return table


def _divergences(results: Sequence[RolloutResult]) -> Table:
    table = Table(
        "rollout-divergences",
        "The runs of the table `rollouts`: Jensen-Shannon divergence (natural logarithm) of each "
        "class of alike bonds and torsions ± its error; floor: reference against reference at the "
        "run's length.",
        ("bundle", "what", "JSD", "floor, mean", "floor, 95 %", "JSD / floor"),
    )
    for one in results:
        if one.comparison is None:
            continue
        for kind, found in (("bond", one.comparison.bonds), ("torsion", one.comparison.torsions)):
            for d in found:
                row = (_difference(d), d.floor, d.floor_high, d.ratio)
                table.add(one.name, f"{kind} {d.label}", *row)
    return table


def _heating(results: Sequence[RolloutResult], plan: RolloutPlan) -> Table:
    table = Table(
        "rollout-nve",
        f"Learned segments alone, no bath, no guard: slope of the true total energy over "
        f"{plan.nve_ps:g} ps, mean of {plan.n_replicas} replicas ± its standard error, started "
        f"from {plan.temperature_K:g} K. Segment errors of fresh "
        "windows at 300 K.",
        (
            "bundle",
            "heating, meV/atom/ps",
            "replicas failed",
            "x error / displacement at 8 fs, %",
            "v error / change at 8 fs, %",
            "rms true-energy error at 8 fs, meV/atom",
        ),
    )
    for one in results:
        if one.heating is None:
            continue
        slopes, at = one.heating.per_replica, one.segments.get(300.0, {})
        cell = Cell.of(slopes) if slopes else None
        if cell is not None and cell.spread is not None:
            cell = Cell(cell.mean, cell.spread / math.sqrt(cell.n), cell.n)
        table.add(
            one.name,
            cell,
            f"{one.heating.n_failed} of {one.heating.n_failed + len(slopes)}",
            _percent(_first_from(at, "x_error", 8)),
            _percent(_first_from(at, "v_error", 8)),
            _first_from(at, "energy_meV", 8),
        )
    return table


def _first_from(measures: Mapping[str, float], name: str, time_fs: int) -> float | None:
    """A measure at the first frame from a time on: steps of 3 fs have none at 8 fs, but at 9."""
    times = (key[len(name) + 1 : -2] for key in measures if key.startswith(f"{name}_"))
    later = [t for t in times if t.replace(".", "", 1).isdigit() and float(t) >= time_fs - 1e-6]
    return measures[f"{name}_{min(later, key=float)}fs"] if later else None


def _percent(value: float | None) -> float | None:
    return None if value is None else 100.0 * value


def _segments(results: Sequence[RolloutResult], plan: RolloutPlan) -> Table:
    table = Table(
        "rollout-segments",
        f"Chained segments against {plan.n_windows} fresh windows of the true potential at "
        f"constant energy ({WINDOW_TIMESTEP_FS:g} fs steps): root mean square error of positions "
        "over that of the displacement, of velocities over that of their change, and the mean "
        "error of the kinetic energy ± its standard error. At the network's first frame from each "
        "time on.",
        (
            "bundle",
            "T, K",
            *(f"x at {t} fs, %" for t in TIMES_FS),
            *(f"v at {t} fs, %" for t in TIMES_FS),
            "kinetic energy at 8 fs, kJ/mol",
        ),
    )
    for one in results:
        for kelvin, at in one.segments.items():
            kinetic = _first_from(at, "kinetic_mean", 8)
            spread = _first_from(at, "kinetic_mean_error", 8)
            table.add(
                one.name,
                kelvin,
                *(_percent(_first_from(at, "x_error", t)) for t in TIMES_FS),
                *(_percent(_first_from(at, "v_error", t)) for t in TIMES_FS),
                None if kinetic is None else Cell(kinetic, spread),
            )
    return table


def _conservation(results: Sequence[RolloutResult]) -> Table:
    table = Table(
        "rollout-conservation",
        "One segment in float64 from states of equilibrium, worst replica: forward, flip, forward; "
        "changes of momentum and angular momentum over the sum of the atoms' own; one application "
        "of the map at one state: its Jacobian J, symplectic where J^T W J = W.",
        (
            "bundle",
            "atoms",
            "reversal, Å",
            "momentum",
            "angular momentum",
            "det J - 1, its size",
            "J^T W J - W, largest",
        ),
    )
    for one in results:
        if one.kept:
            cells = ("reversal_A", "linear", "angular", "volume", "symplectic")
            row = (f"{one.kept[c]:.1e}" if c in one.kept else None for c in cells)
            table.add(one.name, one.molecule.n_atoms, *row)
    return table
