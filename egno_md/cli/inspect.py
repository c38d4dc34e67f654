"""`egno-md inspect BUNDLE...`: read bundles, check them, print their cards."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from egno_md.job import Job, read_job


class InspectConfig(Job):
    """Read and check bundles, and print what their cards say; without a name, list them."""

    verb: ClassVar[str] = "inspect"
    positional: ClassVar[str | None] = "bundle"

    bundle: tuple[str, ...] = ()
    """Packaged names or paths."""
    as_json: bool = False
    """Print the card as JSON."""
    max_weights_MB: int | None = Field(None, ge=1)
    """Largest weights file that is read, MB; none: as the architecture needs."""


def run(argv: Sequence[str]) -> int:
    """Print the cards of bundles.

    Args:
        argv: arguments after the verb.

    Returns:
        Exit code 0.

    Raises:
        ValueError: if a bundle is damaged.
        FileNotFoundError: if there is none.
    """
    job = read_job(InspectConfig, argv)
    from egno_md.bundle import load_bundle, packaged_bundles
    from egno_md.bundle_card import card_as_json, card_rows

    if not job.bundle:
        packaged = packaged_bundles()
        print("packaged bundles:" if packaged else "no bundles come with this package")
        for name in packaged:
            print(f"  {name}: {load_bundle(name).card.level_of_theory}")
        return 0
    limit = None if job.max_weights_MB is None else job.max_weights_MB * 2**20
    for name in job.bundle:
        bundle = load_bundle(name, max_weights_bytes=limit)
        if job.as_json:
            sys.stdout.write(card_as_json(bundle.card))
            continue
        n_weights = sum(t.numel() for t in bundle.weights.values())
        rows = [("folder", str(bundle.path)), *card_rows(bundle.card)]
        rows.append(("numbers in the weights", str(n_weights)))
        if bundle.reference:
            rows.append(("reference statistics", ", ".join(sorted(bundle.reference))))
        print(bundle.name)
        width = max(len(label) for label, _ in rows)
        for label, text in rows:
            print(f"  {label:<{width}}  {text}")
    return 0
