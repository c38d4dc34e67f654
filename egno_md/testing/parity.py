"""Does our EGNO give the published numbers? Largest relative errors against a parity file.

Errors of x, v and h are `max |ours - published| / max |published|`, that of the loss is
relative. The error of a gradient norm is relative to the published norm of the same parameter,
or to `NORM_FLOOR` times the largest published norm where that is larger: a gradient that should
vanish is then held against what rounding of the large ones may leave, and is not divided by
zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from egno_md.models.egno import EGNO
from egno_md.testing.parity_file import ParityCase, read_parity_file

#: Largest allowed relative error of x, v, h and the loss, in float32.
OUTPUT_TOLERANCE: Final = 1e-5

#: Largest allowed relative error of a gradient norm, in float32.
GRADIENT_TOLERANCE: Final = 1e-4

#: A gradient norm below this times the largest one is compared on that scale.
NORM_FLOOR: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far our model is from a parity file.

    Attributes:
        path: the file.
        model: the model in a few words.
        outputs: relative error of each of x, v, h and loss that the file has.
        gradient_norms: relative error per parameter, under its published name.
    """

    path: Path
    model: str
    outputs: Mapping[str, float]
    gradient_norms: Mapping[str, float]

    @property
    def worst_gradient(self) -> tuple[str, float] | None:
        """The parameter whose gradient norm is farthest off, or None if there are none."""
        if not self.gradient_norms:
            return None
        # A NaN is the worst there is; max() alone would lose it.
        return max(
            self.gradient_norms.items(),
            key=lambda item: math.inf if math.isnan(item[1]) else item[1],
        )

    def within(
        self,
        output_tolerance: float = OUTPUT_TOLERANCE,
        gradient_tolerance: float = GRADIENT_TOLERANCE,
    ) -> bool:
        """Whether every error is within its tolerance; a NaN never is."""
        return all(e <= output_tolerance for e in self.outputs.values()) and all(
            e <= gradient_tolerance for e in self.gradient_norms.values()
        )


def relative_error(ours: Tensor, published: Tensor) -> float:
    """`max |ours - published| / max |published|`; 0 if both vanish, infinite if only one does.

    Args:
        ours: any shape.
        published: the same shape.
    """
    difference = float((ours.double() - published.double()).abs().max())
    scale = float(published.double().abs().max())
    if scale == 0.0:
        return 0.0 if difference == 0.0 else math.inf
    return difference / scale


def norm_errors(ours: Mapping[str, float], published: Mapping[str, float]) -> dict[str, float]:
    """Relative error of each gradient norm, with the floor described at the top.

    Args:
        ours: name to norm.
        published: name to norm, the same names or fewer.
    """
    floor = NORM_FLOOR * max(published.values(), default=0.0)
    errors = {}
    for name, norm in published.items():
        difference, scale = abs(ours[name] - norm), max(norm, floor)
        errors[name] = difference / scale if scale > 0 else (math.inf if difference else 0.0)
    return errors


def load_published(case: ParityCase) -> EGNO:
    """Make our model with the weights of a parity file.

    Args:
        case: the content of the file.

    Returns:
        the model, float32, on the CPU.

    Raises:
        ValueError: if a weight is missing, unknown or of the wrong shape.
    """
    try:
        # First without memory: a wrong file must not make a large model.
        with torch.device("meta"):
            expected = EGNO(**case.architecture).state_dict()
        missing = sorted(set(expected) - set(case.weights))
        unknown = sorted(set(case.weights) - set(expected))
        if missing or unknown:
            raise ValueError(f"weights are missing {missing[:3]} or unknown {unknown[:3]}")
        for name, like in expected.items():
            if case.weights[name].shape != like.shape:
                raise ValueError(
                    f"sd/{name} must have shape {tuple(like.shape)}, "
                    f"got {tuple(case.weights[name].shape)}"
                )
    except ValueError as error:
        raise ValueError(f"{case.path}: {error}") from None
    model = EGNO(**case.architecture)
    model.load_state_dict(dict(case.weights))
    return model


def compare(path: str | Path) -> Comparison:
    """Run our EGNO on a parity file, forward and backward in float32, and compare.

    Args:
        path: an npz file, see `egno_md.testing.parity_file`.

    Returns:
        the relative errors.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a whole parity file.
    """
    case = read_parity_file(path)
    model, given = load_published(case), case.inputs
    edges = torch.stack((given["row"], given["col"]))
    x, v, h = model(given["x"], given["v"], given["h"], edges, given["edge_fea"], given["loc_mean"])
    loss = torch.nn.functional.mse_loss(x.flatten(0, 1), given["target"])
    loss.backward()  # type: ignore[no-untyped-call]
    ours = {"x": x.flatten(0, 1), "v": v.flatten(0, 1), "h": h.flatten(0, 1), "loss": loss}
    norms = {
        # Features of the last layer reach no position: no gradient, which is a norm of 0.
        name: 0.0
        if p.grad is None
        else float(torch.linalg.vector_norm(p.grad, dtype=torch.float64))
        for name, p in model.named_parameters()
    }
    a = case.architecture
    time = f"{a['num_modes']} Fourier modes" if a["use_time_conv"] else "no temporal convolution"
    size = sum(p.numel() for p in model.parameters())
    return Comparison(
        path=case.path,
        model=(
            f"{a['n_layers']} layers, width {a['hidden_nf']}, {a['num_timesteps']} time points, "
            f"{time}{', norm' if a['norm'] else ''}{', flat' if a['flat'] else ''}, "
            f"{size:,} parameters"
        ),
        outputs={
            k: relative_error(ours[k].detach(), case.outputs[k]) for k in ours if k in case.outputs
        },
        gradient_norms=norm_errors(norms, case.gradient_norms),
    )
