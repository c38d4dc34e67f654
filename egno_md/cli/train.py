"""`egno-md train`: data to bundle."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egno_md.config import TrainConfig


def run(argv: Sequence[str]) -> int:
    """Train a bundle as the arguments or a TOML file say.

    Args:
        argv: the arguments after the verb.

    Returns:
        The exit code.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if an option, a file or the data is wrong, or the training diverges.
    """
    from egno_md.config import TrainConfig, read_job

    config = read_job(TrainConfig, argv)

    from egno_md.training.sources import check_output, names_only

    check_output(config)

    command = "egno-md train " + shlex.join(names_only(argv))
    if config.kind == "escn":
        from egno_md.training.escn_training import train_escn

        path = train_escn(config, command)
    elif config.kind == "distance":
        from egno_md.training.distance_training import train_distance

        path = train_distance(config, command)
    else:
        from egno_md.training.curriculum import train_egno

        path = train_egno(cut_stores(config), command)
    sys.stdout.write(f"wrote {path}\n")
    return 0


def cut_stores(config: TrainConfig) -> TrainConfig:
    """Cut the trajectory stores among the data into files of windows, in the work folder.

    Args:
        config: a job whose data may name stores (folders).

    Returns:
        The job with the stores' names replaced.

    Raises:
        ValueError: if a store was made under a thermostat, or its times do not fit.
    """
    changes = {
        field: tuple(_cut_store(config, path) for path in getattr(config, field))
        for field in ("data", "validation_data", "test_data")
    }
    return config.model_copy(update=changes)


def _cut_store(config: TrainConfig, path: str) -> str:
    """Return the file of windows of a store; any other path as it is."""
    if not Path(path).is_dir():
        return path
    from egno_md.data.window_files import cut_windows
    from egno_md.data.windows import save_windows
    from egno_md.training.sources import work_folder
    from egno_md.trajectories.store_reader import TrajectoryReader

    store = TrajectoryReader(path)
    if store.header.config.get("ensemble") == "nvt":
        raise ValueError(
            f"{path} was made under a thermostat; windows need constant energy (ensemble nve)"
        )
    segment = store.segment(0, store.n_frames)
    windows = cut_windows(segment, config.horizon_fs, config.frame_interval_fs, source=path)
    file = work_folder(config) / "data" / f"{Path(path).stem}-{windows.sha256()[:16]}.safetensors"
    if not file.exists():
        save_windows(file, windows)
    return str(file)
