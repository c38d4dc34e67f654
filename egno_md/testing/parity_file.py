"""Reading parity files: numbers that the published EGNO gave, to compare ours with.

A parity file is an npz archive:

| entry | what |
|---|---|
| `meta` | JSON text with the constructor arguments |
| `sd/<name>` | weights under their published names |
| `in/x, v, h, row, col, edge_fea, loc_mean, target` | inputs and the target of the loss |
| `out/x, v, h, loss` | outputs, time-major, and the mean squared error of x |
| `gradnorm/<name>` | norm of the gradient of the loss, per parameter |

The file is taken for foreign: nothing is unpickled, every array's header is compared with the
bytes that are there before memory is given to it, and sizes are capped. Arguments that the text
lacks are read off the shapes of the weights; where both speak, they must agree.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

#: Caps on a file: bytes once unpacked, arrays, and characters of `meta`.
LARGEST_BYTES: Final = 2 * 1024**3
MOST_ARRAYS: Final = 20_000
LONGEST_META: Final = 65_536

#: Cap on the memory that forward and backward pass of a file's model may need.
LARGEST_MEMORY_BYTES: Final = 16 * 1024**3

_INPUTS: Final = ("x", "v", "h", "row", "col", "edge_fea", "loc_mean", "target")
_OUTPUTS: Final = ("x", "v", "h", "loss")


@dataclass(frozen=True, slots=True, eq=False)
class ParityCase:
    """What one parity file holds, checked.

    Attributes:
        path: the file.
        architecture: constructor arguments of `EGNO`.
        weights: published name to weight, float32.
        inputs: the arrays under `in/`.
        outputs: the arrays under `out/` that the file has; `x` always.
        gradient_norms: published name to norm of its gradient; empty if the file has none.
    """

    path: Path
    architecture: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    gradient_norms: Mapping[str, float]


def read_parity_file(path: str | Path) -> ParityCase:
    """Read a parity file and check that it is whole and consistent.

    Args:
        path: an npz file.

    Returns:
        its content, floating-point numbers as float32.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file and the entry that is wrong.
    """
    file = Path(path)
    try:
        return _case(file, read_arrays(file))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an npz file without trusting it.

    Args:
        file: the npz file.

    Returns:
        name to array: numbers, booleans or text, all finite.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no npz file, damaged, above a cap, or holds objects or numbers that
            are not finite.
    """
    if not file.is_file():
        what = "a folder, not a file" if file.is_dir() else "no such file"
        raise FileNotFoundError(f"{file}: {what}")
    try:
        with zipfile.ZipFile(file) as archive:
            return _read_entries(archive)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"not a readable npz file ({error})") from None


def _read_entries(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    entries = archive.infolist()
    if len(entries) > MOST_ARRAYS:
        raise ValueError(f"holds {len(entries)} arrays; at most {MOST_ARRAYS} are read")
    total = sum(entry.file_size for entry in entries)
    if total > LARGEST_BYTES:
        raise ValueError(f"unpacks to {total} bytes; at most {LARGEST_BYTES} are read")
    arrays: dict[str, np.ndarray] = {}
    for entry in entries:
        name = entry.filename.removesuffix(".npy")
        if name in arrays or name == entry.filename:
            raise ValueError(f"entry {entry.filename!r} is doubled or not an array")
        arrays[name] = _read_entry(archive, entry, name)
    return arrays


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> np.ndarray:
    with archive.open(entry) as stream:
        try:
            version = np.lib.format.read_magic(stream)
            if version == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            elif version == (2, 0):
                shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
            else:
                raise ValueError(f"npy version {version} is not known")
        except (ValueError, SyntaxError, TypeError) as error:
            raise ValueError(f"array {name!r} has no readable header ({error})") from None
        if dtype.kind not in "fiubU":
            raise ValueError(f"array {name!r} holds {dtype}; only numbers and text are read")
        promised, there = math.prod(shape) * dtype.itemsize, entry.file_size - stream.tell()
        if promised != there:
            raise ValueError(f"array {name!r} promises {promised} bytes and has {there}")
    with archive.open(entry) as stream:
        array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"array {name!r} is {array[where]} at {where}; it must be finite")
    return array


def _case(file: Path, arrays: Mapping[str, np.ndarray]) -> ParityCase:
    wanted = ["meta", "out/x", "sd/embedding.weight", *(f"in/{k}" for k in _INPUTS)]
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise ValueError(f"not a parity file: it lacks {', '.join(missing)}")
    for name, array in arrays.items():
        allowed = "U" if name == "meta" else "iu" if name in ("in/row", "in/col") else "f"
        if array.dtype.kind not in allowed and name.startswith(("meta", "in/", "out/", "sd/")):
            raise ValueError(f"array {name!r} has the wrong type {array.dtype}")
    weights = _under("sd/", arrays)
    inputs = _under("in/", arrays)
    outputs = {k: v for k, v in _under("out/", arrays).items() if k in _OUTPUTS}
    norms = {k: float(v) for k, v in _under("gradnorm/", arrays).items() if v.numel() == 1}
    _check_inputs(inputs)
    architecture = _architecture(_read_meta(arrays["meta"]), weights, inputs, outputs)
    _check_outputs(architecture, inputs, outputs)
    _check_memory(architecture, inputs)
    unknown = [name for name in norms if name not in weights]
    if unknown:
        raise ValueError(f"gradnorm/{unknown[0]} belongs to no weight of the file")
    return ParityCase(file, architecture, weights, inputs, outputs, norms)


def _under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): torch.from_numpy(
            np.ascontiguousarray(array, np.float32 if array.dtype.kind == "f" else np.int64)
        ).reshape(array.shape)
        for name, array in arrays.items()
        if name.startswith(prefix) and array.dtype.kind in "fiu"
    }


def _read_meta(array: np.ndarray) -> dict[str, Any]:
    text = str(array)
    if array.shape != () or len(text) > LONGEST_META:
        raise ValueError(f"meta must be one text of at most {LONGEST_META} characters")
    try:
        meta = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"meta is not JSON ({error})") from None
    if not isinstance(meta, dict):
        raise ValueError(f"meta must be a JSON object, got {type(meta).__name__}")
    return meta


def _check_inputs(inputs: Mapping[str, Tensor]) -> None:
    x = inputs["x"]
    if x.ndim != 2 or x.shape[1] != 3 or x.shape[0] < 1:
        raise ValueError(f"in/x must have shape (n_nodes, 3), got {tuple(x.shape)}")
    nodes, edges = x.shape[0], inputs["row"].numel()
    expected = {"v": (nodes, 3), "loc_mean": (nodes, 3), "row": (edges,), "col": (edges,)}
    for name, shape in expected.items():
        if tuple(inputs[name].shape) != shape:
            raise ValueError(f"in/{name} must have shape {shape}, got {inputs[name].shape}")
    for name, rows in (("h", nodes), ("edge_fea", edges)):
        if inputs[name].ndim != 2 or inputs[name].shape[0] != rows:
            got = tuple(inputs[name].shape)
            raise ValueError(f"in/{name} must have shape ({rows}, n_features), got {got}")
    for name in ("row", "col"):
        wrong = ((inputs[name] < 0) | (inputs[name] >= nodes)).nonzero()
        if len(wrong):
            e = int(wrong[0])
            raise ValueError(f"in/{name} names node {int(inputs[name][e])} in edge {e} of {nodes}")


def _architecture(
    meta: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
) -> dict[str, Any]:
    """Constructor arguments read off the shapes, checked against what `meta` says."""
    embedding = weights["embedding.weight"]
    if embedding.ndim != 2:
        raise ValueError(f"sd/embedding.weight must be a matrix, got {tuple(embedding.shape)}")
    hidden, nodes = embedding.shape[0], inputs["x"].shape[0]
    if outputs["x"].ndim != 2 or outputs["x"].shape[0] % nodes:
        raise ValueError(f"out/x {tuple(outputs['x'].shape)} is no whole number of {nodes} nodes")
    first = weights.get("layers.0.coord_net.mlp.0.weight", embedding[:, :0])
    kernel = weights.get("time_conv_modules.0.t_conv.weights1")
    layers = [name.split(".")[1] for name in weights if name.startswith("layers.")]
    found: dict[str, Any] = {
        "n_layers": 1 + max((int(i) for i in layers if i.isdecimal()), default=0),
        "in_node_nf": inputs["h"].shape[1],
        "in_edge_nf": inputs["edge_fea"].shape[1],
        "hidden_nf": hidden,
        "with_v": any(".node_v_net." in name for name in weights),
        "flat": first.shape[0] == 4 * hidden,
        "use_time_conv": kernel is not None,
        "num_timesteps": outputs["x"].shape[0] // nodes,
        "time_emb_dim": embedding.shape[1] - inputs["h"].shape[1],
    }
    if kernel is not None and kernel.ndim == 4:
        found["num_modes"] = kernel.shape[2]
    for name, value in found.items():
        if name in meta and meta[name] != value:
            raise ValueError(f"meta says {name} = {meta[name]!r}, the arrays say {value!r}")
    norm = meta.get("norm", False)
    if not isinstance(norm, bool):
        raise ValueError(f"meta says norm = {norm!r}; it must be true or false")
    if found["n_layers"] > len(weights):
        raise ValueError(f"a layer {found['n_layers'] - 1} is named, but there are not so many")
    return found | {"norm": norm}


def _check_outputs(
    architecture: Mapping[str, Any], inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
) -> None:
    rows = architecture["num_timesteps"] * inputs["x"].shape[0]
    expected = {"x": (rows, 3), "v": (rows, 3), "h": (rows, architecture["hidden_nf"]), "loss": ()}
    shapes = {f"out/{k}": (v.shape, expected[k]) for k, v in outputs.items()}
    shapes["in/target"] = (inputs["target"].shape, (rows, 3))
    for name, (shape, wanted) in shapes.items():
        if tuple(shape) != wanted:
            raise ValueError(f"{name} must have shape {wanted}, got {tuple(shape)}")


def _check_memory(architecture: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> None:
    width = architecture["hidden_nf"] * (4 if architecture["flat"] else 1)
    rows = architecture["num_timesteps"] * (inputs["row"].numel() + inputs["x"].shape[0])
    # About ten float32 numbers per row and channel stay alive for the backward pass.
    needed = 40 * architecture["n_layers"] * rows * width
    if needed > LARGEST_MEMORY_BYTES:
        raise ValueError(
            f"its model would need about {needed / 1024**3:.0f} GiB of memory; "
            f"at most {LARGEST_MEMORY_BYTES // 1024**3} GiB are used"
        )
