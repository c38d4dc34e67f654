"""Does our eSCN give the published numbers? A file of weights and a file of what came out.

Both are safetensors files. The first holds a published `state_dict`, the second:

| tensor | what |
|---|---|
| `pos`, `numbers`, `cell`, `cell_offsets`, `edge_index`, `edge_rot_mat` | inputs, frames included |
| `wigner`, `to_grid_mat_*`, `from_grid_mat_*` | constants on the way |
| `layerN.edge_block`, `so2_source`, `so2_target`, `message`, `layer` | what each layer did |
| `node_energy`, `energy`, `forces` | outputs |

Errors are `max |ours - published| / max |published|`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from torch import Tensor

from egno_md.models.escn import ESCN
from egno_md.models.escn_layer import EdgeView, LayerBlock, degree_primary
from egno_md.models.escn_weights import complete_weights, plain_names, settings_from_weights
from egno_md.models.sphere_grid import kept_rows
from egno_md.models.wigner import stack_blocks
from egno_md.testing.parity import relative_error

#: Largest allowed error, by the number type of the weights.
TOLERANCES: Final = {torch.float64: 1e-12, torch.float32: 3e-6}

#: Largest file that is read, bytes.
LARGEST_BYTES: Final = 2 * 1024**3
LARGEST_HEADER_BYTES: Final = 10 * 2**20

_INPUTS: Final = ("pos", "numbers", "cell", "cell_offsets", "edge_index", "edge_rot_mat")


@dataclass(frozen=True, slots=True)
class ESCNComparison:
    """How far our eSCN is from published numbers.

    Attributes:
        paths: the file of weights and the file of outputs.
        model: the model in a few words.
        dtype: number type of the weights, which our model computed in.
        errors: relative error of everything the file of outputs has.
    """

    paths: tuple[Path, Path]
    model: str
    dtype: torch.dtype
    errors: Mapping[str, float]

    def within(self, tolerance: float | None = None) -> bool:
        """Whether every error is within the tolerance; a NaN never is."""
        limit = TOLERANCES[self.dtype] if tolerance is None else tolerance
        return all(error <= limit for error in self.errors.values())


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file without trusting it.

    Args:
        path: the file.

    Returns:
        Name to tensor, all finite.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is too large, damaged, or holds numbers that are not finite.
    """
    file = Path(path)
    if not file.is_file():
        what = "a folder, not a file" if file.is_dir() else "no such file"
        raise FileNotFoundError(f"{file}: {what}")
    with file.open("rb") as stream:
        data = stream.read(LARGEST_BYTES + 1)
    if len(data) > LARGEST_BYTES:
        raise ValueError(f"{file}: at most {LARGEST_BYTES} bytes are read")
    if int.from_bytes(data[:8], "little") > LARGEST_HEADER_BYTES:
        raise ValueError(f"{file}: not a safetensors file, or with a header out of all measure")
    try:
        tensors = tensors_from_bytes(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise ValueError(f"{file}: not a readable safetensors file ({error})") from None
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{file}: {name!r} holds numbers that are not finite")
    return tensors


def load_published(weights: Mapping[str, Tensor]) -> ESCN:
    """Make our model with published weights, in their number type.

    Args:
        weights: a published `state_dict`.

    Raises:
        ValueError: if a weight is missing, unknown or of the wrong shape, or the centres of the
            Gaussians, which say the cutoff, are missing.
    """
    plain = plain_names(weights)
    settings = settings_from_weights(plain)
    if "cutoff_A" not in settings:
        raise ValueError("distance_expansion.offset is missing, so the cutoff is not known")
    state = complete_weights(plain, settings)
    dtype = state["sphere_embedding.weight"].dtype
    if dtype not in TOLERANCES:
        raise ValueError(f"weights must be float32 or float64, got {dtype}")
    model = ESCN(**settings).to(dtype)
    model.load_state_dict(state)
    return model.eval()


def compare_escn(weights_file: str | Path, outputs_file: str | Path) -> ESCNComparison:
    """Run our eSCN on the inputs of a file, with its edge frames, and compare.

    Args:
        weights_file: safetensors file with a published `state_dict`.
        outputs_file: safetensors file with inputs, intermediates and outputs.

    Returns:
        The relative errors.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: naming the file and what is wrong with it.
    """
    weights, given = read_tensors(weights_file), read_tensors(outputs_file)
    try:
        model = load_published(weights)
    except ValueError as error:
        raise ValueError(f"{weights_file}: {error}") from None
    try:
        _check_inputs(given, model)
        with torch.no_grad():
            ours = _ours(model, given)
        errors = {name: _error(name, ours[name], given[name]) for name in ours if name in given}
    except ValueError as error:
        raise ValueError(f"{outputs_file}: {error}") from None
    if "energy" not in errors or "forces" not in errors:
        raise ValueError(f"{outputs_file}: holds no energy and forces to compare with")
    a = model.architecture()
    size = sum(p.numel() for p in model.parameters() if p.requires_grad)
    words = (
        f"L {a['max_degree']}, M {a['max_order']}, {a['n_layers']} layers, {a['channels']} and "
        f"{a['hidden_channels']} channels, {size:,} parameters"
    )
    dtype = model.sphere_embedding.weight.dtype
    return ESCNComparison((Path(weights_file), Path(outputs_file)), words, dtype, errors)


def _error(name: str, ours: Tensor, published: Tensor) -> float:
    if ours.numel() != published.numel():
        raise ValueError(
            f"{name} has shape {tuple(published.shape)}, our model gives {tuple(ours.shape)}"
        )
    return relative_error(ours.reshape(published.shape), published) if ours.numel() else math.nan


def _check_inputs(given: Mapping[str, Tensor], model: ESCN) -> None:
    if missing := [name for name in _INPUTS if name not in given]:
        raise ValueError(f"not a file of eSCN outputs: it lacks {', '.join(missing)}")
    n, n_edges = given["numbers"].numel(), given["edge_index"].numel() // 2
    shapes = ((n, 3), (n,), (3, 3), (n_edges, 3), (2, n_edges), (n_edges, 3, 3))
    for name, shape in zip(_INPUTS, shapes, strict=True):
        if tuple(given[name].shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(given[name].shape)}")
    elements = model.architecture()["n_elements"]
    for name, limit in (("numbers", elements), ("edge_index", n)):
        values = given[name]
        if values.is_floating_point() or not bool(((values >= 0) & (values < limit)).all()):
            raise ValueError(f"{name} must hold whole numbers from 0 to {limit - 1}")


def _ours(model: ESCN, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Everything that our model gives, under the published names."""
    numbers, edge_index = given["numbers"].long(), given["edge_index"].long()
    shifts = given["cell_offsets"].to(given["cell"]) @ given["cell"]
    inputs = (given["pos"], numbers, edge_index, shifts)
    graph, frames = torch.zeros_like(numbers), given["edge_rot_mat"]
    energy, forces = model(*inputs, graph, 1, frames)
    edges = model.edges(*inputs, frames)
    found, features = _constants(model, given), model.start(numbers)
    for k, layer in enumerate(model.layer_blocks):
        change, steps = _layer(model, cast(LayerBlock, layer), features, edges)
        found |= {f"layer{k}.{name}": value for name, value in steps.items()}
        features = features + change if k else change
    atoms, _ = model.read(features)
    return found | {"node_energy": atoms, "energy": energy, "forces": forces}


def _constants(model: ESCN, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Wigner matrices and grids, in the published layout."""
    degree, order = model.max_degree, model.max_order
    grids, place = model.grids(), degree_primary(degree, order)
    size = (degree + 1) ** 2
    frames = given["edge_rot_mat"].to(grids.edge_to)
    rows = torch.tensor(kept_rows(degree, order))
    published_rows = given["wigner"].shape[1] if given.get("wigner", rows).ndim == 3 else size
    wanted = rows if published_rows == len(rows) else torch.arange(size)
    return {
        "wigner": stack_blocks(model.wigner(frames), wanted),
        "to_grid_mat_lm": grids.edge_to[:, place],
        "from_grid_mat_lm": grids.edge_from[place].T,
        "to_grid_mat_ll": grids.atom_to,
        "from_grid_mat_ll": grids.atom_from.T,
    }


def _layer(
    model: ESCN, layer: LayerBlock, features: Tensor, edges: EdgeView
) -> tuple[Tensor, dict[str, Tensor]]:
    """What a layer adds, and what it does on the way under the published names."""
    block, grids = layer.message_block, model.grids()
    place = degree_primary(model.max_degree, model.max_order)
    edge = block.edge_block(edges)
    steps = {"edge_block": edge, "message": block(features, edges, grids)}
    for name, convolution, atoms in (
        ("so2_source", block.so2_block_source, edges.source),
        ("so2_target", block.so2_block_target, edges.target),
    ):
        seen = torch.bmm(edges.into_frame, features.index_select(0, atoms))
        steps[name] = convolution(seen, edge)[:, place]
    steps["layer"] = layer(features, edges, grids)
    return steps["layer"], steps
