"""The jobs of the library: what a run and a training are made of.

Each model is at once the schema of a TOML file and the options of a command-line verb;
`egno_md.job.read_job` reads both.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from egno_md.job import Job as Job
from egno_md.job import make_job as make_job
from egno_md.job import read_job as read_job

#: Names, or one of them without brackets around it.
Names = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda given: (given,) if isinstance(given, str) else given),
]


class RunConfig(Job):
    """Make a trajectory: a learned propagator alone, guarded or metropolised, or classical."""

    verb: ClassVar[str] = "run"
    positional: ClassVar[str | None] = "structure"

    structure: str | None = None
    """Structure file (xyz, extxyz, pdb, ...) to start from."""
    example: str | None = None
    """Packaged example to start from, in place of a structure file: ethanol, aspirin,
    paracetamol, toluene, alanine_dipeptide, copper."""
    mode: Literal["surrogate", "guarded", "metropolised", "classical", "parareal"] = "guarded"
    """surrogate: the network alone; guarded: judged, with a fallback; metropolised: accepted or
    rejected by energy, which samples the guard's distribution exactly; classical: no network;
    parareal: the classical trajectory in parallel, the network guessing ahead."""
    propagator: str = "ethanol-egno"
    """Bundle of the learned propagator: a packaged name or a path."""
    guard: str | None = "ethanol-escn"
    """Potential behind judges, fallback, accept/reject and the classical mode: a packaged bundle,
    the path of one, sgdml:FILE, ase:CALCULATOR (any calculator of ASE, such as ase:emt),
    openmm:FORCEFIELD, or xtb:gfn2 (GFN2-xTB)."""
    proposal: str | None = None
    """Potential, named as a guard is, whose velocity Verlet proposes (metropolised); none: the
    learned propagator does."""
    proposal_fs: float | None = Field(None, gt=0.0)
    """Length of a proposal (metropolised), fs; none: tuned before the run, then kept."""
    tuning_cpu_s: float = Field(20.0, gt=0.0)
    """Processor time for that tuning, about, s."""
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
    """The same dynamics with a strong bath before the recorded part, ps."""
    timestep_fs: float = Field(0.5, gt=0.0, le=20.0)
    """Time step of the classical integrator, fs."""
    inner_potential: str | None = None
    """Cheap potential of every time step (classical), named like the guard, or openmm:FORCEFIELD;
    the guard then corrects it once in an outer step."""
    outer_step_fs: float = Field(2.0, gt=0.0, le=20.0)
    """Outer step of an inner potential, a multiple of the time step, fs."""
    n_slabs: int = Field(16, ge=1, le=100_000)
    """Slabs of time that run side by side (parareal)."""
    frames_per_slab: int = Field(2, ge=1, le=100_000)
    """Frames of the network in a slab (parareal)."""
    tolerance_A: float = Field(1e-4, gt=0.0, le=1.0)
    """Largest deviation from the classical trajectory in one go (parareal), Å."""
    slabs_at_once: int = Field(1, ge=1, le=100_000)
    """Slabs that run as one batch (parareal)."""
    n_workers: int = Field(1, ge=1, le=1024)
    """Processes that run slabs (parareal)."""
    frame_interval_fs: float | None = Field(None, gt=0.0)
    """Time between recorded frames, fs; none: as the propagator gives them; in the classical mode
    every four time steps, or every outer step."""
    bond_limit_A: float | None = Field(0.5, gt=0.0)
    """Largest allowed change of a bond length, Å; none: not judged."""
    contact_factor: float | None = Field(1.0, gt=0.0)
    """Smallest allowed distance of two atoms that are not bonded, as a share of the sum of their
    covalent radii; none: not judged."""
    temperature_alarm_rate: float | None = Field(1e-6, gt=0.0, lt=1.0)
    """Reject a kinetic temperature that equilibrium shows in this share of frames or less (nvt
    only); none: not judged."""
    energy_limit_eV: float | None = Field(0.1, gt=0.0)
    """Largest allowed change of the total energy over a segment by the guard, eV; none: not
    judged."""
    other_networks: Names = ()
    """Bundles of learned propagators that must put every atom near where the run's own does
    (guarded): a second opinion, which names the atom; each costs as much as the network."""
    disagreement_limit_A: float = Field(0.1, gt=0.0)
    """Largest mean distance of an atom from where the other networks put it, Å."""
    energy_every: int = Field(1, ge=1, le=10_000)
    """Segments of the network that are judged together, with one energy at their end (guarded);
    they are held back until then."""
    energy_frames: Literal["last", "all", "auto"] = "auto"
    """Frames whose energy is asked (guarded): the last of a proposal, and the others where it
    fails; all: a bad proposal may come back to its energy by chance; or auto: all at first and
    while more than one proposal in twenty is rejected, else the last."""
    recover_after: int | None = Field(None, ge=1)
    """After a rejection the proposals of that replica are halved, and doubled again after so many
    accepted ones (guarded); none: always full."""
    guard_calibration_windows: int = Field(0, ge=0, le=1_000_000)
    """Set the limits of bonds, contacts, energy and disagreement from so many windows of the
    guard's own dynamics, made before the run (guarded); 0: take them as given."""
    guard_alarm_rate: float = Field(0.01, gt=0.0, lt=1.0)
    """Share of good proposals that each of these judges may reject, with confidence 95 %."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of every random number of the run."""
    device: str = "cpu"
    """Where the networks run: cpu, cuda, cuda:1, ..."""
    dtype: Literal["float32", "float64"] = "float32"
    """Number type inside the networks."""
    n_threads: int = Field(1, ge=1, le=1024)
    """CPU threads; small molecules are quickest with one."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Compile the network and eSCN potentials, several times faster after a minute or two; auto:
    where a molecule's run is long enough to pay for it, and go on without where that fails, and
    say why."""
    out: str = "out"
    """Folder for the store, the exported files and the report."""
    resume: bool = False
    """Go on with the run found in the output folder."""
    report: bool = True
    """Write report.html at the end."""
    export: tuple[Literal["xtc", "dcd", "h5", "extxyz"], ...] = ("xtc",)
    """Files to write beside the store, of the first replica."""
    export_all: bool = False
    """Write those files for every replica."""
    precision: Literal["float32", "float64"] = "float32"
    """Number type of positions and velocities in the store."""
    flush_every_s: float = Field(5.0, ge=0.0)
    """Longest time between two points that a killed run can go on from, s."""

    @classmethod
    def starting_file(cls, given: Mapping[str, Any]) -> str | None:
        """Return the job file of a packaged example: `--example NAME` means all that is in it."""
        name = str(given.get("example") or "")
        path = Path(str(resources.files("egno_md")), "examples", f"{name}.toml")
        return str(path) if name.isidentifier() and path.is_file() else None

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.structure is not None and self.example is not None:
            raise ValueError(
                f"structure {self.structure!r} and example {self.example!r} are both given; "
                "give one of them"
            )
        if self.structure is None and self.example is None and not self.resume:
            said = "nothing to start from; give a structure file or --example ethanol"
            took = f" (--other-networks took {', '.join(self.other_networks)}: name the file first)"
            raise ValueError(said + (took if self.other_networks else ""))
        if self.inner_potential is not None and self.mode != "classical":
            raise ValueError(f"inner_potential goes with mode classical, not {self.mode!r}")
        if self.mode == "metropolised" and self.ensemble == "nve":
            raise ValueError("mode 'metropolised' samples at a temperature; take ensemble nvt")
        if self.mode != "guarded" and self.guard_calibration_windows:
            raise ValueError(
                f"guard_calibration_windows goes with mode 'guarded', not {self.mode!r}"
            )
        if self.mode != "guarded" and self.other_networks:
            raise ValueError(f"other_networks go with mode 'guarded', not {self.mode!r}")
        if self.mode != "metropolised" and (self.proposal or self.proposal_fs):
            raise ValueError(
                f"proposal and proposal_fs go with mode 'metropolised', not {self.mode!r}"
            )
        return self


#: What a training of kind "distance" does where a job does not say it: small batches of hot
#: frames serve the large networks.
DISTANCE_DEFAULTS: Final[Mapping[str, Any]] = {
    "n_samples": 6000,
    "n_validation": 400,
    "n_test": 400,
    "temperatures_K": (300.0, 450.0, 600.0),
    "sampling_replicas": 16,
    "sampling_interval_fs": 10.0,
    "equilibration_fs": 100.0,
    "batch_size": 64,
    "n_steps": 16_000,
    "optimizer": "soap",
    "energy_weight": 0.5,
    "n_threads": 1,
}


class TrainConfig(Job):
    """Train a bundle: an EGNO propagator, an eSCN potential, or a quick copy of a potential."""

    verb: ClassVar[str] = "train"

    kind: Literal["egno", "escn", "distance"] = "egno"
    """What to train: egno (a propagator), escn (a potential), or distance (a quick copy of a
    potential for one molecule, which proposes or is the inner force)."""
    data: tuple[str, ...] = ()
    """Files to learn from: trajectories with velocities (egno), labelled frames (escn)."""
    validation_data: tuple[str, ...] = ()
    """Files that choose the best weights; a share of the data when none are given."""
    test_data: tuple[str, ...] = ()
    """Files for the measures in the card; a share of the data when none are given."""
    validation_share: float = Field(0.1, gt=0.0, lt=1.0)
    """Share of the data that chooses the best weights, where no files are given."""
    test_share: float = Field(0.1, gt=0.0, lt=1.0)
    """Share of the data for the measures in the card, where no files are given."""
    split: Literal["auto", "trajectories", "blocks", "shuffled"] = "auto"
    """How shares are cut: whole trajectories, blocks in time, or shuffled (decorrelated frames
    only); auto: trajectories where there are at least 10, blocks otherwise."""
    energy_unit: Literal["eV", "kcal/mol"] | None = None
    """Energy unit of npz files that do not say it themselves."""
    potential: Names = ()
    """Potential that makes data on the spot: sgdml:FILE, openmm:amber14 (any force field of OpenMM;
    the structure is then a PDB file), ase:emt (any calculator of ASE), xtb:gfn2 (GFN2-xTB, also
    gfn1), or an eSCN bundle. Several (egno): one for each structure, to learn from all of them."""
    structure: Names = ()
    """Structure files (xyz, pdb, ...) from which the potentials' dynamics start."""
    test_potential: Names = ()
    """Potentials of further molecules (egno), on which the network is measured at the end; it
    never learns from them."""
    test_structure: Names = ()
    """Structure files of those molecules."""
    n_samples: int = Field(10_000, ge=1)
    """Training frames or windows to make with each potential."""
    n_validation: int = Field(1000, ge=1)
    """Validation frames or windows to make, from dynamics of their own."""
    n_test: int = Field(1000, ge=1)
    """Test frames or windows to make, from dynamics of their own."""
    temperatures_K: tuple[float, ...] = (200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0, 900.0)
    """Temperatures of the dynamics that makes data, K."""
    sampling_interval_fs: float = Field(20.0, gt=0.0)
    """Dynamics between two samples of one replica, fs."""
    own_interval_fs: float = Field(400.0, gt=0.0)
    """The copy's own dynamics between two of the frames it asks for (distance), fs; it is cheap,
    and must get to every conformer."""
    sampling_timestep_fs: float = Field(1.0, gt=0.0, le=20.0)
    """Time step of that dynamics, fs."""
    sampling_replicas: int = Field(32, ge=1)
    """Replicas that move together at each temperature."""
    equilibration_fs: float = Field(1000.0, ge=0.0)
    """Dynamics before the first sample, fs."""
    horizon_fs: float = Field(16.0, gt=0.0)
    """Length of the windows (egno), fs."""
    frame_interval_fs: float = Field(1.0, gt=0.0)
    """Time between the frames of a window (egno), fs."""
    data_interval_fs: float | None = Field(None, gt=0.0)
    """Time between the frames of trajectory files that do not say it (egno), fs."""
    timestep_fs: float = Field(0.25, gt=0.0, le=20.0)
    """Time step inside the windows that the potential makes (egno), fs; what it does to the widths
    of fast bonds is learned too: with 0.5 fs those of O-H are 1.5 % wider than they should be."""

    cutoff_A: float | None = Field(None, gt=0.0)
    """Reach of one graph layer, Å; none: the network's default, as below."""
    n_layers: int | None = Field(None, ge=1, le=64)
    """Graph layers."""
    n_radial: int | None = Field(None, ge=1, le=1024)
    """Radial basis functions."""
    max_degree: int | None = Field(None, ge=0, le=8)
    """Highest degree of the features (escn)."""
    max_order: int | None = Field(None, ge=0, le=8)
    """Highest order on edges (escn)."""
    channels: int | None = Field(None, ge=1, le=1024)
    """Channels of atom features (escn)."""
    hidden_channels: int | None = Field(None, ge=1, le=1024)
    """Channels on edges (escn)."""
    radial_hidden: int | None = Field(None, ge=1, le=1024)
    """Width of the radial network (escn)."""
    mirror: bool | None = None
    """Make energies the same for mirror images by construction (escn)."""
    repulsion: bool | None = None
    """Add the repulsion of nuclei that are closer than a bond (escn)."""
    n_hidden: int | None = Field(None, ge=1, le=1024)
    """Width of the atom features (egno) or of the layers (distance)."""
    n_vectors: int | None = Field(None, ge=1, le=1024)
    """Vector channels (egno)."""
    n_modes: int | None = Field(None, ge=1, le=64)
    """Modes of the time dependence (egno)."""
    n_stages: int | None = Field(None, ge=1, le=64)
    """Stages of one step (egno)."""
    step_fs: float | None = Field(None, gt=0.0)
    """Length of one step (egno), fs."""

    chain: tuple[int, ...] = (0, 1, 2, 4, 2)
    """Stages of the curriculum (egno): 0 matches forces, k the frames of k chained steps."""
    chain_steps: tuple[int, ...] = (20_000, 20_000, 8_000, 4_000, 8_000)
    """Optimiser steps of each stage (egno)."""
    chain_learning_rates: tuple[float, ...] = (3e-3, 1e-3, 5e-4, 3e-4, 5e-4)
    """Largest learning rate of each stage (egno)."""
    chain_scales: tuple[Literal["change", "thermal"], ...] = ()
    """What errors are measured by in each stage (egno): the true change, or thermal motion; none:
    thermal in the last stage where it repeats a chain, the change elsewhere."""
    chain_energy_weights: tuple[float, ...] = ()
    """Weight of the error of energies over their spread in each stage (egno); none: 0. It makes
    conformers as deep as they are, which short segments hardly tell."""
    force_weight: float = Field(1.0, ge=0.0)
    """Weight of forces in the loss (escn, distance)."""
    energy_weight: float = Field(1.0, ge=0.0)
    """Weight of energies in the loss: of their error per atom (escn), or of its square, per Å^2
    (distance)."""
    stress_weight: float = Field(0.0, ge=0.0)
    """Weight of stresses, as virials per atom, in the loss (escn); the data must have them."""
    n_steps: int = Field(20_000, ge=1)
    """Optimiser steps."""
    batch_size: int = Field(8, ge=1)
    """Frames or windows per step."""
    optimizer: Literal["adamw", "soap"] = "adamw"
    """adamw, or soap: fewer steps to the same error, each a little dearer."""
    learning_rate: float = Field(3e-3, gt=0.0)
    """Largest learning rate."""
    warmup_steps: int = Field(200, ge=0)
    """Steps over which the learning rate rises."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls afterwards."""
    final_fraction: float = Field(0.005, ge=0.0, le=1.0)
    """Learning rate of the last step, as a fraction of the largest."""
    weight_decay: float = Field(0.0, ge=0.0)
    """Decay of matrices."""
    ema_decay: float = Field(0.998, ge=0.0, le=1.0)
    """Decay of the average of the weights which is validated and kept."""
    gradient_clip: float | None = Field(10.0, gt=0.0)
    """Largest norm of the gradient; none: not clipped."""
    validate_every: int = Field(1000, ge=1)
    """Steps between validations."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps between checkpoints."""
    log_every: int = Field(50, ge=1)
    """Steps between lines of the log."""
    cpu_minutes: float | None = Field(None, gt=0.0)
    """Stop after this much processor time; none: no limit."""

    out: str = "out.bundle"
    """Folder of the bundle to write."""
    work: str | None = None
    """Folder for checkpoints, log and data made on the spot; none: beside the bundle."""
    level_of_theory: str = ""
    """What labelled the data, for the card."""
    citation: str = ""
    """What to cite, for the card."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of every random number of the training."""
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1, ..."""
    dtype: Literal["float32", "float64"] = "float32"
    """Number type of the weights."""
    n_threads: int = Field(2, ge=1, le=1024)
    """CPU threads; another number gives other last digits."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Compile forces before training, for steps that cost less; auto: go on without where that
    fails and say why, (escn) only in trainings long enough to pay for it; never: in short ones."""
    resume: bool = False
    """Go on from the last checkpoint in the work folder."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_kind(cls, given: object) -> object:
        """Fill in what a distance network usually wants."""
        if isinstance(given, Mapping) and given.get("kind") == "distance":
            return {**DISTANCE_DEFAULTS, **given}
        return given

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.data) == bool(self.potential):
            raise ValueError(
                "give either data (files to learn from) or a potential that makes data, "
                + ("not both" if self.data else "one is needed")
            )
        if self.potential and not self.structure:
            raise ValueError("a potential that makes data needs a structure file to start from")
        for names, files in (("potential", "structure"), ("test_potential", "test_structure")):
            n, m = len(getattr(self, names)), len(getattr(self, files))
            if n != m and not (names == "potential" and n == 0):
                raise ValueError(f"{names} and {files} go together, got {n} and {m}")
        if self.kind != "egno" and len(self.potential) > 1:
            what = "an eSCN potential" if self.kind == "escn" else "a quick copy"
            raise ValueError(f"{what} learns from one potential; give one, or files")
        lengths = {len(self.chain), len(self.chain_steps), len(self.chain_learning_rates)}
        optional = (self.chain_scales, self.chain_energy_weights)
        lengths |= {len(given) for given in optional if given}
        if len(lengths) > 1:
            raise ValueError(
                "chain, chain_steps, chain_learning_rates, chain_scales and chain_energy_weights "
                f"need as many entries each, got {len(self.chain)}, {len(self.chain_steps)}, "
                f"{len(self.chain_learning_rates)}, {len(self.chain_scales)} and "
                f"{len(self.chain_energy_weights)}"
            )
        if any(weight < 0.0 for weight in self.chain_energy_weights):
            raise ValueError(
                f"chain_energy_weights must not be negative, got {self.chain_energy_weights}"
            )
        return self
