r"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv 2409.11321).

For a matrix of weights with gradient :math:`G` (algorithm 3 of the paper):

.. math::
    L \leftarrow \beta_2 L + (1-\beta_2) G G^T, \qquad R \leftarrow \beta_2 R + (1-\beta_2) G^T G,

with eigenvectors :math:`Q_L, Q_R`. Adam's second moment is kept of :math:`Q_L^T G Q_R`, the
mean of the gradients is turned into the same basis, divided by its root, and turned back. The
basis is renewed every few steps by one power iteration and a QR decomposition.

| symbol | state |
|---|---|
| `L`, `R` | `left`, `right` |
| `Q_L`, `Q_R` | `left_basis`, `right_basis` |
| mean of `G` | `mean` |
| second moment in the basis | `square` |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]


class SOAP(torch.optim.Optimizer):
    """SOAP for matrices, Adam for the rest.

    A weight of more than two axes is a stack of matrices over its first two, or over its last two
    in a group with `stacked_first`. Vectors, matrices of one row or column and those with a side
    above `largest_side` get plain Adam.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        *,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        renew_every: int = 10,
        largest_side: int = 1024,
    ) -> None:
        """Make the optimiser.

        Args:
            params: groups of weights.
            lr: learning rate.
            betas: decay of the mean, and of the second moments.
            eps: added to the root of the second moment.
            weight_decay: decoupled.
            renew_every: steps between renewals of the bases.
            largest_side: longest side of a matrix that is preconditioned.
        """
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "renew_every": renew_every,
            "largest_side": largest_side,
            "stacked_first": False,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Do one step; a weight's first gradient only starts its state.

        Args:
            closure: not used.
        """
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                stacked = weight.grad.ndim > 2 and not group["stacked_first"]
                gradient = weight.grad.movedim((0, 1), (-2, -1)) if stacked else weight.grad
                gradient = gradient.contiguous()
                state: State = self.state[weight]
                if not state:
                    _start(state, gradient, group)
                    continue
                change = _direction(state, gradient, group)
                change = change.movedim((-2, -1), (0, 1)) if stacked else change
                weight.mul_(1.0 - group["lr"] * group["weight_decay"])
                weight.sub_(change, alpha=group["lr"])


def _start(state: State, gradient: Tensor, group: dict[str, Any]) -> None:
    state["step"] = torch.zeros(())
    state["mean"] = torch.zeros_like(gradient)
    state["square"] = torch.zeros_like(gradient)
    sides = gradient.shape[-2:]
    if gradient.ndim < 2 or min(sides) == 1 or max(sides) > group["largest_side"]:
        return
    weight = 1.0 - group["betas"][1]
    for side, product in _products(gradient).items():
        state[side] = weight * product
        # Eigenvectors come by rising eigenvalue; the bases are kept by falling ones.
        state[f"{side}_basis"] = torch.linalg.eigh(state[side])[1].flip(-1).contiguous()


def _products(gradient: Tensor) -> State:
    return {"left": gradient @ gradient.mT, "right": gradient.mT @ gradient}


def _direction(state: State, gradient: Tensor, group: dict[str, Any]) -> Tensor:
    """Take in a gradient and return the step for a learning rate of 1."""
    first, second = group["betas"]
    state["step"] += 1
    count = int(state["step"])
    state["mean"].lerp_(gradient, 1.0 - first)
    if "left" not in state:
        state["square"].lerp_(gradient.square(), 1.0 - second)
        change = state["mean"] / (state["square"].sqrt() + group["eps"])
    else:
        left, right = state["left_basis"], state["right_basis"]
        state["square"].lerp_((left.mT @ gradient @ right).square(), 1.0 - second)
        turned = left.mT @ state["mean"] @ right
        change = left @ (turned / (state["square"].sqrt() + group["eps"])) @ right.mT
        for side, product in _products(gradient).items():
            state[side].lerp_(product, 1.0 - second)
        if count % group["renew_every"] == 0:
            _renew(state, "left", -2)
            _renew(state, "right", -1)
    correction = float((1.0 - second**count) ** 0.5 / (1.0 - first**count))
    step: Tensor = correction * change
    return step


def _renew(state: State, side: str, axis: int) -> None:
    """One power iteration of a basis, sorted by eigenvalue with its second moments."""
    basis = state[f"{side}_basis"]
    powered = state[side] @ basis
    order = (basis * powered).sum(-2).argsort(-1, descending=True)
    along = order[..., :, None] if axis == -2 else order[..., None, :]
    state["square"] = state["square"].gather(axis, along.expand_as(state["square"]))
    powered = powered.gather(-1, order[..., None, :].expand_as(powered))
    state[f"{side}_basis"] = torch.linalg.qr(powered)[0].contiguous()
