"""Published eSCN weights: what their shapes say, and what a file may lack or hold twice.

| in a file | here |
|---|---|
| `module.` before every name, once or more, from parallel training | dropped |
| `layer_blocks.N.message_block.edge_block.distance_expansion.offset` | one for all, dropped |
| `distance_expansion.offset`, `sphere_points`, `sphharm_weights.0` lacking | made anew |
| `expand_index`, `SO3_grid...` and other constants of the published code | not taken |
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from egno_md.models.sphere_grid import harmonics, weighted_points

#: Points at which the published network reads its outputs, where a file does not say.
PUBLISHED_POINTS: Final = 128

_LAYER: Final = re.compile(r"layer_blocks\.(\d{1,3})\.")
_DOUBLED: Final = re.compile(
    r"layer_blocks\.\d+\.message_block\.edge_block\.distance_expansion\.offset"
)
_CONSTANTS: Final = re.compile(r"SO3_grid\.|mappingReduced\.|SO3_rotation\.|.*\.expand_index$")
_ORDER: Final = re.compile(
    r"layer_blocks\.0\.message_block\.so2_block_source\.so2_conv\.(\d{1,3})\."
)
_FIRST: Final = "layer_blocks.0.message_block."


def plain_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop what parallel training puts before the names.

    Args:
        weights: name to tensor.

    Raises:
        ValueError: if two names become one.
    """
    plain: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        short = re.sub(r"^(module\.)+", "", name)
        if short in plain:
            raise ValueError(f"weight {short!r} is there twice, also as {name!r}")
        plain[short] = tensor
    return plain


def settings_from_weights(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read sizes off the shapes.

    Args:
        weights: name to tensor, without prefixes.

    Returns:
        Arguments of `ESCN`: all sizes, and the cutoff if the centres of the Gaussians are there.

    Raises:
        ValueError: if a weight that says a size is missing or has no fitting shape.
    """
    elements, channels = _sizes(weights, "sphere_embedding.weight")
    edge_channels, n_gaussians = _sizes(weights, f"{_FIRST}edge_block.fc1_dist.weight")
    hidden, width = _sizes(weights, f"{_FIRST}so2_block_source.fc1_m0.weight")
    if width % channels or width // channels < 1:
        raise ValueError(f"a width of {width} is no whole number of degrees of {channels} channels")
    orders = {int(found[1]) for name in weights if (found := _ORDER.match(name))}
    layers = {int(found[1]) for name in weights if (found := _LAYER.match(name))}
    settings: dict[str, Any] = {
        "max_degree": width // channels - 1,
        "max_order": max(orders, default=-1) + 1,
        "n_layers": max(layers) + 1,
        "channels": channels,
        "hidden_channels": hidden,
        "edge_channels": edge_channels,
        "n_gaussians": n_gaussians,
        "n_elements": elements,
        "n_points": PUBLISHED_POINTS,
    }
    if (points := weights.get("sphere_points")) is not None:
        settings["n_points"] = points.shape[0] if points.ndim else 0
    centres = weights.get("distance_expansion.offset")
    if centres is not None and centres.ndim == 1 and len(centres):
        settings["cutoff_A"] = float(centres[-1])
    return settings


def _sizes(weights: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    if name not in weights:
        raise ValueError(f"these are no eSCN weights: {name!r} is missing")
    shape = tuple(weights[name].shape)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"weight {name!r} must be a matrix, got shape {shape}")
    return shape[0], shape[1]


def expected_shapes(settings: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that `ESCN` of these settings has.

    Args:
        settings: sizes as `settings_from_weights` gives them.
    """
    c, h, e = (settings[k] for k in ("channels", "hidden_channels", "edge_channels"))
    degree, elements = settings["max_degree"], settings["n_elements"]
    width = (degree + 1) * c
    so2: dict[str, tuple[int, ...]] = {
        "fc1_dist0.weight": (h, e),
        "fc1_dist0.bias": (h,),
        "fc1_m0.weight": (h, width),
        "fc2_m0.weight": (width, h),
    }
    for m in range(1, settings["max_order"] + 1):
        n, conv = (degree + 1 - m) * c, f"so2_conv.{m - 1}."
        so2 |= {f"{conv}fc1_dist.weight": (2 * h, e), f"{conv}fc1_dist.bias": (2 * h,)}
        for part in "ri":
            so2 |= {f"{conv}fc1_{part}.weight": (h, n), f"{conv}fc2_{part}.weight": (n, h)}
    layer: dict[str, tuple[int, ...]] = {
        "message_block.edge_block.fc1_dist.weight": (e, settings["n_gaussians"]),
        "message_block.edge_block.fc1_dist.bias": (e,),
        "message_block.edge_block.source_embedding.weight": (elements, e),
        "message_block.edge_block.target_embedding.weight": (elements, e),
        "message_block.edge_block.fc1_edge_attr.weight": (e, e),
        "message_block.edge_block.fc1_edge_attr.bias": (e,),
        **{f"message_block.so2_block_source.{k}": shape for k, shape in so2.items()},
        **{f"message_block.so2_block_target.{k}": shape for k, shape in so2.items()},
        "fc1_sphere.weight": (c, 2 * c),
        "fc2_sphere.weight": (c, c),
        "fc3_sphere.weight": (c, c),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "sphere_points": (settings["n_points"], 3),
        "sphere_embedding.weight": (elements, c),
        "distance_expansion.offset": (settings["n_gaussians"],),
    }
    for k in range(settings["n_layers"]):
        shapes |= {f"layer_blocks.{k}.{name}": shape for name, shape in layer.items()}
    for head in ("energy_block", "force_block"):
        for name in ("fc1", "fc2"):
            shapes |= {f"{head}.{name}.weight": (c, c), f"{head}.{name}.bias": (c,)}
        shapes[f"{head}.fc3.weight"] = (1, c)
    return shapes | {"sphharm_weights.0": (settings["n_points"], (degree + 1) ** 2)}


def complete_weights(
    weights: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Bring the weights of a file to exactly what `ESCN` of these settings has.

    Args:
        weights: name to tensor, without prefixes.
        settings: sizes and the cutoff.

    Returns:
        Name to tensor.

    Raises:
        ValueError: naming a weight that is missing, unknown, of another shape or number type, or
            not finite, or centres of Gaussians that are not those of the cutoff.
    """
    shapes = expected_shapes(settings)
    kept = {name: t for name, t in weights.items() if not _CONSTANTS.match(name)}
    doubled = {name: kept.pop(name) for name in list(kept) if _DOUBLED.fullmatch(name)}
    _check(kept, shapes)
    kind = kept["sphere_embedding.weight"].dtype
    cutoff, n = float(settings["cutoff_A"]), settings["n_gaussians"]
    centres = torch.linspace(0.0, cutoff, n, dtype=torch.float64)
    name = "distance_expansion.offset"
    for place, offset in {name: kept.get(name, centres), **doubled}.items():
        if offset.shape != centres.shape or not bool(
            ((offset.double() - centres).abs() < 1e-4 * cutoff / n).all()
        ):
            raise ValueError(f"{place!r} does not hold {n} equal steps from 0 to {cutoff:g} Å")
    points = kept.get("sphere_points", weighted_points(settings["n_points"]).to(kind))
    made = {
        name: centres.to(kind),
        "sphere_points": points,
        "sphharm_weights.0": harmonics(settings["max_degree"], points),
    }
    return {key: kept[key] if key in kept else made[key] for key in shapes}


def _check(weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    spare = {"distance_expansion.offset", "sphere_points", "sphharm_weights.0"}
    if missing := [name for name in shapes if name not in weights and name not in spare]:
        raise ValueError(f"{len(missing)} weights are missing, the first is {missing[0]!r}")
    for name, tensor in weights.items():
        if name not in shapes:
            raise ValueError(f"weight {name!r} is not part of an eSCN of this size")
        if tuple(tensor.shape) != shapes[name]:
            raise ValueError(
                f"weight {name!r} must have shape {shapes[name]}, got {tuple(tensor.shape)}"
            )
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"weight {name!r} must hold finite floating-point numbers")


def trained_elements(weights: Mapping[str, Tensor]) -> list[int]:
    """Atomic numbers whose rows of the edge tables have left the range they start in.

    The tables start uniformly within 1e-3 of zero; the rows of elements that training data did
    not have stay there.

    Args:
        weights: name to tensor, without prefixes.

    Returns:
        Atomic numbers from 1 on; empty for weights that nothing has trained.
    """
    tables = [
        t
        for name, t in weights.items()
        if re.search(r"edge_block\.(source|target)_embedding\.weight$", name)
    ]
    if not tables:
        return []
    largest = torch.stack([t.abs().amax(1) for t in tables]).amax(0)
    limit = math.nextafter(1e-3, 1.0) * (1.0 + 1e-6)
    return [z for z in range(1, len(largest)) if float(largest[z]) > limit]
