"""What a checkpoint says about an eSCN beside its weights: sizes, graph, units.

| of the config | here |
|---|---|
| `model` a name and `model_attributes` (old), or `model` with `name` inside (new) | both |
| `lmax_list`, `mmax_list` of one resolution | `max_degree`, `max_order` |
| `max_neighbors`, `cutoff`, `enforce_max_neighbors_strictly` | the graph |
| `use_grid`, `otf_graph`, `show_timing_info`, ... | without effect, not looked at |

Sizes are read off the weights; where the config says them too, the two must agree. What the
config leaves out has the published default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from egno_md.models.escn_weights import settings_from_weights

#: Arguments of the published network that change nothing here.
_WITHOUT_EFFECT: Final = frozenset(
    (
        *("use_grid", "otf_graph", "show_timing_info", "num_atoms", "bond_feat_dim"),
        *("num_targets", "use_pbc_single", "direct_forces", "distance_resolution"),
    )
)

#: Published name, our name, published default.
_SIZES: Final = (
    ("num_layers", "n_layers", 8),
    ("sphere_channels", "channels", 128),
    ("hidden_channels", "hidden_channels", 256),
    ("edge_channels", "edge_channels", 128),
    ("max_num_elements", "n_elements", 90),
    ("num_sphere_samples", "n_points", 128),
)
_OTHERS: Final = frozenset(
    (
        *("lmax_list", "mmax_list", "cutoff", "max_neighbors", "enforce_max_neighbors_strictly"),
        *("distance_function", "basis_width_scalar", "regress_forces", "use_pbc", "name"),
    )
)


def model_arguments(config: object) -> dict[str, Any]:
    """Arguments of the network, from an old or a new config.

    Args:
        config: the `config` of a checkpoint.

    Returns:
        Published argument names to values.

    Raises:
        ValueError: if there is none, or the network is no eSCN.
    """
    if not isinstance(config, Mapping) or "model" not in config:
        raise ValueError("a checkpoint needs 'config' with 'model', which says the graph")
    model = config["model"]
    if isinstance(model, Mapping):
        arguments, name = dict(model), model.get("name")
    else:
        attributes = config.get("model_attributes") or {}
        if not isinstance(attributes, Mapping):
            raise ValueError("config: model_attributes must be a dictionary")
        arguments, name = dict(attributes), model
    if str(name).lower() != "escn":
        raise ValueError(f"config: the model is {name!r}; only 'escn' can be converted")
    unknown = sorted(set(map(str, arguments)) - _WITHOUT_EFFECT - _OTHERS - {s[0] for s in _SIZES})
    if unknown:
        raise ValueError(f"config: the eSCN argument {unknown[0]!r} is not known")
    return arguments


def read_settings(config: object, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sizes and graph, from the config and the shapes of the weights.

    Args:
        config: the `config` of a checkpoint.
        weights: its weights, without prefixes.

    Returns:
        Arguments of `ESCN`, those of the units aside.

    Raises:
        ValueError: naming an argument that is not supported or does not fit the weights.
    """
    arguments, found = model_arguments(config), settings_from_weights(weights)
    if "sphere_points" not in weights:
        found["n_points"] = arguments.get("num_sphere_samples", 128)
    for published, ours, default in _SIZES:
        said = arguments.get(published, default)
        if said != found[ours]:
            raise ValueError(f"config: {published} is {said!r}, the weights say {found[ours]}")
    for published, ours, default in (("lmax_list", "max_degree", 6), ("mmax_list", "max_order", 2)):
        said = arguments.get(published, [default])
        if list(said if isinstance(said, list | tuple) else [said]) != [found[ours]]:
            raise ValueError(f"config: {published} is {said!r}, the weights say {[found[ours]]}")
    for name, needed in (("distance_function", "gaussian"), ("regress_forces", True)):
        if arguments.get(name, needed) != needed:
            raise ValueError(f"config: {name} is {arguments[name]!r}; only {needed!r} is supported")
    if arguments.get("use_pbc", True) is not True:
        raise ValueError("config: use_pbc is off; only networks of periodic cells are supported")
    cutoff = _number(arguments.get("cutoff", 8.0), "config: cutoff")
    if abs(found.get("cutoff_A", cutoff) - cutoff) > 1e-4:
        raise ValueError(f"config: cutoff is {cutoff}, the weights say {found['cutoff_A']:g}")
    width = _number(arguments.get("basis_width_scalar", 1.0), "config: basis_width_scalar")
    return found | {
        "cutoff_A": cutoff,
        "basis_width": width,
        "max_neighbours": arguments.get("max_neighbors", 40),
        "strict_neighbours": bool(arguments.get("enforce_max_neighbors_strictly", True)),
    }


def normalisation(
    content: Mapping[str, Any], n_elements: int, unnormalised: bool
) -> tuple[dict[str, Any], str]:
    """What the network's units stand for.

    Args:
        content: the checkpoint.
        n_elements: rows of its tables of elements.
        unnormalised: take a file that says nothing to give eV and eV/Å.

    Returns:
        Arguments of `ESCN`, and where they come from.

    Raises:
        ValueError: if there is nothing, half of it, or something that does not fit.
    """
    given = content.get("normalizers")
    if isinstance(given, Mapping) and given:
        new = bool({"energy", "forces"} & set(given))
        names = ("energy", "forces") if new else ("target", "grad_target")
        if new and {"target", "grad_target"} & set(given):
            raise ValueError("normalizers: there are old and new names; which hold is not known")
        if missing := [name for name in names if name not in given]:
            raise ValueError(f"normalizers: {missing[0]!r} is missing")
        (shift, scale), (push, force) = (_mean_and_spread(given[n], n) for n in names)
        note = f"of the file, under {'new' if new else 'old'} names"
    elif (found := _from_dataset(content.get("config"))) is not None:
        shift, scale, push, force = found
        note = "of the file's config"
    elif unnormalised:
        shift, scale, push, force, note = 0.0, 1.0, 0.0, 1.0, "none: outputs taken as eV and eV/Å"
    else:
        raise ValueError(
            "there are no normalizers, so the units of the outputs are not known; if they are eV "
            "and eV/Å as they are, say --unnormalised"
        )
    if abs(push) > 1e-6 * force:
        raise ValueError(f"normalizers: forces have a mean of {push:g}; it must be 0")
    units: dict[str, Any] = {
        "energy_scale_eV": scale,
        "energy_shift_eV": shift,
        "force_scale_eV_A": force,
    }
    references = _references(content.get("elementrefs"), n_elements)
    if references:
        units["reference_energies_eV"] = references
        note += ", with energies of the elements"
    return units, f"{note}: energy x {scale:.9g} + {shift:.9g} eV, forces x {force:.9g} eV/Å"


def _mean_and_spread(entry: object, name: str) -> tuple[float, float]:
    if not isinstance(entry, Mapping):
        raise ValueError(f"normalizers: {name!r} must be a dictionary")
    spread = next((entry[k] for k in ("rmsd", "std") if k in entry), None)
    if spread is None or "mean" not in entry:
        raise ValueError(f"normalizers: {name!r} needs 'mean' and 'rmsd' (or 'std')")
    where = f"normalizers: {name}"
    mean, scale = _number(entry["mean"], f"{where} mean"), _number(spread, f"{where} spread")
    if scale <= 0.0:
        raise ValueError(f"{where} spread is {scale}; it must be positive")
    return mean, scale


def _from_dataset(config: object) -> tuple[float, float, float, float] | None:
    """Mean and spread of energies and of forces from the config, None if it has none."""
    data = config.get("dataset") if isinstance(config, Mapping) else None
    if isinstance(data, list | tuple) and data:
        data = data[0]
    if isinstance(data, Mapping) and isinstance(data.get("train"), Mapping):
        data = data["train"]
    if not isinstance(data, Mapping) or "normalize_labels" not in data:
        return None
    if not data["normalize_labels"]:
        return 0.0, 1.0, 0.0, 1.0
    keys = ("target_mean", "target_std", "grad_target_mean", "grad_target_std")
    if any(key not in data for key in keys):
        return None
    values = [_number(data[key], f"config: {key}") for key in keys]
    if min(values[1], values[3]) <= 0.0:
        raise ValueError(f"config: target_std and grad_target_std must be positive, got {values}")
    return values[0], values[1], values[2], values[3]


def _references(given: object, n_elements: int) -> list[float]:
    """Energy of each element by atomic number, eV; empty if there are none."""
    if not given:
        return []
    entry = given.get("energy") if isinstance(given, Mapping) else None
    table = entry.get("element_references") if isinstance(entry, Mapping) else None
    if not isinstance(table, Tensor) or table.numel() < n_elements:
        raise ValueError(
            "elementrefs: 'energy' must hold 'element_references', a number for each of the "
            f"{n_elements} elements"
        )
    values: list[float] = table.double().flatten()[:n_elements].tolist()
    if not all(math.isfinite(v) for v in values):
        raise ValueError("elementrefs: energies must be finite")
    return values


def _number(value: object, what: str) -> float:
    """A finite number from a number or a tensor of one."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} must be one finite number, got {value!r}")
    return float(value)
