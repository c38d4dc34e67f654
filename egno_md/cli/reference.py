"""`egno-md reference`: put statistics of classical dynamics into a bundle."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

#: Fields of `ReferencePlan`, their defaults and what they mean.
_NUMBERS: tuple[tuple[str, float, str], ...] = (
    ("temperature_K", 300.0, "temperature"),
    ("friction_per_ps", 2.0, "friction of the Langevin dynamics"),
    ("timestep_fs", 0.5, "integration step"),
    ("frame_interval_fs", 2.0, "time between counted frames"),
    ("length_ps", 10.0, "counted time of each replica"),
    ("burn_in_ps", 5.0, "time before counting begins"),
    ("n_replicas", 64, "replicas of both halves together"),
    ("seed", 0, "seed of the first half; the second takes the next"),
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="egno-md reference",
        description=(
            "Run classical Langevin dynamics with a potential, in two halves of independent "
            "replicas, and write bond lengths, angles, torsions and h(r), or g(r) in a cell, to "
            "the bundle's reference.safetensors. Reports of later runs are compared with it, and "
            "with the difference that chance gives between pieces of it."
        ),
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="packaged name or folder; is changed")
    parser.add_argument(
        "--potential",
        required=True,
        metavar="sgdml:FILE|openmm:FORCEFIELD|ase:CALCULATOR|xtb:METHOD|escn:BUNDLE",
        help="makes the forces: an sGDML model file, a force field of OpenMM (amber14; the start "
        "is then a PDB file), a calculator of ASE (emt), gfn1 or gfn2, or an eSCN bundle",
    )
    parser.add_argument(
        "--start", metavar="FILE", help="structure to start from (default: the ethanol example)"
    )
    for name, default, help_text in _NUMBERS:
        flag = "--" + name.replace("_", "-")
        parser.add_argument(
            flag, type=type(default), default=default, help=f"{help_text} (default %(default)s)"
        )
    parser.add_argument("--n-threads", type=int, default=2, help="(default %(default)s)")
    return parser


def run(argv: Sequence[str]) -> int:
    """Make reference statistics and write them into a bundle.

    Args:
        argv: the arguments after the verb.

    Returns:
        0.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if an option is wrong, or the bundle and the structure do not fit.
    """
    options = _parser().parse_args(list(argv))

    import torch

    from egno_md.bundle import load_bundle, save_bundle
    from egno_md.data.progress import progress_bar
    from egno_md.training.sources import open_potential, start_structure
    from egno_md.trajectories.reference_run import ReferencePlan, make_reference

    if options.n_threads < 1:
        raise ValueError(f"--n-threads must be at least 1, got {options.n_threads}")
    plan = ReferencePlan(**{name: getattr(options, name) for name, _, _ in _NUMBERS})
    bundle = load_bundle(options.bundle)
    structure = options.start or _example()
    start = start_structure(structure)
    bundle.check_elements(start.molecule)
    potential = open_potential(options.potential.removeprefix("escn:"), structure)
    torch.set_num_threads(options.n_threads)
    text = _description(options)
    with progress_bar("reference frames", plan.total_frames) as advance:
        statistics = make_reference(
            potential, start, plan, description=text, progress=lambda n: advance(n, "")
        )
    path = save_bundle(bundle.path, bundle.card, bundle.weights, statistics)
    mean = float(statistics["temperature_mean_K"])
    n_blocks = len(statistics["block_frames"])
    sys.stdout.write(
        f"wrote {path / 'reference.safetensors'}: {text}; {n_blocks} blocks, mean {mean:.1f} K\n"
    )
    return 0


def _description(options: argparse.Namespace) -> str:
    """One sentence for the report; a file is named without its folder."""
    kind, _, rest = options.potential.rpartition(":")
    name = Path(rest).name
    return (
        f"classical Langevin dynamics with {kind + ' ' if kind else ''}{name} at "
        f"{options.temperature_K:g} K, friction {options.friction_per_ps:g}/ps, "
        f"{options.timestep_fs:g} fs steps, seed {options.seed}"
    )


def _example() -> str:
    from importlib import resources

    return str(resources.files("egno_md") / "examples" / "ethanol.xyz")
