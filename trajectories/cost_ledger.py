"""What a run cost, what classical integration would have, and when training has paid.

Everything is counted per simulated picosecond of one replica ("replica-ps"). The classical
price is measured, not assumed: steps of velocity Verlet with the same potential, the same
number of replicas and the same threads, in the process that made the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from egno_md.propagators.classical import VelocityVerlet
from egno_md.roles import Potential
from egno_md.state import State


@dataclass(frozen=True, slots=True)
class ClassicalCost:
    """Measured price of classical integration.

    Attributes:
        wall_s_per_ps: wall-clock seconds per replica-ps.
        cpu_s_per_ps: CPU seconds of the process per replica-ps.
        timestep_fs: its time step.
        n_replicas: replicas moved together.
        n_steps: steps that were timed.
        potential: name of the potential.
    """

    wall_s_per_ps: float
    cpu_s_per_ps: float
    timestep_fs: float
    n_replicas: int
    n_steps: int
    potential: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields for run.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave.

        Raises:
            ValueError: if a field is missing or unknown.
        """
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(
                "the classical cost in run.json must have the fields "
                f"{', '.join(cls.__dataclass_fields__)}; got {', '.join(fields)}"
            ) from error


@dataclass(frozen=True, slots=True)
class CostLedger:
    """A run's price beside the classical one.

    Attributes:
        run_wall_s_per_ps: wall-clock seconds of the run per replica-ps.
        run_cpu_s_per_ps: CPU seconds likewise.
        replica_ps: simulated time of all replicas together.
        classical: the classical price.
        training_cpu_s: CPU seconds that the network's training took, or None when unknown.
    """

    run_wall_s_per_ps: float
    run_cpu_s_per_ps: float
    replica_ps: float
    classical: ClassicalCost
    training_cpu_s: float | None = None

    @property
    def wall_speedup(self) -> float:
        """Classical wall-clock time over the run's; below 1 when the run is slower."""
        return self.classical.wall_s_per_ps / self.run_wall_s_per_ps

    @property
    def cpu_speedup(self) -> float:
        """Classical CPU time over the run's."""
        return self.classical.cpu_s_per_ps / self.run_cpu_s_per_ps

    @property
    def break_even_ps(self) -> float | None:
        """Replica-ps after which training has paid in CPU time.

        Infinite when the run is not cheaper, None when the training cost is unknown.
        """
        if self.training_cpu_s is None:
            return None
        saved = self.classical.cpu_s_per_ps - self.run_cpu_s_per_ps
        return self.training_cpu_s / saved if saved > 0 else math.inf

    def sentence(self) -> str:
        """Say whether the run was worth it, without flattery."""
        rival = (
            f"classical integration with the same potential ({self.classical.potential}) "
            f"at {self.classical.timestep_fs:g} fs"
        )
        if self.cpu_speedup <= 1.0:
            return (
                f"This run needed {1 / self.cpu_speedup:.1f} times the CPU time of {rival}: "
                "it never pays; integrate classically instead."
            )
        text = f"This run needed {self.cpu_speedup:.1f} times less CPU time than {rival}."
        even = self.break_even_ps
        if even is None:
            return text + " What the training cost is not recorded, so the break-even is unknown."
        if self.replica_ps >= even:
            return text + (
                f" Training is paid back after {duration(even)}; "
                f"this run alone covers {duration(self.replica_ps)}."
            )
        return text + (
            f" Training is paid back only after {duration(even)} in all; "
            f"this run covers {duration(self.replica_ps)}."
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything for run.json; an infinite break-even is the text "never"."""
        even = self.break_even_ps
        return {
            "run_wall_s_per_ps": self.run_wall_s_per_ps,
            "run_cpu_s_per_ps": self.run_cpu_s_per_ps,
            "replica_ps": self.replica_ps,
            "classical": self.classical.to_json(),
            "training_cpu_s": self.training_cpu_s,
            "wall_speedup": self.wall_speedup,
            "cpu_speedup": self.cpu_speedup,
            "break_even_ps": "never" if even == math.inf else even,
        }


def duration(replica_ps: float) -> str:
    """Write a simulated time with a fitting unit: "20 ps", "1.5 ns", "2.5 µs"."""
    for factor, unit in ((1e6, "µs"), (1e3, "ns"), (1.0, "ps")):
        if replica_ps >= factor:
            return f"{replica_ps / factor:.3g} {unit}"
    return f"{replica_ps * 1e3:.3g} fs"


def cost_ledger(
    run_wall_s: float,
    run_cpu_s: float,
    replica_ps: float,
    classical: ClassicalCost,
    training_cpu_s: float | None = None,
) -> CostLedger:
    """Set a run's price beside the classical one.

    Args:
        run_wall_s: wall-clock seconds the run took.
        run_cpu_s: CPU seconds it took.
        replica_ps: simulated time of all replicas together.
        classical: from `measure_classical_cost`.
        training_cpu_s: CPU seconds that training took, or None.

    Raises:
        ValueError: if a time is not positive.
    """
    for name, value in (
        ("run_wall_s", run_wall_s),
        ("run_cpu_s", run_cpu_s),
        ("replica_ps", replica_ps),
    ):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive to compare costs, got {value}")
    return CostLedger(
        run_wall_s / replica_ps, run_cpu_s / replica_ps, replica_ps, classical, training_cpu_s
    )


def measure_classical_cost(
    potential: Potential,
    state: State,
    timestep_fs: float = 0.5,
    *,
    budget_s: float = 2.0,
    name: str | None = None,
) -> ClassicalCost:
    """Time velocity Verlet steps from a state of the run.

    A first piece, not counted, warms caches and compilers up.

    Args:
        potential: the one that guards the run.
        state: where to start; its replicas are moved together.
        timestep_fs: time step.
        budget_s: wall-clock time to spend, about.
        name: of the potential, for the report; its class when None.

    Raises:
        ValueError: if the budget or time step is not positive, or the potential fails.
    """
    if not 0 < budget_s < math.inf:
        raise ValueError(f"budget_s must be positive, got {budget_s}")
    steps = 4
    dynamics = VelocityVerlet(
        potential, timestep_fs=timestep_fs, frame_interval_fs=steps * timestep_fs, n_frames=1
    )
    state = dynamics.advance(state, 1).last
    wall, cpu, n = time.perf_counter(), time.process_time(), 0
    while n == 0 or time.perf_counter() - wall < budget_s:
        state = dynamics.advance(state, 1).last
        n += steps
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    replica_ps = n * timestep_fs * 1e-3 * state.n_replicas
    return ClassicalCost(
        wall / replica_ps,
        cpu / replica_ps,
        timestep_fs,
        state.n_replicas,
        n,
        name or type(potential).__name__,
    )
