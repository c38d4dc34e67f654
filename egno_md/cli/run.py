"""`egno-md run`: a structure and bundles to a trajectory, exported files and a report."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from egno_md.config import RunConfig
    from egno_md.roles import Potential
    from egno_md.state import Molecule, State
    from egno_md.trajectories.generate import RunSummary
    from egno_md.trajectories.run_models import RunModels
    from egno_md.trajectories.run_warnings import RunWarnings

#: What may differ when a run is continued: nothing that the numbers depend on.
_FREE: Final = frozenset(
    {"resume", "out", "length_ps", "report", "export", "export_all", "flush_every_s", "n_workers"}
)

STORE: Final = "trajectory.zarr"


def run(argv: Sequence[str]) -> int:
    """Make a trajectory as the arguments or a TOML file say.

    Args:
        argv: the arguments after the verb.

    Returns:
        0, or 130 if Ctrl-C or SIGTERM stopped the run.

    Raises:
        FileExistsError: if the output is there and is not to be continued.
        FileNotFoundError: if a file is missing.
        ValueError: if an option or a file is wrong, or the dynamics fails.
        OSError: if the disk is full or fails.
    """
    from egno_md.config import RunConfig, read_job
    from egno_md.job import named_keys
    from egno_md.trajectories.unused_settings import refuse_unused

    config = read_job(RunConfig, argv)
    store = Path(config.out) / STORE
    if store.exists():
        if not config.resume:
            raise FileExistsError(
                f"{store} already exists; continue it with --resume, or choose another --out"
            )
        config = _as_stored(config, store)
        refuse_unused(config, named_keys(RunConfig, argv)[0] & _FREE)
    elif config.structure is None and config.example is None:
        raise FileNotFoundError(f"there is no run to resume: {store} does not exist")
    else:
        refuse_unused(config, *named_keys(RunConfig, argv))

    from egno_md.trajectories.generate import RunInterrupted
    from egno_md.trajectories.run_end import finish
    from egno_md.trajectories.run_setup import check_device, reproducible
    from egno_md.trajectories.run_warnings import RunWarnings

    check_device(config.device)
    warned = RunWarnings()
    with reproducible(config.n_threads, config.device), warned.listening():
        try:
            models, summary = _generate(config, store, warned)
        except RunInterrupted as stopped:
            print(f"egno-md: {stopped} --out {config.out}", file=sys.stderr)
            return 130
        finish(config, models, summary, warned.lines)
    return 0


def _as_stored(given: RunConfig, store: Path) -> RunConfig:
    """Take the settings of the store; refuse others.

    Raises:
        ValueError: naming the first setting that differs, with both values.
    """
    from egno_md.config import RunConfig, make_job
    from egno_md.trajectories.store_reader import TrajectoryReader

    reader = TrajectoryReader(store)
    old = make_job(RunConfig, reader.header.config, source=str(store))
    for key in sorted(given.model_fields_set - _FREE):
        if getattr(given, key) != getattr(old, key):
            raise ValueError(
                f"{store} was made with {key} = {getattr(old, key)!r}, not "
                f"{getattr(given, key)!r}; resume it without, or choose another --out"
            )
    if "length_ps" in given.model_fields_set and given.length_ps < reader.length_ps:
        raise ValueError(
            f"{store} already covers {reader.length_ps:g} ps; length_ps = {given.length_ps:g} "
            "cannot make it shorter"
        )
    changes = {key: getattr(given, key) for key in given.model_fields_set & _FREE}
    return old.model_copy(update={**changes, "out": given.out, "resume": True})


def _generate(config: RunConfig, store: Path, warned: RunWarnings) -> tuple[RunModels, RunSummary]:
    """Load the models, equilibrate if there is no store yet, and run."""
    from functools import partial

    from egno_md.bundle import package_versions
    from egno_md.trajectories.accelerated_run import close_workers
    from egno_md.trajectories.generate import StoreOptions, generate
    from egno_md.trajectories.guard_calibration import with_limits
    from egno_md.trajectories.progress import bar
    from egno_md.trajectories.run_end import earlier_warnings
    from egno_md.trajectories.run_models import load_models
    from egno_md.trajectories.run_setup import build_propagator

    models = load_models(config, partial(_open_potential, structure=str(_structure_file(config))))
    start: State | None = None
    notes: Mapping[str, Any]
    if store.exists():
        molecule, notes = _stored_parts(store, models)
        warned.keep([*notes.get("warnings", ()), *earlier_warnings(store.parent)])
    else:
        start, notes = _start(config, models, store, warned)
        molecule = start.molecule
    compiled = bool(notes.get("compiled"))
    if compiled:
        print("egno-md: compiling the network, which takes up to a minute", file=sys.stderr)
    if notes.get("compiled_forces"):
        print("egno-md: compiling the potential, which takes a minute or two", file=sys.stderr)
        models.compile_forces(strict=config.compile == "always")
    propagator = build_propagator(
        with_limits(config, notes.get("guard_limits")),
        models,
        molecule,
        notes["bond_lengths_A"],
        compiled=compiled,
        proposal_fs=notes.get("proposal_fs"),
    )
    _say_length(config.length_ps, propagator.frame_interval_fs)
    try:
        summary = generate(
            propagator,
            start,
            length_ps=config.length_ps,
            store=store,
            resume=config.resume,
            options=StoreOptions(
                precision=config.precision,
                config=config.model_dump(mode="json", exclude={"resume", "out"}),
                bundles=models.hashes,
                seed=config.seed,
                versions=package_versions(),
                notes=notes,
                flush_every_s=config.flush_every_s,
            ),
            progress=partial(bar, frame_interval_fs=propagator.frame_interval_fs),
        )
    finally:
        close_workers(propagator)
    return models, summary


def _say_length(length_ps: float, frame_interval_fs: float) -> None:
    """Say where whole frames make a run clearly longer or shorter than was asked for."""
    from egno_md.trajectories.generate import frames_for

    made_ps = 1e-3 * frame_interval_fs * frames_for(length_ps, frame_interval_fs)
    if abs(made_ps - length_ps) > 0.01 * length_ps:
        print(
            f"egno-md: length_ps = {length_ps:g} is not a multiple of the {frame_interval_fs:g} fs "
            f"from frame to frame; the run covers {made_ps:g} ps",
            file=sys.stderr,
        )


def _start(
    config: RunConfig, models: RunModels, store: Path, warned: RunWarnings
) -> tuple[State, dict[str, Any]]:
    """Read the structure and bring it to the temperature."""
    from functools import partial

    from egno_md.data.structures import read_structure
    from egno_md.trajectories.guard_calibration import check_windows
    from egno_md.trajectories.progress import bar
    from egno_md.trajectories.run_models import (
        copy_warnings,
        molecule_warnings,
        temperature_warnings,
    )
    from egno_md.trajectories.run_setup import (
        bond_reference,
        build_propagator,
        equilibrate,
        start_state,
        worth_compiling,
        worth_compiling_forces,
    )

    if config.guard_calibration_windows:
        check_windows(config.guard_calibration_windows, config.guard_alarm_rate)
    structure = read_structure(_structure_file(config))
    models.check(structure.molecule)
    for line in [
        *molecule_warnings(models, structure.molecule),
        *temperature_warnings(config, models),
        *copy_warnings(config, models),
    ]:
        warned.say(line)
    lengths = bond_reference(models, structure)
    start = start_state(config, structure)
    _check_proposal(config, models, structure.molecule)
    store.parent.mkdir(parents=True, exist_ok=True)
    warm = build_propagator(config, models, structure.molecule, lengths, "equilibration")
    began = time.perf_counter()
    display = partial(bar, frame_interval_fs=warm.frame_interval_fs, label="equilibrating")
    state = equilibrate(warm, start, config.equilibration_ps, display)
    notes = {
        "bond_lengths_A": lengths,
        "equilibration_wall_s": time.perf_counter() - began,
        "compiled": worth_compiling(config, models, structure.molecule),
        "compiled_forces": worth_compiling_forces(config, models, structure.molecule),
    }
    if config.guard_calibration_windows:
        notes["guard_limits"] = _guard_limits(config, models, state, lengths)
    if config.mode == "metropolised":
        notes |= _proposal_length(config, models, state, compiled=bool(notes["compiled"]))
    notes["warnings"] = list(warned.lines)
    return state, notes


def _guard_limits(
    config: RunConfig, models: RunModels, state: State, bond_lengths_A: list[float]
) -> dict[str, Any]:
    """The limits of a run's judges, set now and kept from here on."""
    from egno_md.data.reference_md import Sampling, sample_windows
    from egno_md.trajectories.guard_calibration import calibrate, limit_sentences
    from egno_md.trajectories.run_models import network_of, second_opinions
    from egno_md.trajectories.run_setup import seeded

    assert models.potential is not None
    n, began = config.guard_calibration_windows, time.process_time()
    print(
        f"egno-md: calibrating the judges with {n} windows of the guard's own dynamics, which may "
        "take minutes",
        file=sys.stderr,
    )
    fast = network_of(config, models, state.molecule)
    others = second_opinions(config, models, state.molecule)
    step_fs = fast.frame_interval_fs
    windows = sample_windows(
        models.potential,
        state,
        n,
        fast.n_frames * config.energy_every * step_fs,
        step_fs,
        (config.temperature_K,),
        timestep_fs=config.timestep_fs,
        sampling=Sampling(
            n_replicas=min(32, n),
            equilibration_fs=200.0,
            seed=seeded(config.seed, "calibration").initial_seed() % 2**31,
        ),
    )
    starts, trusted = windows.starts(), windows.segment()
    limits = calibrate(
        config, fast, models.potential, starts, trusted, bond_lengths_A, others
    ).to_json()
    for line in limit_sentences(limits):
        print(f"egno-md: {line}", file=sys.stderr)
    return {**limits, "cpu_s": time.process_time() - began}


def _check_proposal(config: RunConfig, models: RunModels, molecule: Molecule) -> None:
    """Refuse a length that nothing can propose before time is spent on the equilibration."""
    from egno_md.trajectories.metropolised_run import frames_of, proposing

    if config.mode == "metropolised" and config.proposal_fs is not None:
        frames_of(proposing(config, models, molecule, config.proposal_fs), config.proposal_fs)


def _proposal_length(
    config: RunConfig, models: RunModels, state: State, *, compiled: bool
) -> dict[str, Any]:
    """The length of a run's proposals: given, or tuned now and kept from here on."""
    if config.proposal_fs is not None:
        return {"proposal_fs": config.proposal_fs}
    from egno_md.trajectories.metropolised_run import tuned
    from egno_md.trajectories.run_setup import seeded

    print("egno-md: tuning the length of proposals", file=sys.stderr)
    found = tuned(
        config,
        models,
        state,
        lambda length_fs: seeded(config.seed, f"tuning {length_fs:g} fs"),
        compiled=compiled,
    )
    print(f"egno-md: {found.sentence()}", file=sys.stderr)
    return {"proposal_fs": found.proposal_fs, "tuning": found.to_json()}


def _stored_parts(store: Path, models: RunModels) -> tuple[Any, Mapping[str, Any]]:
    """Molecule and notes of a store; its bundles must be the ones at hand.

    Raises:
        ValueError: naming the bundle that is another now.
    """
    from egno_md.trajectories.store_reader import TrajectoryReader

    header = TrajectoryReader(store).header
    for name, sha256 in header.bundles.items():
        now = models.hashes.get(name)
        if now != sha256:
            raise ValueError(
                f"{store} was made with weights {sha256[:12]}... of {name!r}, which now are "
                f"{(now or 'missing')[:12]}...; a resumed run needs the same"
            )
    return header.molecule, header.notes


def _structure_file(config: RunConfig) -> Path:
    """Where to start: the file, or a packaged example.

    Raises:
        ValueError: if there is no such example, listing those there are.
    """
    from importlib import resources

    if config.structure is not None:
        return Path(config.structure)
    folder = Path(str(resources.files("egno_md"))) / "examples"
    starts = [p for end in ("xyz", "pdb") for p in folder.glob(f"*.{end}")]
    known = {p.stem: p for p in starts if p.with_suffix(".toml").is_file()}
    if config.example not in known:
        names = ", ".join(sorted(known))
        raise ValueError(f"example = {config.example!r} is not there; known are {names}")
    return known[config.example]


def _open_potential(name: str, structure: str) -> tuple[Potential, str]:
    """Open a potential that is no bundle, such as sgdml:FILE or xtb:METHOD.

    Workers of a parareal run call it, too.

    Args:
        name: as in the settings.
        structure: file whose atoms a force field is for.

    Returns:
        The potential and its sha256.

    Raises:
        ValueError: if it is none of them.
    """
    import hashlib
    from importlib.metadata import version

    from egno_md.training.sources import open_potential

    kind, _, rest = name.partition(":")
    # What has no file: its name and the release of its package stand for it.
    packages = {"ase": "ASE", "openmm": "OpenMM", "xtb": "tblite"}
    if kind != "sgdml" and kind not in packages:
        raise ValueError(
            f"potential {name!r} is neither a bundle nor sgdml:FILE, ase:CALCULATOR, "
            "openmm:FORCEFIELD or xtb:METHOD"
        )
    potential = open_potential(name, structure)
    if kind == "sgdml":
        return potential, hashlib.sha256(Path(rest).read_bytes()).hexdigest()
    what = f"{name} of {packages[kind]} {version(packages[kind])}"
    return potential, hashlib.sha256(what.encode()).hexdigest()
