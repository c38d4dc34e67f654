"""The command line: one file per verb, loaded only when that verb is called."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

#: Every verb and what it does; `egno_md.cli.<verb>` has `run(argv) -> exit code`.
VERBS: Final[Mapping[str, str]] = {
    "run": "make a trajectory: surrogate, guarded or classical; with a report",
    "train": "train a bundle: an EGNO propagator or an eSCN potential",
    "export": "turn a trajectory store into xtc, dcd, h5 or extxyz",
    "inspect": "print what the card of a bundle says",
    "check": "check that a bundle obeys physics: symmetries, forces, smoothness, conservation",
    "convert": "turn a published eSCN checkpoint into a bundle, without running what is in it",
    "parity": "compare the published EGNO and eSCN with files of their reference outputs",
    "benchmark": "measure a table: nbody, mocap, md17-sgdml, claims, propagators, ...",
    "reference": "make reference statistics with classical dynamics",
    "doctor": "say what is installed, what is missing and why",
}

#: Exit codes besides 0.
EXIT_FAILED: Final = 1
EXIT_WRONG_INPUT: Final = 2
EXIT_INTERRUPTED: Final = 130


def verbs() -> dict[str, str]:
    """Return the verbs whose file is there, with one line each."""
    return {v: line for v, line in VERBS.items() if importlib.util.find_spec(f"{__name__}.{v}")}


def usage() -> str:
    """Return the text of `egno-md --help`."""
    known = verbs()
    width = max(len(verb) for verb in known)
    lines = [f"  {verb:<{width}}  {line}" for verb, line in known.items()]
    return "\n".join(
        [
            "usage: egno-md VERB [ARGUMENTS]",
            "",
            "Learned molecular dynamics: EGNO segments guarded by eSCN potentials.",
            "",
            *lines,
            "",
            "egno-md VERB --help   options of one verb",
            "egno-md --version     version",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: the arguments; those of the process when None.

    Returns:
        0 if it worked, 1 if it ran and failed, 2 if the input was wrong, 130 if interrupted.
    """
    try:
        code = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader of our output has gone (as in `| head`): nothing is wrong with the input,
        # and what is still in the buffer must not raise again when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(words: list[str]) -> int:
    """Answer what needs no verb, or find the verb."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else EXIT_WRONG_INPUT
    if words[0] in ("-V", "--version"):
        from egno_md import __version__

        print(f"egno-md {__version__}")
        return 0
    known = verbs()
    if words[0] not in known:
        near = difflib.get_close_matches(words[0], known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return _complain(f"unknown verb {words[0]!r}{hint}; known are: {', '.join(known)}")
    return _call(words[0], words[1:])


def _call(verb: str, argv: Sequence[str]) -> int:
    """Run a verb; wrong input and a refusing disk become one line on stderr."""
    try:
        return int(importlib.import_module(f"{__name__}.{verb}").run(argv))
    except KeyboardInterrupt:
        _complain("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        parts = (error.strerror, error.filename)
        return _complain(": ".join(str(part) for part in parts if part) or str(error))
    except ValueError as error:
        return _complain(str(error))


def _complain(message: str) -> int:
    print(f"egno-md: error: {' '.join(message.split())}", file=sys.stderr)
    return EXIT_WRONG_INPUT
