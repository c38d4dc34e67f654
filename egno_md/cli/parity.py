"""`egno-md parity`: does our EGNO give the numbers of the published one?"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egno_md.testing.parity import Comparison


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="egno-md parity",
        description=(
            "Load the weights of each parity file into our EGNO, run it forward and backward in "
            "float32, and print the largest relative errors of x, v, h, the loss and the gradient "
            "norms against the published numbers in the file."
        ),
        epilog=(
            "Exit code: 0 all within tolerance, 1 some above, 2 a file could not be used. An "
            "output error is max|ours - published| / max|published|. A gradient norm's error is "
            "relative to that norm, or to 1e-6 of the largest norm if that is larger."
        ),
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="npz file with published numbers")
    parser.add_argument(
        "--tolerance", type=_tolerance, default=1e-5, help="for x, v, h, loss (default %(default)g)"
    )
    parser.add_argument(
        "--gradient-tolerance",
        type=_tolerance,
        default=1e-4,
        help="for gradient norms (default %(default)g)",
    )
    return parser


def _row(name: str, error: float, tolerance: float, note: str = "") -> str:
    verdict = "ok" if error <= tolerance else "ABOVE"
    return f"  {name:<15}{error:>9.1e}   allowed {tolerance:.0e}   {verdict:<6}{note}".rstrip()


def _lines(result: Comparison, tolerance: float, gradient_tolerance: float) -> list[str]:
    lines = [f"{result.path}: {result.model}"]
    for name in ("x", "v", "h", "loss"):
        if name in result.outputs:
            lines.append(_row(name, result.outputs[name], tolerance))
        else:
            lines.append(f"  {name:<15}not in the file")
    worst = result.worst_gradient
    if worst is None:
        lines.append(f"  {'gradient norms':<15}not in the file")
    else:
        lines.append(_row("gradient norms", worst[1], gradient_tolerance, f"worst: {worst[0]}"))
    return lines


def run(argv: Sequence[str]) -> int:
    """Compare our EGNO with parity files and print how far it is off.

    Args:
        argv: the words after `egno-md parity`.

    Returns:
        0 if all files are within tolerance, 1 if one is not, 2 if one cannot be used; every file
        is tried.
    """
    options = _parser().parse_args(argv)
    # Late, so that --help needs no torch.
    from egno_md.testing.parity import compare

    code = 0
    for file in options.files:
        try:
            result = compare(file)
        except (ValueError, OSError) as error:
            print(f"egno-md: error: {' '.join(str(error).split())}", file=sys.stderr)
            code = 2
            continue
        print("\n".join(_lines(result, options.tolerance, options.gradient_tolerance)))
        if not result.within(options.tolerance, options.gradient_tolerance):
            code = max(code, 1)
    return code
