"""`egno-md parity`: do our EGNO and eSCN give the numbers of the published ones?"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egno_md.testing.escn_parity import ESCNComparison
    from egno_md.testing.parity import Comparison

#: Tolerance for x, v, h and the loss of EGNO, if none is given.
_OUTPUT_TOLERANCE = 1e-5


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="egno-md parity",
        description=(
            "EGNO: load the weights of each npz file into our EGNO, run it forward and backward in "
            "float32, and print the largest relative errors of x, v, h, the loss and the gradient "
            "norms against the published numbers in the file. eSCN: load the weights of a "
            "safetensors file into our eSCN, run it with the edge frames of a second one, and "
            "print the errors of everything that this one holds."
        ),
        epilog=(
            "Exit code: 0 all within tolerance, 1 some above, 2 a file could not be used. An "
            "output error is max|ours - published| / max|published|. A gradient norm's error is "
            "relative to that norm, or to 1e-6 of the largest norm if that is larger."
        ),
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="npz file (EGNO), or two safetensors files (eSCN): weights, then outputs",
    )
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        help="for x, v, h, loss (default 1e-05); for eSCN (default 1e-12, in float32 3e-06)",
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
    return f"  {name:<17}{error:>9.1e}   allowed {tolerance:.0e}   {verdict:<6}{note}".rstrip()


def _lines(result: Comparison, tolerance: float, gradient_tolerance: float) -> list[str]:
    lines = [f"{result.path}: {result.model}"]
    for name in ("x", "v", "h", "loss"):
        if name in result.outputs:
            lines.append(_row(name, result.outputs[name], tolerance))
        else:
            lines.append(f"  {name:<17}not in the file")
    worst = result.worst_gradient
    if worst is None:
        lines.append(f"  {'gradient norms':<17}not in the file")
    else:
        lines.append(_row("gradient norms", worst[1], gradient_tolerance, f"worst: {worst[0]}"))
    return lines


def _escn_lines(result: ESCNComparison, tolerance: float | None) -> list[str]:
    from egno_md.testing.escn_parity import TOLERANCES

    limit = TOLERANCES[result.dtype] if tolerance is None else tolerance
    kind = str(result.dtype).removeprefix("torch.")
    lines = [f"{result.paths[0]}, {result.paths[1].name}: {result.model}, {kind}"]
    return lines + [_row(name, error, limit) for name, error in result.errors.items()]


def _paired(files: Sequence[str]) -> list[tuple[str, ...]]:
    """Take safetensors files two by two, others one by one.

    Raises:
        ValueError: if a safetensors file is alone.
    """
    groups: list[tuple[str, ...]] = []
    left = list(files)
    while left:
        size = 2 if left[0].endswith(".safetensors") else 1
        group, left = tuple(left[:size]), left[size:]
        if size == 2 and not (len(group) == 2 and group[1].endswith(".safetensors")):
            raise ValueError(
                f"{group[0]}: eSCN needs two safetensors files, the weights and then the outputs"
            )
        groups.append(group)
    return groups


def _compare(group: tuple[str, ...], options: argparse.Namespace) -> bool:
    """Compare and print one model; return whether all is within the tolerance."""
    # Late, so that --help needs no torch.
    if len(group) == 2:
        from egno_md.testing.escn_parity import compare_escn

        found = compare_escn(*group)
        print("\n".join(_escn_lines(found, options.tolerance)))
        return found.within(options.tolerance)
    from egno_md.testing.parity import compare

    tolerance = options.tolerance or _OUTPUT_TOLERANCE
    result = compare(group[0])
    print("\n".join(_lines(result, tolerance, options.gradient_tolerance)))
    return result.within(tolerance, options.gradient_tolerance)


def run(argv: Sequence[str]) -> int:
    """Compare our networks with files of published numbers and print how far they are off.

    Args:
        argv: the words after `egno-md parity`.

    Returns:
        0 if all files are within tolerance, 1 if one is not, 2 if one cannot be used; every file
        is tried.

    Raises:
        ValueError: if a safetensors file is alone.
    """
    options = _parser().parse_args(argv)
    code = 0
    for group in _paired(options.files):
        try:
            good = _compare(group, options)
        except (ValueError, OSError) as error:
            print(f"egno-md: error: {' '.join(str(error).split())}", file=sys.stderr)
            code = 2
            continue
        if not good:
            code = max(code, 1)
    return code
