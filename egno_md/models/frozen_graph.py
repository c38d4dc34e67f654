"""A function of tensors as one compiled graph, the weights it uses being constants of it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

_LOG = logging.getLogger(__name__)

TensorFunction = Callable[..., tuple[Tensor, ...]]

#: Weights become constants, and no Python stands between the compiled loops.
_OPTIONS: dict[str, str | int | bool | Callable[..., object]] = {
    "freezing": True,
    "cpp_wrapper": True,
}

# What guards would watch callers watch: weights, number types, shapes, devices, strides.
_NO_GUARDS = getattr(torch.compiler, "skip_all_guards_unsafe", None)
if _NO_GUARDS is not None:
    _OPTIONS["guard_filter_fn"] = _NO_GUARDS


@dataclass(frozen=True, slots=True)
class Compiling:
    """How functions are compiled.

    Attributes:
        strict: raise where compiling fails; else log why once and go on without.
        backend: backend of `torch.compile`.
    """

    strict: bool = False
    backend: str | Callable[..., object] = "inductor"


def frozen_graph(
    function: TensorFunction, example: tuple[Tensor, ...], how: Compiling, what: str
) -> TensorFunction | str:
    """Compile a function for the shapes of an example, and call it once.

    Args:
        function: of tensors; inner derivatives by `torch.func`.
        example: its arguments; strides must be those of later calls.
        how: how to compile.
        what: is compiled, for the log.

    Returns:
        The compiled function, or why there is none.

    Raises:
        RuntimeError: if that fails and is strict.
    """
    options = dict(_OPTIONS) if how.backend == "inductor" else None
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # Of the compiler's own making: it loads parts of torch that torch deprecates.
            warnings.simplefilter("ignore", DeprecationWarning)
            traced = make_fx(function)(*example)
            # The bound method: a module called as one costs more than it.
            made: TensorFunction = torch.compile(
                traced.forward, backend=how.backend, dynamic=False, options=options
            )
            made(*example)
    except RuntimeError as why:
        if how.strict:
            raise
        reason = str(why).splitlines()[0]
        _LOG.warning("going on without compiled %s: %s", what, reason)
        return reason
    return made
