"""The classical rivals of a run, with costs computed from one measured step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from egno_md.state import Molecule

#: Time steps of flexible dynamics, fs.
_FLEXIBLE_FS = (0.5, 1.0)

#: With hydrogens of 3 amu and bonds to them of fixed length, fs.
_CONSTRAINED_FS = 4.0


@dataclass(frozen=True, slots=True)
class ClassicalBaseline:
    """One classical rival, computed and not run.

    Attributes:
        name: for people.
        timestep_fs: its time step.
        evaluations_per_ps: of the potential, for all replicas at once.
        wall_s_per_ps: wall-clock seconds per replica-ps.
        cpu_s_per_ps: CPU seconds likewise.
        measured: always False: costs are evaluations times the measured cost of one.
    """

    name: str
    timestep_fs: float
    evaluations_per_ps: float
    wall_s_per_ps: float
    cpu_s_per_ps: float
    measured: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the fields for run.json."""
        return asdict(self)


def classical_baselines(
    wall_s_per_step: float, cpu_s_per_step: float, molecule: Molecule
) -> tuple[ClassicalBaseline, ...]:
    """Compute what the classical rivals would cost: evaluations per ps times one evaluation.

    A step of all of them has one evaluation. Friction, noise and fixed bonds are not counted,
    which favours the rivals a little.

    Args:
        wall_s_per_step: measured wall-clock time of a step, each replica's share of it.
        cpu_s_per_step: CPU time likewise.
        molecule: one without hydrogens has no constrained rival.
    """
    rivals = [(f"velocity Verlet or Langevin, {dt:g} fs", dt) for dt in _FLEXIBLE_FS]
    if bool((molecule.numbers == 1).any()):
        name = f"Langevin, hydrogens of 3 amu with fixed bonds, {_CONSTRAINED_FS:g} fs"
        rivals.append((name, _CONSTRAINED_FS))
    return tuple(
        ClassicalBaseline(
            name,
            dt,
            1000.0 / dt,
            wall_s_per_step * 1000.0 / dt,
            cpu_s_per_step * 1000.0 / dt,
        )
        for name, dt in rivals
    )
