"""`egno-md export`: a trajectory store to xtc, dcd, h5 or extxyz."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="egno-md export",
        description=(
            "Write the committed frames of a store to a file that mdtraj, VMD or ASE reads; "
            "topology.pdb is written beside it. One file per replica: run.xtc for one replica, "
            "run-0.xtc, run-1.xtc, ... for several. Works while the run goes on."
        ),
    )
    parser.add_argument(
        "store", metavar="STORE", help="store, or the folder of a run that holds trajectory.zarr"
    )
    parser.add_argument("target", metavar="FILE", help="file to write: .xtc, .dcd, .h5 or .extxyz")
    parser.add_argument(
        "--replicas",
        metavar="N",
        nargs="+",
        help='numbers of the replicas, from 0, or "all" (default: 0)',
    )
    parser.add_argument(
        "--stride", type=int, default=1, metavar="N", help="keep every N-th frame (default: 1)"
    )
    return parser


def run(argv: Sequence[str]) -> int:
    """Export a store.

    Args:
        argv: the arguments after the verb.

    Returns:
        0.

    Raises:
        FileNotFoundError: if there is no such store.
        ValueError: if an option is wrong or the store is damaged.
        OSError: if a file cannot be written.
    """
    options = _parser().parse_args(list(argv))
    replicas = _replicas(options.replicas)
    store = Path(options.store)
    if (store / "trajectory.zarr").is_dir():
        store = store / "trajectory.zarr"

    from egno_md.trajectories.export import export

    written = export(store, options.target, replicas=replicas, stride=options.stride)
    print("wrote " + ", ".join(str(path) for path in written))
    return 0


def _replicas(words: Sequence[str] | None) -> list[int] | None:
    """Read the replica numbers; None stands for all.

    Raises:
        ValueError: naming what is not a number.
    """
    if words is None:
        return [0]
    if list(words) == ["all"]:
        return None
    for word in words:
        if not word.isdecimal():
            raise ValueError(f"--replicas takes numbers from 0, or all; got {word!r}")
    return [int(word) for word in words]
