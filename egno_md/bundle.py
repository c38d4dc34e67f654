"""A model on disk: a folder of JSON and safetensors, checked when read, never unpickled.

`name.bundle/` holds `bundle.json` (the card), `weights.safetensors`, optionally
`reference.safetensors` (statistics of the reference dynamics), and `CARD.md` for people.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import secrets
import shutil
import stat
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Final

import safetensors.torch
import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from egno_md.bonds import constitution
from egno_md.bundle_card import (
    FORMAT_VERSION,
    MAX_CARD_BYTES,
    card_as_json,
    card_as_markdown,
    read_card,
)
from egno_md.bundle_card import BundleCard as BundleCard
from egno_md.state import Molecule

CARD_FILE: Final = "bundle.json"
WEIGHTS_FILE: Final = "weights.safetensors"
REFERENCE_FILE: Final = "reference.safetensors"
TEXT_FILE: Final = "CARD.md"

#: The largest tensor file that is read, unless the caller allows more.
MAX_WEIGHTS_BYTES: Final = 64 * 2**20

#: The same for architectures whose published sizes are larger.
MAX_PUBLISHED_BYTES: Final[Mapping[str, int]] = {"escn": 2 * 2**30}
MAX_HEADER_BYTES: Final = 10 * 2**20

#: Parameters that a constructor may make more than a bundle has.
_SPARE_PARAMETERS: Final = 100_000

_DTYPES: Final = (
    *(torch.float32, torch.float64),
    *(torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool),
)

#: Where the class of each architecture lives.
_MODEL_CLASSES: Final[Mapping[str, tuple[str, str]]] = {
    "hamiltonian-egno": ("egno_md.models.hamiltonian_egno", "HamiltonianEGNO"),
    "escn-md": ("egno_md.models.escn_md", "ESCNMD"),
    "egno": ("egno_md.models.egno", "EGNO"),
    "escn": ("egno_md.models.escn", "ESCN"),
    "distance-network": ("egno_md.models.distance_network", "DistanceNetwork"),
    "local-distance-network": ("egno_md.models.local_distance_network", "LocalDistanceNetwork"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A model as it was read from disk.

    Attributes:
        card: what is known about it.
        weights: the network's `state_dict`, on the CPU, finite.
        reference: statistics of the reference dynamics by name; empty if there are none.
        path: the folder.
    """

    card: BundleCard
    weights: dict[str, Tensor]
    reference: dict[str, Tensor]
    path: Path

    @property
    def name(self) -> str:
        """Name on the card."""
        return self.card.name

    def was_trained_on(self, molecule: Molecule) -> bool | None:
        """Whether a molecule is among the training molecules; None if these are not recorded."""
        if not self.card.molecules:
            return None
        return constitution(molecule.numbers, molecule.bonds) in self.card.molecules

    def check_elements(self, molecule: Molecule) -> None:
        """Refuse a molecule with an element the model was not trained on.

        Raises:
            ValueError: naming the atom, its element and the elements that are known.
        """
        if not self.card.elements:
            return
        from ase.data import chemical_symbols

        for atom, number in enumerate(molecule.numbers.tolist()):
            if number not in self.card.elements:
                known = ", ".join(chemical_symbols[z] for z in self.card.elements)
                raise ValueError(
                    f"atom {atom} is {chemical_symbols[number]}, which bundle {self.name!r} was "
                    f"not trained on; it knows {known}"
                )


def packaged_bundles() -> dict[str, Path]:
    """Return the folders of the bundles that come with the package, by name."""
    folder = Path(str(resources.files("egno_md"))) / "bundles"
    return {
        p.name.removesuffix(".bundle"): p
        for p in sorted(folder.glob("*.bundle"))
        if (p / CARD_FILE).is_file()
    }


def find_bundle(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the folder of a bundle given by a packaged name or a path.

    Raises:
        FileNotFoundError: listing the packaged names.
        ValueError: if the path is not a folder.
    """
    given, packaged = os.fspath(name_or_path), packaged_bundles()
    if isinstance(name_or_path, str) and given in packaged:
        return packaged[given]
    try:
        mode = os.stat(given).st_mode if given else 0
    except (OSError, ValueError):
        mode = 0
    if mode and not stat.S_ISDIR(mode):
        raise ValueError(f"{given} is a file; a bundle is a folder that holds {CARD_FILE}")
    if not mode:
        known = ", ".join(packaged) or "none"
        raise FileNotFoundError(f"no bundle {given!r}: no such folder, and packaged are: {known}")
    return Path(given)


def load_bundle(
    name_or_path: str | os.PathLike[str],
    kind: str | tuple[str, ...] | None = None,
    *,
    max_weights_bytes: int | None = None,
) -> Bundle:
    """Read a bundle and check all of it.

    Args:
        name_or_path: a packaged name such as `ethanol-egno`, or a folder.
        kind: "egno", "escn" or "distance", or several, if only these will do.
        max_weights_bytes: the largest tensor file that is read; None: as its architecture needs.

    Returns:
        The bundle; its tensors are finite and their hash is the card's.

    Raises:
        FileNotFoundError: if the bundle or one of its files is missing.
        ValueError: if a file is too large, damaged, of a newer format or of another kind.
    """
    folder = find_bundle(name_or_path)
    card = read_card(_read_file(folder, CARD_FILE, MAX_CARD_BYTES), str(folder / CARD_FILE))
    kinds = (kind,) if isinstance(kind, str) else kind
    if kinds is not None and card.kind not in kinds:
        needed = f"{' or '.join(map(repr, kinds))} is needed here ({folder})"
        raise ValueError(f"bundle {card.name!r} is of kind {card.kind!r}; {needed}")
    if card.weights_sha256 is None:
        raise ValueError(f"{folder / CARD_FILE}: weights_sha256 is missing")
    if max_weights_bytes is None:
        name = str(card.architecture["name"])
        max_weights_bytes = MAX_PUBLISHED_BYTES.get(name, MAX_WEIGHTS_BYTES)
    weights = _read_tensors(folder, WEIGHTS_FILE, card.weights_sha256, max_weights_bytes)
    if not weights:
        raise ValueError(f"{folder / WEIGHTS_FILE} holds no tensors")
    reference: dict[str, Tensor] = {}
    if card.reference_sha256 is not None:
        reference = _read_tensors(folder, REFERENCE_FILE, card.reference_sha256, max_weights_bytes)
    return Bundle(card, weights, reference, folder)


def _read_file(folder: Path, name: str, max_bytes: int) -> bytes:
    """Read a plain file of the bundle's own folder, no larger than allowed."""
    file = folder / name
    if not os.path.lexists(file):
        raise FileNotFoundError(f"bundle {folder} has no {name}")
    real = file.resolve()
    if not real.is_relative_to(folder.resolve()):
        raise ValueError(f"{file} is a link that leads out of the bundle")
    if not real.is_file():
        raise ValueError(f"{file} is not a plain file")
    with real.open("rb") as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"{file} is larger than the {max_bytes} bytes allowed")
    return data


def _read_tensors(folder: Path, name: str, sha256: str, max_bytes: int) -> dict[str, Tensor]:
    """Read a tensor file; the hash is compared before anything is parsed."""
    data, file = _read_file(folder, name, max_bytes), folder / name
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ValueError(f"{file} has sha256 {found[:16]}..., but the card says {sha256[:16]}...")
    header = int.from_bytes(data[:8], "little")
    if header > MAX_HEADER_BYTES:
        raise ValueError(f"{file} has a header of {header} bytes; allowed are {MAX_HEADER_BYTES}")
    try:
        tensors = tensors_from_bytes(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise ValueError(f"{file} is not a safetensors file: {error}") from None
    _check_finite(tensors, str(file))
    return tensors


def _check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    for key, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"{where}: tensor {key!r} is {tensor.dtype}; allowed are {_DTYPES}")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{where}: tensor {key!r} holds numbers that are not finite")


def save_bundle(
    path: str | os.PathLike[str],
    card: BundleCard,
    weights: Mapping[str, Tensor],
    reference: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a bundle: complete and readable, or not at all.

    Everything is written to a folder beside the final one, flushed to disk, then renamed. A
    bundle that was there is replaced; any other folder with content is left alone.

    Args:
        path: folder to write.
        card: its hashes, and its versions if empty, are filled in here.
        weights: the network's `state_dict`.
        reference: statistics of the reference dynamics, or None.

    Returns:
        The folder.

    Raises:
        ValueError: if a tensor is not finite, or `path` is something other than a bundle.
        OSError: if the disk refuses.
    """
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file; a bundle is written to a folder")
    if target.is_dir() and any(target.iterdir()) and not (target / CARD_FILE).is_file():
        raise ValueError(f"{target} has files that are not a bundle; give another folder")
    if not weights:
        raise ValueError(f"no weights to save in {target}")
    _check_finite(weights, f"weights of {card.name!r}")
    _check_finite(reference or {}, f"reference of {card.name!r}")
    files = {WEIGHTS_FILE: _as_bytes(weights)}
    if reference:
        files[REFERENCE_FILE] = _as_bytes(reference)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    full = BundleCard.model_validate(
        {
            **card.model_dump(),
            "format_version": FORMAT_VERSION,
            "versions": card.versions or package_versions(),
            "weights_sha256": hashes[WEIGHTS_FILE],
            "reference_sha256": hashes.get(REFERENCE_FILE),
        }
    )
    files |= {CARD_FILE: card_as_json(full).encode(), TEXT_FILE: card_as_markdown(full).encode()}
    target.parent.mkdir(parents=True, exist_ok=True)
    with _new_folder(target) as fresh:
        for name, data in files.items():
            with (fresh / name).open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
    return target


def _as_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    # Clones: safetensors refuses tensors that share memory, and tied weights do.
    plain = {k: t.detach().to("cpu").clone().contiguous() for k, t in tensors.items()}
    return bytes(safetensors.torch.save(plain, metadata={"format": "pt"}))


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Give a folder to fill which takes the place of `target` if all goes well."""
    mark = f"{os.getpid()}-{secrets.token_hex(4)}"
    fresh = target.with_name(f".{target.name}.new-{mark}")
    old = target.with_name(f".{target.name}.old-{mark}")
    fresh.mkdir()
    try:
        yield fresh
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(fresh, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


def package_versions() -> dict[str, str]:
    """Return the versions that a training should leave in its card."""
    found = {"python": ".".join(str(part) for part in sys.version_info[:3])}
    for name in ("egno-md", "torch", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def build_model(bundle: Bundle) -> nn.Module:
    """Make the network of a bundle, with its weights, in the card's number type.

    Args:
        bundle: as `load_bundle` gave it.

    Returns:
        The network, on the CPU, in evaluation mode.

    Raises:
        ValueError: if the architecture is not understood or the weights do not fit it.
    """
    architecture = bundle.card.architecture
    module_name, class_name = _MODEL_CLASSES[str(architecture["name"])]
    model_class = getattr(importlib.import_module(module_name), class_name)
    where = f"bundle {bundle.name!r}"
    n_numbers = sum(tensor.numel() for tensor in bundle.weights.values())
    try:
        # The first, random weights are thrown away; the caller's random stream stays as it is.
        with torch.random.fork_rng(devices=[]), _at_most(n_numbers):
            model = model_class.from_architecture(architecture)
    except (TypeError, KeyError, ValueError, RuntimeError, AttributeError) as error:
        raise ValueError(f"{where}: architecture is not understood: {_one_line(error)}") from None
    if not isinstance(model, nn.Module):
        raise TypeError(f"{class_name}.from_architecture did not return a torch module")
    model.to(getattr(torch, bundle.card.dtype))
    _check_shapes(model.state_dict(), bundle.weights, where)
    model.load_state_dict(bundle.weights, strict=True)
    return model.eval()


@contextmanager
def _at_most(n_numbers: int) -> Iterator[None]:
    """Stop a constructor that makes more parameters than the weights file can fill.

    An architecture is read from a file: a width of 10^6 in it must not fill the memory before
    the shapes are compared.
    """
    here, made = threading.get_ident(), 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal made
        if parameter is not None and threading.get_ident() == here:
            made += parameter.numel()
            if made > n_numbers + _SPARE_PARAMETERS:
                raise ValueError(f"it has far more parameters than the {n_numbers} in the weights")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _check_shapes(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> None:
    """Name the first tensor that is missing, unknown or of another shape."""
    for key, tensor in wanted.items():
        if key not in given:
            raise ValueError(f"{where}: weight {key!r} of its architecture is missing")
        if given[key].shape != tensor.shape:
            raise ValueError(
                f"{where}: weight {key!r} has shape {tuple(given[key].shape)}, "
                f"its architecture needs {tuple(tensor.shape)}"
            )
    for key in sorted(given.keys() - wanted.keys()):
        raise ValueError(f"{where}: weight {key!r} is not part of its architecture")


def _one_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error)) or type(error).__name__
