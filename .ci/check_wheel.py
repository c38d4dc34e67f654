"""Check an installed egno_md from outside its checkout: `check_wheel.py CHECKOUT`."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path


def tracked(checkout: Path, folder: str) -> set[str]:
    """Return the committed files of a folder of the package, relative to the package."""
    listing = subprocess.run(
        ["git", "-C", str(checkout), "ls-files", f"egno_md/{folder}"],
        check=True,
        capture_output=True,
        text=True,
    )
    return {line.removeprefix("egno_md/") for line in listing.stdout.splitlines()}


def main() -> None:
    """Import every module, load every bundle, compare data files with the checkout."""
    checkout = Path(sys.argv[1]).resolve()
    import egno_md
    import egno_md.calculators
    import egno_md.trajectories

    home = Path(egno_md.__file__).resolve().parent
    if home.is_relative_to(checkout):
        sys.exit(f"egno_md was imported from the checkout: {home}")
    names = [m.name for m in pkgutil.walk_packages([str(home)], "egno_md.")]
    for name in names:
        if name != "egno_md.__main__":
            importlib.import_module(name)
    for folder in ("bundles", "examples"):
        installed = {str(p.relative_to(home)) for p in (home / folder).rglob("*") if p.is_file()}
        missing = tracked(checkout, folder) - installed
        if missing:
            sys.exit(f"not in the wheel: {', '.join(sorted(missing))}")
    from egno_md.bundle import build_model, load_bundle, packaged_bundles

    for name in packaged_bundles():
        build_model(load_bundle(name))
    leaked = [n for n in ("calculators", "trajectories") if (home.parent / n).exists()]
    if leaked:
        sys.exit(f"the wheel installs top-level packages: {', '.join(leaked)}")
    print(f"{len(names)} modules and {len(packaged_bundles())} bundles load from {home}")


if __name__ == "__main__":
    main()
