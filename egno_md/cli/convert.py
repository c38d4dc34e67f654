"""`egno-md convert FILE.pt`: a published eSCN checkpoint becomes a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from egno_md.job import Job, read_job


class ConvertConfig(Job):
    """Turn an eSCN checkpoint of the Open Catalyst project into a bundle.

    Nothing in the file is run: one that holds more than plain data is refused.
    """

    verb: ClassVar[str] = "convert"
    positional: ClassVar[str | None] = "checkpoint"

    checkpoint: str
    """The .pt file."""
    out: str = "converted.bundle"
    """Folder of the bundle to write."""
    ema: Literal["auto", "ignore", "apply"] = "auto"
    """Averaged weights: auto takes them if the file has them; ignore leaves them; apply insists."""
    elements: tuple[str, ...] = ()
    """Symbols of the elements it was trained on; none: those whose weights have moved."""
    unnormalised: bool = False
    """Take the outputs of a file without normalisers to be eV and eV/Å."""
    dtype: Literal["float32", "float64"] = "float32"
    """Number type of the bundle's weights."""
    level_of_theory: str = Field("", max_length=1000)
    """What labelled the training data, for the card."""
    citation: str = Field("eSCN: arXiv 2302.03655", max_length=1000)
    """What to cite, for the card."""


def run(argv: Sequence[str]) -> int:
    """Convert one checkpoint and print what was done.

    Args:
        argv: arguments after the verb.

    Returns:
        Exit code 0.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is refused or damaged, or does not fit.
    """
    job = read_job(ConvertConfig, argv)
    import torch

    from egno_md.bundle import BundleCard, save_bundle
    from egno_md.data.escn_checkpoint import read_checkpoint
    from egno_md.models.escn import ESCN

    numbers = _atomic_numbers(job.elements)
    found = read_checkpoint(
        job.checkpoint, ema=job.ema, elements=numbers, unnormalised=job.unnormalised
    )
    try:
        with torch.random.fork_rng(devices=[]):
            architecture = ESCN(**found.settings).architecture()
    except ValueError as error:
        raise ValueError(f"{job.checkpoint}: {error}") from None
    card = BundleCard.model_validate(
        {
            "name": Path(job.out).name.removesuffix(".bundle"),
            "kind": "escn",
            "architecture": architecture,
            "elements": architecture["elements"],
            "cutoff_A": architecture["cutoff_A"],
            "dtype": job.dtype,
            "level_of_theory": job.level_of_theory,
            "training": dict(found.record),
            "citation": job.citation,
        }
    )
    kind = getattr(torch, job.dtype)
    path = save_bundle(job.out, card, {k: t.to(kind) for k, t in found.weights.items()})
    print(f"{path}: eSCN with {sum(t.numel() for t in found.weights.values()):,} numbers")
    for label, text in found.record.items():
        print(f"  {label}: {text}")
    return 0


def _atomic_numbers(symbols: Sequence[str]) -> list[int]:
    """Atomic numbers of element symbols."""
    if not symbols:
        return []
    from ase.data import atomic_numbers

    for symbol in symbols:
        if symbol not in atomic_numbers or symbol == "X":
            raise ValueError(
                f"elements: {symbol!r} is no chemical element; give symbols such as Cu"
            )
    return [atomic_numbers[symbol] for symbol in symbols]
