"""The jobs of the library: what a run and a training are made of.

Each model is at once the schema of a TOML file and the options of a command-line verb;
`egno_md.job.read_job` reads both.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from egno_md.job import Job as Job
from egno_md.job import make_job as make_job
from egno_md.job import read_job as read_job


class RunConfig(Job):
    """Make a trajectory: a learned propagator alone, under guard, or a classical one."""

    verb: ClassVar[str] = "run"
    positional: ClassVar[str | None] = "structure"

    structure: str | None = None
    """Structure file (xyz, extxyz, pdb, ...) to start from."""
    example: str | None = None
    """Packaged example to start from, in place of a structure file: ethanol."""
    mode: Literal["surrogate", "guarded", "classical"] = "guarded"
    """surrogate: the network alone; guarded: judged, with a fallback; classical: no network."""
    propagator: str = "ethanol-egno"
    """Bundle of the learned propagator: a packaged name or a path."""
    guard: str | None = "ethanol-escn"
    """Bundle of the potential behind judges, fallback and the classical mode."""
    ensemble: Literal["nve", "nvt"] = "nvt"
    """nve: constant energy; nvt: Langevin thermostat."""
    temperature_K: float = Field(300.0, gt=0.0, le=1e5)
    """Temperature of the thermostat and of the start velocities, K."""
    friction_per_ps: float = Field(2.0, gt=0.0, le=1e4)
    """Friction of the thermostat, 1/ps."""
    length_ps: float = Field(10.0, gt=0.0)
    """Length of the trajectory of each replica, ps."""
    n_replicas: int = Field(16, ge=1, le=1_000_000)
    """Independent copies that run side by side."""
    equilibration_ps: float = Field(1.0, ge=0.0)
    """Classical dynamics before the recorded part, ps."""
    timestep_fs: float = Field(0.5, gt=0.0, le=20.0)
    """Time step of the classical integrator, fs."""
    frame_interval_fs: float | None = Field(None, gt=0.0)
    """Time between recorded frames, fs; none: as the propagator gives them."""
    bond_limit_A: float | None = Field(0.5, gt=0.0)
    """Largest allowed change of a bond length, Å; none: not judged."""
    contact_limit_A: float | None = Field(0.6, gt=0.0)
    """Smallest allowed distance of two atoms that are not bonded, Å; none: not judged."""
    temperature_factor: float | None = Field(4.0, gt=1.0)
    """Largest allowed kinetic temperature, as a multiple of temperature_K; none: not judged."""
    energy_limit_eV: float | None = Field(None, gt=0.0)
    """Largest allowed total-energy error of a segment, eV; none: as the bundle's card says."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of every random number of the run."""
    device: str = "cpu"
    """Where the networks run: cpu, cuda, cuda:1, ..."""
    dtype: Literal["float32", "float64"] = "float32"
    """Number type inside the networks."""
    n_threads: int = Field(2, ge=1, le=1024)
    """CPU threads."""
    out: str = "out"
    """Folder for the store, the exported files and the report."""
    resume: bool = False
    """Go on with the run found in the output folder."""
    report: bool = True
    """Write report.html at the end."""
    export: tuple[Literal["xtc", "dcd", "h5", "extxyz"], ...] = ("xtc",)
    """Files to write beside the store."""

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.structure is not None and self.example is not None:
            raise ValueError(
                f"structure {self.structure!r} and example {self.example!r} are both given; "
                "give one of them"
            )
        if self.structure is None and self.example is None and not self.resume:
            raise ValueError("nothing to start from; give a structure file or --example ethanol")
        return self


class TrainConfig(Job):
    """Train a bundle: an EGNO propagator from trajectories or an eSCN potential from frames."""

    verb: ClassVar[str] = "train"

    kind: Literal["egno", "escn"] = "egno"
    """What to train: egno (a propagator) or escn (a potential)."""
    data: tuple[str, ...] = ()
    """Trajectories or labelled frames to learn from."""
    potential: str | None = None
    """Potential that makes or labels data on the spot: a bundle or an sGDML file."""
    out: str = "out.bundle"
    """Folder of the bundle to write."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of every random number of the training."""
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1, ..."""
    dtype: Literal["float32", "float64"] = "float32"
    """Number type of the weights."""
    n_threads: int = Field(2, ge=1, le=1024)
    """CPU threads."""
    n_steps: int = Field(1000, ge=1)
    """Optimiser steps."""
    resume: bool = False
    """Go on from the last checkpoint beside the bundle."""
