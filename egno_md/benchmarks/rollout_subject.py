"""A bundle with the potential it was taught by and the structure that it starts from.

What a bundle was taught by is on its card: under `training`, or in the command (or in the
packaged job file that the command names). Cards hold names of files, not where they lie, so
files are looked for in the data folder and among the packaged examples.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.bundle import Bundle, load_bundle, packaged_bundles
from egno_md.bundle_card import BundleCard
from egno_md.roles import Potential
from egno_md.state import State
from egno_md.training.sources import open_potential, start_structure


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """What is measured: a bundle on a molecule.

    Attributes:
        name: of the bundle, and of the structure where the bundle knows several.
        bundle: of kind egno.
        potential: the true potential.
        potential_name: its name, without folders.
        start: one replica at rest.
    """

    name: str
    bundle: Bundle
    potential: Potential
    potential_name: str
    start: State


def egno_bundles(config: BenchmarkConfig) -> list[Bundle]:
    """Load the bundles that are asked for, or the packaged ones.

    Args:
        config: may name them.

    Raises:
        FileNotFoundError: if there is no such bundle.
        ValueError: if one is damaged or no propagator.
    """
    if config.bundles:
        return [load_bundle(name, kind="egno") for name in config.bundles]
    loaded = [load_bundle(name) for name in packaged_bundles()]
    return [bundle for bundle in loaded if bundle.card.kind == "egno"]


def open_subjects(config: BenchmarkConfig, index: int, bundle: Bundle) -> list[Subject]:
    """Find the potentials and the structures of a bundle and open them.

    Args:
        config: may give both; names the data folder.
        index: number of the bundle among those measured.
        bundle: the bundle.

    Returns:
        One for each molecule that the bundle was taught.

    Raises:
        FileNotFoundError: if a file is not found, saying where it was looked for.
        ValueError: if neither the card nor the options say what it was taught by.
    """
    potentials = _named("potential", config.potentials, index, bundle)
    files = structure_files(config, index, bundle)
    if len(potentials) != len(files):
        raise ValueError(
            f"bundle {bundle.name!r} has {len(potentials)} potentials and {len(files)} structures; "
            "give --potentials and --structures, one for each bundle"
        )
    found = []
    for potential, file in zip(potentials, files, strict=True):
        scheme, colon, rest = potential.partition(":")
        name = f"{scheme}:{Path(rest).name}" if colon else Path(potential).name
        if colon and scheme == "sgdml":
            potential = f"sgdml:{find_file(rest, config.data)}"
        start = start_structure(str(file))
        bundle.check_elements(start.molecule)
        label = bundle.name if len(files) == 1 else f"{bundle.name}, {file.stem}"
        found.append(Subject(label, bundle, open_potential(potential, str(file)), name, start))
    return found


def structure_files(config: BenchmarkConfig, index: int, bundle: Bundle) -> list[Path]:
    """Find the structures that a bundle's training started from.

    Args:
        config: may name one; names the data folder.
        index: number of the bundle among those measured.
        bundle: the bundle.

    Raises:
        FileNotFoundError: if one is not found.
        ValueError: if neither the card nor the options name any.
    """
    names = _named("structure", config.structures, index, bundle)
    return [find_file(name, config.data) for name in names]


def _named(option: str, given: Sequence[str], index: int, bundle: Bundle) -> Sequence[str]:
    """Names of a bundle's potentials or structures: as given, or as its card says."""
    if given and index >= len(given):
        raise ValueError(f"--{option}s has {len(given)} entries; give one for each bundle")
    names = [given[index]] if given else recorded(bundle.card, option)
    if not names:
        raise ValueError(
            f"the card of bundle {bundle.name!r} does not say its {option}; give --{option}s, "
            "one for each bundle"
        )
    return names


def recorded(card: BundleCard, option: str) -> list[str]:
    """Look up an option of a bundle's training.

    Args:
        card: the bundle's card.
        option: name of the option, such as "potential".

    Returns:
        Its values; none if it is not recorded.
    """
    words = shlex.split(str(card.training.get("command", "")))
    places = [card.training, _options(words)]
    for word in words:
        job = _examples() / word
        if word.endswith(".toml") and job.is_file():
            places.append(tomllib.loads(job.read_text(encoding="utf-8")))
    for place in places:
        value = place.get(option)
        if value:
            return [str(v) for v in value] if isinstance(value, list) else [str(value)]
    return []


def _options(words: Sequence[str]) -> dict[str, Any]:
    """Values of a command by option."""
    found: dict[str, list[str]] = {}
    option = ""
    for word in words:
        if word.startswith("--"):
            option, equals, value = word[2:].partition("=")
            found[option] = [value] if equals else []
        elif option:
            found[option].append(word)
    return found


def find_file(name: str, data: str | None) -> Path:
    """Find a file by its path, or by its name among examples and data.

    Args:
        name: a path, or the name alone.
        data: folder that is searched, all the way down; None: examples only.

    Raises:
        FileNotFoundError: saying where it was looked for.
    """
    for path in (Path(name), _examples() / name):
        if path.is_file():
            return path
    if data is not None and Path(data).is_dir():
        for path in sorted(Path(data).rglob(Path(name).name)):
            return path
    where = "give its folder by --data" if data is None else f"it is not in {data}"
    raise FileNotFoundError(f"no file {name}; it is not among the packaged examples, and {where}")


def _examples() -> Path:
    return Path(str(resources.files("egno_md"))) / "examples"
