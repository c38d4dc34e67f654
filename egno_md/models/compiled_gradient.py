"""The gradient of learned potentials as one compiled function.

Training on forces differentiates twice. `torch.compile` cannot look through the inner
derivative, so it is traced first: potentials and their gradient become one plain graph of tensor
operations, which is compiled like any other and differentiated once more by the training.
A graph belongs to one shape of its inputs; a new shape is compiled anew.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

Gradient = Callable[..., tuple[Tensor, ...]]

_LOG = logging.getLogger(__name__)


class CompiledGradient:
    """Gradient of `sum((model(positions, *constants) * weights))` with respect to positions.

    Holds no weights: one object serves a model and its running average.
    """

    def __init__(
        self, *, strict: bool = False, backend: str | Callable[..., object] = "inductor"
    ) -> None:
        """Make an empty store of compiled functions.

        Args:
            strict: raise where compiling fails; else log why once and compute without.
            backend: backend of `torch.compile`.
        """
        self.strict, self.backend = strict, backend
        self._made: dict[tuple[Any, ...], Gradient] = {}
        self.failure: str | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledGradient:
        """Copies of a model share what was compiled."""
        return self

    def __call__(
        self, model: nn.Module, positions: Tensor, constants: tuple[Tensor, ...], weights: Tensor
    ) -> Tensor | None:
        """Return the gradient, or None where it cannot be compiled.

        Args:
            model: `model(positions, *constants)` gives `(n_replicas, n_modes)`.
            positions: `(n_replicas, n_atoms, 3)`, Å.
            constants: further tensors that the model takes.
            weights: `(n_modes,)`.

        Raises:
            RuntimeError: if compiling fails and the object is strict.
        """
        found = self._computed(model, positions, constants, weights, values=False)
        return None if found is None else found[0]

    def with_values(
        self, model: nn.Module, positions: Tensor, constants: tuple[Tensor, ...], weights: Tensor
    ) -> tuple[Tensor, ...] | None:
        """Return the gradient and what the model gave, or None where it cannot be compiled.

        Args:
            model: `model(positions, *constants)` gives values of any shape.
            positions: `(..., n_atoms, 3)`, Å.
            constants: further tensors that the model takes.
            weights: of the values.

        Raises:
            RuntimeError: if compiling fails and the object is strict.
        """
        return self._computed(model, positions, constants, weights, values=True)

    def _computed(
        self,
        model: nn.Module,
        positions: Tensor,
        constants: tuple[Tensor, ...],
        weights: Tensor,
        *,
        values: bool,
    ) -> tuple[Tensor, ...] | None:
        if self.failure is not None:
            return None
        tensors = [*model.parameters(), *model.buffers()]
        # A single replica cut from a segment keeps odd strides, which would be compiled anew.
        positions = positions.reshape(-1).view(positions.shape)
        inputs = (tensors, positions, constants, weights)
        key = (
            tuple(positions.shape),
            positions.dtype,
            positions.device,
            tuple(tuple(t.shape) for t in (*constants, weights)),
            values,
            torch.is_grad_enabled(),
        )
        if key in self._made:
            return self._made[key](*inputs)
        try:
            with warnings.catch_warnings():
                # Of the compiler's own making: it loads parts of torch that torch deprecates.
                warnings.simplefilter("ignore", DeprecationWarning)
                traced = make_fx(_gradient_of(model, values))(*inputs)
                compiled: Gradient = torch.compile(traced, backend=self.backend, dynamic=False)
                result = compiled(*inputs)
        except RuntimeError as why:
            if self.strict:
                raise
            self.failure = str(why).splitlines()[0]
            _LOG.warning("going on without compiled forces: %s", self.failure)
            return None
        self._made[key] = compiled
        return result


def _gradient_of(model: nn.Module, values: bool) -> Gradient:
    """A function of all tensors: the gradient with respect to the positions, and the values."""
    names = [name for name, _ in model.named_parameters()]
    names += [name for name, _ in model.named_buffers()]

    def gradient(
        tensors: list[Tensor], positions: Tensor, constants: tuple[Tensor, ...], weights: Tensor
    ) -> tuple[Tensor, ...]:
        own = dict(zip(names, tensors, strict=True))

        def energy(x: Tensor) -> tuple[Tensor, Tensor]:
            given: Tensor = torch.func.functional_call(model, own, (x, *constants))
            return (given * weights).sum(), given

        found, given = torch.func.grad(energy, has_aux=True)(positions)
        # An output that nobody needs would cost a backward pass of its own.
        return (found, given) if values else (found,)

    return gradient
