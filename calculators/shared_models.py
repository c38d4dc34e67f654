"""Potentials by where they come from: one copy in memory, however many forces ask for it.

A force inside a simulation engine is copied and written to files by the engine. What travels then
is a `ModelSource`, a path and a hash; the weights stay where they are.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

import torch

from egno_md.bundle import CARD_FILE, Bundle, find_bundle, load_bundle, packaged_bundles
from egno_md.propagators.direct_force_potential import load_potential
from egno_md.roles import Potential

#: Where a potential is that was made in this process and is in no file.
_IN_MEMORY: Final = "memory"

_DTYPES: Final = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where to find a potential, and how to recognise it.

    Attributes:
        place: name of a packaged bundle, or the absolute path of a folder; "memory" for a
            potential that is in no file.
        sha256: hash of the bundle's card, which holds the hash of its weights; for "memory" a
            random mark that only this process knows.
        device: as torch names it; "auto": CUDA where there is a device, else the CPU.
        dtype: float32 or float64; None: the bundle's own.
        compile: whether it is compiled at its first evaluation.
    """

    place: str
    sha256: str
    device: str = "auto"
    dtype: str | None = None
    compile: bool = False

    @property
    def torch_device(self) -> torch.device:
        """The device on this machine."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)


class SharedPotential:
    """A potential and where it came from; kept alive by those who use it."""

    def __init__(self, source: ModelSource, potential: Potential) -> None:
        """Take hold of a potential.

        Args:
            source: where it came from.
            potential: ready for evaluation.
        """
        self.source, self.potential = source, potential

    @property
    def conservative(self) -> bool:
        """Whether its forces are minus the gradient of its energy, as far as is known."""
        return bool(getattr(self.potential, "conservative", True))


_ALIVE: Final[WeakValueDictionary[ModelSource, SharedPotential]] = WeakValueDictionary()


def open_shared(
    model: str | PathLike[str] | Bundle | Potential,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    compile: bool = False,
) -> SharedPotential:
    """Load a potential, or find the copy that is in memory.

    Args:
        model: name or path of an eSCN bundle, a bundle that was read, or any potential.
        device: where to compute; None: CUDA where there is a device, else the CPU.
        dtype: float32 or float64; None: the bundle's own.
        compile: whether a bundle's network is compiled at its first evaluation.

    Raises:
        FileNotFoundError: if there is no such bundle.
        ValueError: if it is damaged, of another kind, changed on disk since it was read, or if
            an option is given for a potential that has its own.
    """
    if isinstance(model, str | PathLike | Bundle):
        folder = find_bundle(model.path if isinstance(model, Bundle) else model)
        digest = _card_sha256(folder)
        if isinstance(model, Bundle) and load_bundle(folder).card != model.card:
            raise ValueError(f"bundle {model.name} has changed on disk since it was read: {folder}")
        return find_shared(
            ModelSource(_place(folder), digest, _device_name(device), _dtype_name(dtype), compile)
        )
    if device is not None or dtype is not None or compile:
        raise ValueError(
            f"device={device}, dtype={dtype} and compile={compile} are for bundles; "
            f"a {type(model).__name__} that is already made has its own"
        )
    home = str(getattr(model, "device", "cpu"))
    return _remember(ModelSource(_IN_MEMORY, secrets.token_hex(32), home), model)


def find_shared(source: ModelSource) -> SharedPotential:
    """Return the potential of a source, from memory or from disk.

    Args:
        source: as `open_shared` made it, perhaps on another machine.

    Raises:
        FileNotFoundError: if the bundle is not there.
        ValueError: if it is another one now, is damaged, or was only in another process's memory.
    """
    alive = _ALIVE.get(source)
    if alive is not None:
        return alive
    if source.place == _IN_MEMORY:
        raise ValueError(
            "the potential of this force was only in the memory of the process that made it; "
            "make the force from a bundle to keep it in files"
        )
    folder = find_bundle(source.place)
    digest = _card_sha256(folder)
    if digest != source.sha256:
        raise ValueError(
            f"the card of bundle {source.place} has sha256 {digest[:16]}..., the force was made "
            f"with {source.sha256[:16]}...; put the old bundle back or make the force again"
        )
    dtype = None if source.dtype is None else _DTYPES[source.dtype]
    # The card names the hash of the weights, which is compared when they are read.
    potential = load_potential(
        folder, device=source.torch_device, dtype=dtype, compile=source.compile
    )
    return _remember(source, potential)


def _remember(source: ModelSource, potential: Potential) -> SharedPotential:
    shared = SharedPotential(source, potential)
    _ALIVE[source] = shared
    return shared


def _place(folder: Path) -> str:
    """Name of a packaged bundle, which holds on every machine; else the absolute path."""
    real = folder.resolve()
    for name, packaged in packaged_bundles().items():
        if packaged.resolve() == real:
            return name
    return str(real)


def _card_sha256(folder: Path) -> str:
    """Hash of a bundle's card.

    Raises:
        FileNotFoundError: if the folder has none.
    """
    card = folder / CARD_FILE
    if not card.is_file():
        raise FileNotFoundError(f"bundle {folder} has no {CARD_FILE}")
    with card.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _device_name(device: str | torch.device | None) -> str:
    if device is None:
        return "auto"
    try:
        return str(torch.device(device))
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"torch knows no device {device!r}; give cpu, cuda or cuda:1") from error


def _dtype_name(dtype: str | torch.dtype | None) -> str | None:
    name = None if dtype is None else str(dtype).removeprefix("torch.")
    if name not in (None, *_DTYPES):
        raise ValueError(f"dtype must be float32 or float64, got {dtype}")
    return name
