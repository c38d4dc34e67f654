"""Settings of the benchmarks."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from egno_md.job import Job

BenchmarkName = Literal[
    "nbody",
    "mocap",
    "md17-sgdml",
    "adk",
    "claims",
    "step",
    "propagators",
    "rollouts",
    "cost",
    "so2",
    "speed",
    "potentials",
    "mace",
    "doors",
    "acceleration",
    "time-steps",
    "guard",
]


class BenchmarkConfig(Job):
    """Measure one table: train its rows, or take shipped bundles, and test them."""

    verb: ClassVar[str] = "benchmark"
    positional: ClassVar[str | None] = "name"

    name: BenchmarkName
    """nbody, mocap, md17-sgdml, adk: the paper's tables; claims: its claims; step: cost of a
    training step; propagators: propagators of equal training cost; rollouts: long runs of
    bundles; cost: processor time per picosecond; so2: SO(2) convolutions against SO(3) tensor
    products; potentials: eSCN potentials on published frames; mace: a small one beside MACE;
    doors: what ASE and OpenMM add to the cost of the models; acceleration: effective samples of a
    potential per CPU-second, by segments, classical baselines and naive alternatives; time-steps:
    energy and temperatures with two time steps; guard: runs damaged on purpose under a guard."""
    data: str | None = None
    """File or folder of the data; none: what the benchmark can make itself, or an error that
    says what it needs."""
    rows: tuple[str, ...] = ()
    """Rows of the table; none: all."""
    molecules: tuple[str, ...] = ()
    """Molecules, trajectories (adk: tmd, dims), times (mocap: mocap-uniform, mocap-last) or data
    sets (potentials: rmd17-ethanol, ccsdt-ethanol, acac-300K, 3bpa, water, mlearn-Li, mlearn-Si,
    mlearn-Mo, oc20), where the benchmark has several; none: its default."""
    bundles: tuple[str, ...] = ()
    """Bundles to measure (rollouts, cost); none: the packaged ones."""
    potentials: tuple[str, ...] = ()
    """True potential of each bundle (rollouts), as for training: sgdml:FILE, openmm:FORCEFIELD,
    or a bundle; none: as the bundle's card says, its file looked for in the data folder.
    acceleration: the true one, xtb:gfn2 for example, then the cheap one; none: the eSCN bundle of
    the molecule where there is one, and a quick potential of it that is packaged, else a bonded
    force field fitted to the true one. doors, time-steps: bundles for two time steps, likewise."""
    structures: tuple[str, ...] = ()
    """Structure file that each bundle starts from (rollouts, cost); none: as its card says."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds; each is a training of its own."""
    epochs: int | None = Field(None, ge=1)
    """Passes over the training data; none: as the benchmark's caption says."""
    cpu_minutes: float | None = Field(None, gt=0.0)
    """Stop each training after this much processor time (potentials: end its schedule with it);
    none: no limit (potentials: 30 minutes, unless epochs are given). acceleration: of each row;
    none: 10 minutes."""
    length_ps: float | None = Field(None, gt=0.0)
    """Length of each replica's run (rollouts, guard, time-steps; doors: of multiple time steps);
    none: as the caption says, ps."""
    n_replicas: int | None = Field(None, ge=1, le=1_000_000)
    """Replicas (rollouts, cost, acceleration, time-steps, guard); none: as the caption says."""
    temperature_K: float = Field(300.0, gt=0.0, le=1e5)
    """Temperature of the runs (rollouts, cost, guard), K."""
    friction_per_ps: float = Field(10.0, gt=0.0, le=1e4)
    """Friction of the thermostat (rollouts, acceleration, time-steps, guard), 1/ps."""
    reference_ps: float | None = Field(None, gt=0.0)
    """Length of each replica of the classical dynamics that long runs are held against
    (rollouts); none: as long as those runs and as many; else four times as many, ps.
    acceleration: of twice as many replicas as the rows; none: 20 ps."""
    reference: Literal["langevin", "reweighted"] = "langevin"
    """What rows are held against (acceleration). langevin: dynamics with the true potential;
    reweighted: 48 replicas of dynamics with the cheap one, hundreds of times as long for the same
    time, its frames weighed by energies of the true one."""
    out: str = "benchmarks"
    """Folder for trainings and tables: OUT/NAME."""
    resume: bool = False
    """Go on with unfinished trainings found there, and take the finished ones as they are."""
    mace_python: str | None = None
    """Python of an environment with mace-torch (mace)."""
    device: str = "cpu"
    """Where the networks run: cpu, cuda, cuda:1, ..."""
    n_threads: int = Field(1, ge=1, le=1024)
    """CPU threads."""

    @model_validator(mode="after")
    def _reference_is_used(self) -> Self:
        if self.reference != "langevin" and self.name != "acceleration":
            raise ValueError(
                f"reference {self.reference!r} is for acceleration; {self.name} has its own"
            )
        return self
