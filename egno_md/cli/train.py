"""`egno-md train`: data to bundle."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence


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

    from egno_md.training.sources import names_only

    command = "egno-md train " + shlex.join(names_only(argv))
    if config.kind == "escn":
        from egno_md.training.escn_training import train_escn

        path = train_escn(config, command)
    else:
        from egno_md.training.curriculum import train_egno

        path = train_egno(config, command)
    sys.stdout.write(f"wrote {path}\n")
    return 0
