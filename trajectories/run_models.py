"""The models of a run: which the mode needs, and where they know less than the run asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from egno_md.bonds import constitution
from egno_md.bundle import Bundle, load_bundle
from egno_md.models.frozen_graph import Compiling
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.propagators.learned import LearnedPropagator
from egno_md.propagators.potential_bundles import POTENTIAL_KINDS, potential_of
from egno_md.roles import Potential
from egno_md.state import Molecule

if TYPE_CHECKING:
    from egno_md.config import RunConfig

#: Opens a potential that is no bundle, "kind:file", and gives its sha256 too.
Opener = Callable[[str], tuple[Potential, str]]


@dataclass(frozen=True, slots=True)
class RunModels:
    """The models of a run.

    Attributes:
        learned: bundle of the network, or None in the classical mode.
        guard: bundle of the potential, or None if it is none or of another kind.
        potential: the potential, or None in the surrogate mode.
        inner: the cheap potential of multiple time stepping, or None.
        opener: opens potentials that are no bundles, in workers too.
        hashes: name -> sha256 of each.
        cheap: bundle of the potential that proposes or is the inner one, likewise.
        proposal: that potential, or None where the network proposes or nothing does.
        others: bundles of the networks that give a second opinion.
    """

    learned: Bundle | None = None
    guard: Bundle | None = None
    potential: Potential | None = None
    inner: Potential | None = None
    opener: Opener | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    cheap: Bundle | None = None
    proposal: Potential | None = None
    others: tuple[Bundle, ...] = ()

    @property
    def bundles(self) -> tuple[Bundle, ...]:
        """The bundles there are."""
        known = (self.learned, self.guard, self.cheap, *self.others)
        return tuple(b for b in known if b is not None)

    @property
    def networks_with_forces(self) -> tuple[ESCNPotential, ...]:
        """The potentials that can be compiled."""
        opened = (self.potential, self.inner, self.proposal)
        return tuple(p for p in opened if isinstance(p, ESCNPotential))

    def compile_forces(self, *, strict: bool) -> None:
        """Compile the potentials that can be, at their next evaluation.

        Args:
            strict: raise where that fails; else say so and go on without.
        """
        for potential in self.networks_with_forces:
            potential.compile(Compiling(strict=strict))

    def check(self, molecule: Molecule) -> None:
        """Refuse a molecule with elements a bundle does not know.

        Raises:
            ValueError: naming the atom and the bundle.
        """
        for bundle in self.bundles:
            bundle.check_elements(molecule)


def load_models(config: RunConfig, other_potential: Opener | None = None) -> RunModels:
    """Load what the mode needs, and nothing else.

    Args:
        config: settings.
        other_potential: opens a guard that is no bundle, "kind:file", and gives its sha256 too.

    Raises:
        FileNotFoundError: if a bundle is not there.
        ValueError: if a bundle is damaged or of the wrong kind, no guard is named where one is
            needed, or another network is the same or makes frames at other times.
    """
    learned = guard = potential = inner = cheap = proposal = None
    hashes: dict[str, str] = {}

    def opened(name: str) -> tuple[Potential, Bundle | None]:
        made, sha256, bundle = open_potential(name, other_potential, config.device, config.dtype)
        _note(hashes, name if bundle is None else bundle.name, sha256)
        return made, bundle

    if config.proposal is not None:
        proposal, cheap = opened(config.proposal)
    elif config.mode != "classical":
        learned = load_bundle(config.propagator, kind="egno")
        _note(hashes, learned.name, str(learned.card.weights_sha256))
    if config.mode != "surrogate":
        if config.guard is None:
            raise ValueError(
                f"mode {config.mode!r} needs a potential and guard is none; give --guard, "
                "or --mode surrogate to go without"
            )
        potential, guard = opened(config.guard)
    if config.inner_potential is not None:
        inner, cheap = opened(config.inner_potential)
    others = _others(config, learned, hashes)
    return RunModels(
        learned, guard, potential, inner, other_potential, hashes, cheap, proposal, others
    )


def _note(hashes: dict[str, str], name: str, sha256: str) -> None:
    """Keep the hash of a model; two of one name could not be told apart when the run goes on."""
    if hashes.setdefault(name, sha256) != sha256:
        raise ValueError(
            f"two models of this run are named {name!r} and have other weights; train one with "
            "another --out, whose name it takes"
        )


def _others(
    config: RunConfig, learned: Bundle | None, hashes: dict[str, str]
) -> tuple[Bundle, ...]:
    """Load the networks that give a second opinion; their hashes join the others."""
    found = []
    for name in config.other_networks:
        bundle = load_bundle(name, kind="egno")
        sha256 = str(bundle.card.weights_sha256)
        if sha256 in hashes.values():
            raise ValueError(
                f"other_networks has {name!r} twice, or it is the run's own network: what agrees "
                "with itself is no second opinion; name another"
            )
        mine = None if learned is None else learned.card.frame_interval_fs
        if bundle.card.frame_interval_fs != mine:
            raise ValueError(
                f"bundle {name!r} of other_networks makes a frame every "
                f"{bundle.card.frame_interval_fs} fs and {config.propagator!r} every {mine} fs; "
                "take one with the same step"
            )
        _note(hashes, bundle.name, sha256)
        found.append(bundle)
    return tuple(found)


def open_potential(
    name: str, other_potential: Opener | None, device: str, dtype: str
) -> tuple[Potential, str, Bundle | None]:
    """Open a potential by the name it has in the settings.

    Args:
        name: of a bundle, or "kind:file".
        other_potential: opens what is no bundle.
        device: where networks compute.
        dtype: their number type.

    Returns:
        The potential, its sha256, and its bundle if it is one.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is of another kind.
    """
    if other_potential is not None and ":" in name:
        return *other_potential(name), None
    bundle = load_bundle(name, kind=POTENTIAL_KINDS)
    potential = potential_of(bundle, device=device, dtype=getattr(torch, dtype))
    return potential, str(bundle.card.weights_sha256), bundle


def network_of(
    config: RunConfig, models: RunModels, molecule: Molecule, *, compiled: bool = False
) -> LearnedPropagator:
    """Return the network of a run.

    Args:
        config: settings.
        models: with a network.
        molecule: what will move.
        compiled: whether it is compiled.

    Raises:
        ValueError: if the molecule does not suit the network.
    """
    assert models.learned is not None
    return _opened_network(config, models.learned, molecule, compiled)


def second_opinions(
    config: RunConfig, models: RunModels, molecule: Molecule, *, compiled: bool = False
) -> list[LearnedPropagator]:
    """Return the other networks of a run.

    Args:
        config: settings.
        models: with a network.
        molecule: what will move.
        compiled: whether they are compiled.

    Raises:
        ValueError: if the molecule does not suit one.
    """
    return [_opened_network(config, bundle, molecule, compiled) for bundle in models.others]


def _opened_network(
    config: RunConfig, bundle: Bundle, molecule: Molecule, compiled: bool
) -> LearnedPropagator:
    try:
        return LearnedPropagator.from_bundle(
            bundle,
            molecule,
            device=config.device,
            dtype=getattr(torch, config.dtype),
            compile=Compiling(strict=config.compile == "always") if compiled else False,
        )
    except ValueError as error:
        raise ValueError(f"bundle {bundle.name!r}: {error}") from error


def temperature_warnings(config: RunConfig, models: RunModels) -> list[str]:
    """Say which bundles were trained at other temperatures than the run's."""
    said = []
    for bundle in models.bundles:
        span = bundle.card.temperature_range_K
        if span and not span[0] <= config.temperature_K <= span[1]:
            said.append(
                f"bundle {bundle.name!r} was trained at {span[0]:g} to {span[1]:g} K; "
                f"this run is at {config.temperature_K:g} K"
            )
    return said


def molecule_warnings(models: RunModels, molecule: Molecule) -> list[str]:
    """Say which bundles were not trained on the run's molecule."""
    return [
        f"bundle {bundle.name!r} was trained on {', '.join(bundle.card.molecules)} and not on "
        f"{constitution(molecule.numbers, molecule.bonds)}: nothing it says here was tested"
        for bundle in models.bundles
        if bundle.was_trained_on(molecule) is False
    ]


def copy_warnings(config: RunConfig, models: RunModels) -> list[str]:
    """Say that a quick copy of a potential is no potential to trust."""
    guard = models.guard
    if guard is None or guard.card.kind != "distance":
        return []
    role = {"guarded": "the guard", "metropolised": "the target"}.get(config.mode, "the potential")
    return [
        f"{role} of this run, {guard.name!r}, is a quick copy of a potential (kind 'distance'): do "
        "not trust it alone; it is right only near the shapes it was trained on, and nothing here "
        "checks it. Take the potential that it copies"
    ]
