"""What a run cost, what classical integration would have, and when training has paid.

Everything is counted per simulated picosecond of one replica ("replica-ps"). The classical
price is measured, not assumed: steps of velocity Verlet with the same potential, the same
number of replicas and the same threads, in the process that made the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from egno_md.propagators.classical import VelocityVerlet
from egno_md.roles import Potential
from egno_md.state import State
from egno_md.trajectories.classical_baselines import ClassicalBaseline

#: What a picosecond of a run is.
RunKind = Literal["dynamics", "proposals", "parareal"]


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
        training_cpu_s: CPU seconds that training took, of what stands in for the potential: the
            network, or a quick copy; 0 for what is not trained, None when unknown.
        kind: "dynamics"; "proposals", whose picoseconds are no course of time; or "parareal",
            which is judged by wall-clock time.
        n_workers: processes that a parareal run had.
        baselines: classical rivals with computed costs.
        training: CPU seconds of each trained model that `training_cpu_s` adds up, None where its
            card does not say.
        trusted: whether the classical price is of a potential that may be trusted alone; a quick
            copy may not.
    """

    run_wall_s_per_ps: float
    run_cpu_s_per_ps: float
    replica_ps: float
    classical: ClassicalCost
    training_cpu_s: float | None = None
    kind: RunKind = "dynamics"
    n_workers: int = 1
    baselines: tuple[ClassicalBaseline, ...] = ()
    training: Mapping[str, float | None] = field(default_factory=dict)
    trusted: bool = True

    @property
    def wall_speedup(self) -> float:
        """Classical wall-clock time over the run's; below 1 when the run is slower."""
        return self.classical.wall_s_per_ps / self.run_wall_s_per_ps

    @property
    def cpu_speedup(self) -> float:
        """Classical CPU time over the run's."""
        return self.classical.cpu_s_per_ps / self.run_cpu_s_per_ps

    @property
    def judged_by(self) -> Literal["cpu", "wall"]:
        """Which time decides; parareal spends processor time to save wall-clock time."""
        return "wall" if self.kind == "parareal" else "cpu"

    @property
    def speedup(self) -> float:
        """The classical time over the run's, of the kind that decides."""
        return self.wall_speedup if self.judged_by == "wall" else self.cpu_speedup

    @property
    def break_even_ps(self) -> float | None:
        """Replica-ps after which training has paid, in the time that decides.

        Infinite when the run is not cheaper, None when the training cost is unknown.
        """
        if self.training_cpu_s is None:
            return None
        saved = self.classical.cpu_s_per_ps - self.run_cpu_s_per_ps
        if self.judged_by == "wall":
            saved = self.classical.wall_s_per_ps - self.run_wall_s_per_ps
        return self.training_cpu_s / saved if saved > 0 else math.inf

    def sentence(self) -> str:
        """Say whether the run was worth it, without flattery."""
        rival = (
            f"classical integration with the same potential ({self.classical.potential}) "
            f"at {self.classical.timestep_fs:g} fs"
        )
        if self.kind == "parareal":
            return self._of_parareal(rival)
        if self.kind == "proposals":
            text = f"A picosecond of proposals needed {_compared(self.cpu_speedup)} of {rival}."
            if self.cpu_speedup > 1.0:
                text += self._training()
            return text + (
                " Proposals are no course of time: what decides is the effective samples per "
                "CPU-second."
            )
        if self.cpu_speedup <= 1.0:
            return f"This run needed {1 / self.cpu_speedup:.1f} times the CPU time of {rival}: " + (
                "it never pays; integrate classically instead."
                if self.trusted
                else "it never pays, and that potential is a copy not to be trusted alone."
            )
        text = f"This run needed {self.cpu_speedup:.1f} times less CPU time than {rival}."
        return text + self._training()

    def _of_parareal(self, rival: str) -> str:
        """The verdict on time to solution, with its price."""
        workers = "1 worker" if self.n_workers == 1 else f"{self.n_workers} workers"
        spent = f"and {1 / self.cpu_speedup:.1f} times its CPU time"
        if self.wall_speedup > 1.0:
            return (
                f"On {workers} this run was {self.wall_speedup:.1f} times as fast, by the wall "
                f"clock, as {rival}, {spent}." + self._training()
            )
        return (
            f"On {workers} this run took {1 / self.wall_speedup:.1f} times the wall-clock time of "
            f"{rival}, {spent}: parareal pays only with more workers, if at all."
        )

    def _training(self) -> str:
        """When training is paid back by a run that is cheaper."""
        even = self.break_even_ps
        if self.training_cpu_s == 0.0:
            return " Nothing had to be trained for it."
        if even is None:
            return " What the training cost is not recorded, so the break-even is unknown."
        if self.replica_ps >= even:
            return (
                f" Training is paid back after {duration(even)}; "
                f"this run alone covers {duration(self.replica_ps)}."
            )
        return (
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
            "judged_by": self.judged_by,
            "training_cpu_s_by_model": dict(self.training),
            "baselines": [
                {
                    **baseline.to_json(),
                    "cpu_over_run": baseline.cpu_s_per_ps / self.run_cpu_s_per_ps,
                }
                for baseline in self.baselines
            ],
        }


def _compared(speedup: float) -> str:
    """Say a ratio of CPU times so that it is above one."""
    if speedup > 1.0:
        return f"{speedup:.1f} times less CPU time than one"
    return f"{1 / speedup:.1f} times the CPU time of one"


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
    *,
    kind: RunKind = "dynamics",
    n_workers: int = 1,
    baselines: tuple[ClassicalBaseline, ...] = (),
    training: Mapping[str, float | None] | None = None,
    trusted: bool = True,
) -> CostLedger:
    """Set a run's price beside the classical one.

    Args:
        run_wall_s: wall-clock seconds the run took.
        run_cpu_s: CPU seconds it took.
        replica_ps: simulated time of all replicas together.
        classical: from `measure_classical_cost`.
        training_cpu_s: CPU seconds that training took, 0 where nothing was trained, or None.
        kind: what a picosecond of the run is, see `CostLedger`.
        n_workers: processes that a parareal run had.
        baselines: classical rivals, from `classical_baselines`.
        training: what the training is made of.
        trusted: whether the potential of the classical price may be trusted alone.

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
        run_wall_s / replica_ps,
        run_cpu_s / replica_ps,
        replica_ps,
        classical,
        training_cpu_s,
        kind,
        n_workers,
        baselines,
        training or {},
        trusted,
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
