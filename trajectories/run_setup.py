"""From settings to the parts of a run: models, start, propagator."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from egno_md.propagators.classical import Langevin, VelocityVerlet
from egno_md.propagators.energy_judge import EnergyJudge
from egno_md.propagators.escn_potential import COMPILED_REPLICAS
from egno_md.propagators.guarded import GuardedPropagator
from egno_md.propagators.learned import all_pairs_listed
from egno_md.propagators.thermostat import Thermostatted
from egno_md.roles import Judge, Potential, Propagator
from egno_md.state import Molecule, State, maxwell_boltzmann
from egno_md.trajectories.accelerated_run import parareal, trusted_recipe, two_time_steps
from egno_md.trajectories.comparison import reference_bond_means
from egno_md.trajectories.ensemble_judge import EnsembleJudge
from egno_md.trajectories.generate import frames_for
from egno_md.trajectories.histograms import bond_lengths, nearest_in
from egno_md.trajectories.judges import (
    BondJudge,
    ContactJudge,
    FiniteJudge,
    TemperatureJudge,
)
from egno_md.trajectories.metropolised_run import equilibration_fs, metropolised, proposing
from egno_md.trajectories.progress import Progress, silent
from egno_md.trajectories.run_models import RunModels, network_of, second_opinions

if TYPE_CHECKING:
    from egno_md.config import RunConfig

#: Friction while a run is brought to its temperature, 1/ps.
EQUILIBRATION_FRICTION_PER_PS = 20.0

#: A run of fewer frames would be over before compiling had paid.
_COMPILE_FROM_FRAMES = 10_000

#: The same for forces: fewer evaluations of groups of replicas, or more atoms.
_COMPILE_FROM_EVALUATIONS = 30_000
_COMPILE_TO_ATOMS = 60

#: Frames per segment of a classical run, which has no horizon of its own.
_CLASSICAL_FRAMES = 10


def start_state(config: RunConfig, structure: State) -> State:
    """Copy a structure to all replicas; give velocities where it has none.

    Args:
        config: settings.
        structure: one replica.

    Returns:
        `n_replicas` replicas at time 0, float64.

    Raises:
        ValueError: if all replicas would do the same.
    """
    n = config.n_replicas
    x = structure.positions.to(torch.float64).expand(n, -1, -1).clone()
    v = structure.velocities.to(torch.float64).expand(n, -1, -1).clone()
    if not bool(v.any()):
        generator = seeded(config.seed, "velocities")
        v = maxwell_boltzmann(structure.molecule, n, config.temperature_K, generator)
    elif n > 1 and config.ensemble == "nve" and config.equilibration_ps == 0:
        raise ValueError(
            f"all {n} replicas would do the same, because the structure has velocities and "
            "nothing is random; give --n-replicas 1, or --equilibration-ps, or remove them"
        )
    cell = structure.cell
    return State(
        structure.molecule, x, v, 0.0, None if cell is None else cell.expand(n, 3, 3).clone()
    )


def bond_reference(models: RunModels, structure: State) -> list[float]:
    """Lengths that bonds are judged by: means of the reference dynamics, or the start's.

    Args:
        models: a bundle of these may have a reference for the molecule.
        structure: one replica.

    Returns:
        Å, in the order of `molecule.bonds`.
    """
    molecule = structure.molecule
    for bundle in (models.learned, models.guard):
        if bundle is not None and bundle.reference:
            try:
                means: Tensor = reference_bond_means(bundle.reference, molecule)
            except ValueError:  # the reference is of another molecule
                continue
            return [float(x) for x in means]
    nearest = nearest_in(molecule, structure.cell)
    lengths = bond_lengths(structure.positions[:1], molecule.bonds, nearest)
    return [float(d) for d in lengths[0]]


def build_propagator(
    config: RunConfig,
    models: RunModels,
    molecule: Molecule,
    bond_lengths_A: list[float],
    purpose: str = "run",
    *,
    compiled: bool = False,
    proposal_fs: float | None = None,
) -> Propagator:
    """Put the propagator of a run together.

    Args:
        config: settings.
        models: from `load_models`.
        molecule: what will move.
        bond_lengths_A: from `bond_reference`.
        purpose: "run", or "equilibration": stronger friction, a bath also for nve, and noise
            of its own.
        compiled: whether the network is compiled, see `worth_compiling`.
        proposal_fs: length of a proposal of the metropolised mode; short when None.

    Raises:
        ValueError: if the settings do not fit together.
    """
    warming = purpose == "equilibration"
    friction = EQUILIBRATION_FRICTION_PER_PS if warming else config.friction_per_ps
    noise = seeded(config.seed, f"{purpose} bath")
    bath = warming or config.ensemble == "nvt"
    if config.mode == "metropolised":
        proposal = proposing(config, models, molecule, proposal_fs, compiled=compiled)
        length_fs = proposal_fs or equilibration_fs(proposal)
        return metropolised(config, models, proposal, length_fs, friction, noise)
    if models.learned is None:
        drawn = (config.temperature_K, friction, noise) if bath else None
        return _classical(config, models, drawn)
    fast = network_of(config, models, molecule, compiled=compiled)
    if config.frame_interval_fs not in (None, fast.frame_interval_fs):
        raise ValueError(
            f"frame_interval_fs = {config.frame_interval_fs}, but bundle {models.learned.name!r} "
            f"gives a frame every {fast.frame_interval_fs} fs; leave it out"
        )
    scheme: Propagator = fast
    if config.mode == "parareal" and not warming:
        interval_fs = fast.frame_interval_fs
        scheme = parareal(config, fast, trusted_recipe(config, models.opener, interval_fs))
    elif models.potential is not None:
        safe = VelocityVerlet(
            models.potential, config.timestep_fs, fast.frame_interval_fs, fast.n_frames
        )
        others = second_opinions(config, models, molecule, compiled=compiled)
        judges = build_judges(config, models.potential, molecule, bond_lengths_A, bath, others)
        scheme = GuardedPropagator(
            fast,
            safe,
            judges,
            segments_per_proposal=config.energy_every,
            recover_after=config.recover_after,
        )
    return Thermostatted(scheme, config.temperature_K, friction, noise) if bath else scheme


def _classical(
    config: RunConfig, models: RunModels, bath: tuple[float, float, torch.Generator] | None
) -> Propagator:
    """Dynamics with a potential alone; bath: temperature, K, friction, 1/ps, and noise."""
    assert models.potential is not None
    if models.inner is not None:
        return two_time_steps(config, models.inner, models.potential, _CLASSICAL_FRAMES, bath)
    step = config.timestep_fs
    grid = (models.potential, step, config.frame_interval_fs or 4 * step, _CLASSICAL_FRAMES)
    return VelocityVerlet(*grid) if bath is None else Langevin(*grid, *bath)


def worth_compiling(config: RunConfig, models: RunModels, molecule: Molecule) -> bool:
    """Whether to compile the network of a new run.

    Compiled frames differ from others by rounding, so a run that is resumed, or made longer,
    keeps to what was decided at its start.

    Args:
        config: settings.
        models: from `load_models`.
        molecule: what will move.
    """
    if models.learned is None or config.compile == "never":
        return False
    interval_fs = models.learned.card.frame_interval_fs
    if config.compile == "always" or interval_fs is None:
        return config.compile == "always"
    n_frames = frames_for(config.length_ps, interval_fs)
    return all_pairs_listed(molecule) and n_frames >= _COMPILE_FROM_FRAMES


def worth_compiling_forces(config: RunConfig, models: RunModels, molecule: Molecule) -> bool:
    """Whether to compile the eSCN potentials of a new run.

    As for the network: decided once. Workers of the parareal mode open potentials of their own,
    which are not compiled.

    Args:
        config: settings.
        models: from `load_models`.
        molecule: what will move.
    """
    if not models.networks_with_forces or config.mode == "parareal":
        return False
    if config.compile != "auto":
        return config.compile == "always"
    stepped = config.mode == "classical" or config.proposal is not None
    span_fs: float | None = config.timestep_fs
    if not stepped and models.learned is not None:
        interval_fs = models.learned.card.frame_interval_fs
        # A network makes ten frames or more at once, and asks for an energy or a few of them.
        span_fs = None if interval_fs is None else 10.0 * interval_fs
    if span_fs is None:
        return False
    groups = -(-config.n_replicas // COMPILED_REPLICAS)
    evaluations = groups * 1000.0 * config.length_ps / span_fs
    return molecule.n_atoms <= _COMPILE_TO_ATOMS and evaluations >= _COMPILE_FROM_EVALUATIONS


def build_judges(
    config: RunConfig,
    potential: Potential,
    molecule: Molecule,
    bond_lengths_A: list[float],
    bath: bool,
    others: Sequence[Propagator] = (),
) -> list[Judge]:
    """Make the judges that the settings ask for, cheap ones first.

    Args:
        config: settings.
        potential: for the energy.
        molecule: what will move.
        bond_lengths_A: in the order of `molecule.bonds`.
        bath: whether there is one; without, the temperature is not judged.
        others: networks that give a second opinion.
    """
    judges: list[Judge] = [FiniteJudge()]
    if config.bond_limit_A is not None and len(molecule.bonds):
        lengths = torch.tensor(bond_lengths_A, dtype=torch.float64)
        judges.append(BondJudge(lengths, config.bond_limit_A))
    if config.contact_factor is not None:
        judges.append(ContactJudge(config.contact_factor))
    if config.temperature_alarm_rate is not None and bath:
        judges.append(TemperatureJudge(config.temperature_K, config.temperature_alarm_rate))
    if others:
        judges.append(EnsembleJudge(others, config.disagreement_limit_A))
    if config.energy_limit_eV is not None:
        judges.append(EnergyJudge(potential, config.energy_limit_eV, frames=config.energy_frames))
    return judges


def equilibrate(
    propagator: Propagator,
    start: State,
    length_ps: float,
    progress: Callable[[int, int], Progress] = silent,
) -> State:
    """Run without keeping anything.

    Args:
        propagator: with a bath.
        start: where to start.
        length_ps: how long; 0 gives back the start.
        progress: makes a progress display from (frames wanted, frames there).

    Returns:
        The last state, its time set to that of the start.
    """
    if length_ps == 0:
        return start
    n_left = frames_for(length_ps, propagator.frame_interval_fs)
    state = start
    with progress(n_left, 0) as display:
        while n_left > 0:
            segment = propagator.advance(state, min(n_left, propagator.n_frames))
            n_left -= segment.n_frames
            state = segment.last
            display.advance(segment)
    return state.with_(time_fs=start.time_fs)


def seeded(seed: int, purpose: str) -> torch.Generator:
    """Return a generator that depends on the seed and on what it is for.

    Streams for different purposes are independent, and adding one leaves the others alone.

    Args:
        seed: seed of the run.
        purpose: for example "velocities".
    """
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def check_device(name: str) -> None:
    """Refuse a device that is not there.

    Raises:
        ValueError: naming it.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device = {name!r} is not a device; give cpu, cuda or cuda:1") from error
    if device.type == "cuda":
        n = torch.cuda.device_count()
        if (device.index or 0) >= n:
            raise ValueError(f"device = {name!r} is not there: torch sees {n} CUDA devices")


@contextmanager
def reproducible(n_threads: int, device: str) -> Iterator[None]:
    """Let torch give the same bits every time, with so many threads; undone at the end.

    Args:
        n_threads: CPU threads.
        device: on the CPU all operations have a deterministic form; elsewhere not all do.
    """
    filling: Any = torch.utils.deterministic
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    filled = filling.fill_uninitialized_memory
    torch.set_num_threads(n_threads)
    # The same switch as use_deterministic_algorithms, which imports the compiler first.
    torch.set_deterministic_debug_mode("error" if device == "cpu" else "default")
    filling.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])
        filling.fill_uninitialized_memory = filled
