"""The card of a bundle: everything a reader must know about a model, as JSON with a schema.

The format has one integer version; `FORMAT_CHANGES` says what each version changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, NoReturn, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from egno_md.job import first_error

#: Version written by this release; older ones are read, newer ones are refused.
FORMAT_VERSION: Final = 1

#: What each format version changed.
FORMAT_CHANGES: Final[Mapping[int, str]] = {
    1: "first version: bundle.json, weights.safetensors, optional reference.safetensors, CARD.md",
}

#: The units that every bundle of this format uses.
UNITS: Final[Mapping[str, str]] = {
    "length": "Å",
    "time": "fs",
    "energy": "eV",
    "mass": "amu",
    "temperature": "K",
}

#: Which architectures each kind of bundle may hold.
ARCHITECTURES: Final[Mapping[str, tuple[str, ...]]] = {
    "egno": ("hamiltonian-egno", "egno"),
    "escn": ("escn-md", "escn"),
    "distance": ("distance-network", "local-distance-network"),
}

#: The largest bundle.json that is read.
MAX_CARD_BYTES: Final = 1_000_000

_NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
_SHA256_PATTERN: Final = r"^[0-9a-f]{64}$"


class BundleCard(BaseModel):
    """What is known about a model; written to `bundle.json`."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    format_version: int = Field(FORMAT_VERSION, ge=1)
    """Version of the bundle format."""
    name: str = Field(pattern=_NAME_PATTERN)
    """Name of the bundle: letters, digits, dots, dashes."""
    kind: Literal["egno", "escn", "distance"]
    """egno: a propagator; escn: a potential; distance: a quick potential of one molecule."""
    architecture: dict[str, Any]
    """Name and hyper-parameters of the network, as its `from_architecture` takes them."""
    elements: list[int] = Field(max_length=118)
    """Atomic numbers the model was trained on; empty if it is not tied to elements."""
    molecules: list[str] = Field(default_factory=list, max_length=10_000)
    """Constitutions of the training molecules, see `bonds.constitution`; empty: not recorded."""
    cutoff_A: float | None = Field(None, gt=0.0)
    """Reach of one graph layer, Å; None where every pair is seen."""
    horizon_fs: float | None = Field(None, gt=0.0)
    """Length of the segments the model was trained on, fs; None for a potential."""
    frame_interval_fs: float | None = Field(None, gt=0.0)
    """Time between frames, fs; None for a potential."""
    dtype: Literal["float32", "float64"] = "float32"
    """Number type of the weights."""
    units: dict[str, str] = Field(default_factory=lambda: dict(UNITS))
    """Units of everything in the bundle."""
    level_of_theory: str = ""
    """What labelled the training data."""
    temperature_range_K: tuple[float, float] | None = None
    """Lowest and highest temperature of the training data, K."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Data, sha256 of it, command, CPU seconds, seed."""
    held_out: dict[str, float] = Field(default_factory=dict)
    """Measures on data not seen in training; units are in the names."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Package versions of the training."""
    citation: str = ""
    """What to cite."""
    weights_sha256: str | None = Field(None, pattern=_SHA256_PATTERN)
    """Hash of weights.safetensors; filled in by `save_bundle`."""
    reference_sha256: str | None = Field(None, pattern=_SHA256_PATTERN)
    """Hash of reference.safetensors, None if there is none; filled in by `save_bundle`."""

    @field_validator("elements")
    @classmethod
    def _known_elements(cls, elements: list[int]) -> list[int]:
        for number in elements:
            if not 1 <= number <= 118:
                raise ValueError(f"atomic number {number} is outside 1 to 118")
        return sorted(set(elements))

    @field_validator("units")
    @classmethod
    def _our_units(cls, units: dict[str, str]) -> dict[str, str]:
        for quantity, unit in units.items():
            if UNITS.get(quantity) != unit:
                ours = ", ".join(f"{q} {u}" for q, u in UNITS.items())
                raise ValueError(f"{quantity} in {unit}; this format uses {ours}")
        return units

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        name, allowed = self.architecture.get("name"), ARCHITECTURES[self.kind]
        if name not in allowed:
            raise ValueError(
                f"architecture {name!r} does not fit kind {self.kind!r}; "
                f"allowed is {' or '.join(allowed)}"
            )
        if self.temperature_range_K is not None:
            low, high = self.temperature_range_K
            if not 0.0 <= low <= high:
                raise ValueError(f"temperature_range_K = {low}, {high} is not a range")
        try:
            json.dumps([self.architecture, self.training], allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"architecture and training must be plain JSON: {error}") from None
        return self


def read_card(text: bytes, where: str) -> BundleCard:
    """Read a card from the bytes of a `bundle.json`.

    Args:
        text: UTF-8 JSON.
        where: file name for errors.

    Returns:
        The card, checked against the schema.

    Raises:
        ValueError: if it is too large, not JSON, of a newer format, or against the schema.
    """
    if len(text) > MAX_CARD_BYTES:
        raise ValueError(f"{where} is larger than the {MAX_CARD_BYTES} bytes allowed")
    try:
        raw = json.loads(text, object_pairs_hook=_no_doubles, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply to be a bundle's card") from None
    except ValueError as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{where} must hold a JSON object, got {type(raw).__name__}")
    version = raw.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ValueError(
            f"{where} has format version {version}; this release reads up to {FORMAT_VERSION}: "
            "upgrade egno-md"
        )
    try:
        return BundleCard.model_validate(raw)
    except ValidationError as error:
        raise ValueError(f"{where}: {first_error(error)}") from None
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply to be a bundle's card") from None


def _no_doubles(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that is given twice, which readers would resolve differently."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"key {key!r} is given twice")
        result[key] = value
    return result


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a finite number")


def card_as_json(card: BundleCard) -> str:
    """Return the text of `bundle.json`."""
    return json.dumps(card.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def card_rows(card: BundleCard) -> list[tuple[str, str]]:
    """Return what the card says as pairs of a label and a text, for people to read."""
    from ase.data import chemical_symbols

    symbols = " ".join(chemical_symbols[z] for z in card.elements) or "not tied to elements"
    what = {
        "egno": "EGNO propagator",
        "escn": "eSCN potential",
        "distance": "quick potential of one molecule",
    }[card.kind]
    hyper = ", ".join(f"{k} {v}" for k, v in card.architecture.items() if k != "name")
    rows = [
        ("kind", f"{card.kind} ({what})"),
        ("architecture", f"{card.architecture['name']}" + (f" ({hyper})" if hyper else "")),
        ("elements", symbols),
        ("trained on", ", ".join(card.molecules) or "molecules not recorded"),
        ("cutoff", "every pair" if card.cutoff_A is None else f"{card.cutoff_A:g} Å"),
    ]
    if card.horizon_fs is not None:
        rows.append(("segment length in training", f"{card.horizon_fs:g} fs"))
    if card.frame_interval_fs is not None:
        rows.append(("frame interval", f"{card.frame_interval_fs:g} fs"))
    if card.temperature_range_K is not None:
        low, high = card.temperature_range_K
        rows.append(("training temperatures", f"{low:g} to {high:g} K"))
    rows += [
        ("number type", card.dtype),
        ("units", ", ".join(f"{q} {u}" for q, u in card.units.items())),
        ("level of theory", card.level_of_theory or "not stated"),
    ]
    facts = {k: v for k, v in card.training.items() if k != "learning_curve"}
    rows += [(f"training: {k}", str(v)) for k, v in facts.items()]
    rows += _curve_rows(card.training.get("learning_curve"))
    rows += [(f"held out: {k}", f"{v:.4g}") for k, v in card.held_out.items()]
    rows += [(f"version: {k}", v) for k, v in card.versions.items()]
    rows += [("format version", str(card.format_version)), ("cite", card.citation or "not stated")]
    rows.append(("weights sha256", card.weights_sha256 or "not saved yet"))
    if card.reference_sha256:
        rows.append(("reference sha256", card.reference_sha256))
    return rows


def _curve_rows(curve: object) -> list[tuple[str, str]]:
    """Validation errors beside the processor time spent, a row for each."""
    rows = []
    for point in curve if isinstance(curve, list) else []:
        if isinstance(point, dict) and "cpu_minutes" in point:
            found = ", ".join(f"{k} {v}" for k, v in point.items() if k != "cpu_minutes")
            rows.append((f"validation after {point['cpu_minutes']} CPU min", found))
    return rows


def card_as_markdown(card: BundleCard) -> str:
    """Return the text of `CARD.md`: the same facts as `bundle.json`, for people to read."""
    lines = [
        f"# {card.name}",
        "",
        "Written by `save_bundle` from `bundle.json`; change that, not this.",
        "",
        "| | |",
        "|---|---|",
    ]
    for label, text in card_rows(card):
        cell = " ".join(text.split()).replace("|", "\\|")
        lines.append(f"| {label} | {cell} |")
    return "\n".join(lines) + "\n"
