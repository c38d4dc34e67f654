"""Windows for training from files of trajectories."""

from __future__ import annotations

from egno_md.config import TrainConfig
from egno_md.data.window_files import read_windows
from egno_md.data.windows import Windows
from egno_md.training.sources import cut


def windows_from_files(config: TrainConfig) -> tuple[Windows, Windows, Windows]:
    """Read the windows of a job: for training, for choosing the best weights, for the card.

    Files for validation and test are taken as they are. Without them, shares of the data are
    cut off as `config.split` says.

    Args:
        config: names the files.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file holds no velocities, times do not fit, or there is too little data.
    """
    files = (config.data, config.validation_data, config.test_data)
    training, *held_out = ([_read(config, path) for path in paths] for paths in files)
    if not training:
        raise ValueError("no files to learn from; give data")
    if all(held_out):
        return Windows.join(training), Windows.join(held_out[0]), Windows.join(held_out[1])
    if any(held_out):
        raise ValueError("give files for both validation and test, or for neither")
    together = Windows.join(training).in_time_order()
    split = cut(config, together.labels)
    return (
        together.select(split.training),
        together.select(split.validation),
        together.select(split.test),
    )


def _read(config: TrainConfig, path: str) -> Windows:
    return read_windows(path, config.horizon_fs, config.frame_interval_fs, config.data_interval_fs)
