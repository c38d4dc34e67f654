"""What every potential made of a network does around it: own copy, pieces, and checks."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from egno_md.state import State

if TYPE_CHECKING:
    from egno_md.bundle import Bundle

Model = TypeVar("Model", bound=nn.Module)


def evaluation_copy(
    model: nn.Module | Bundle,
    kind: type[Model],
    needs: str,
    *,
    device: str | torch.device,
    dtype: torch.dtype | None,
) -> Model:
    """Copy a model, or build it from a bundle, ready for evaluation.

    Args:
        model: the model, or a bundle that holds one.
        kind: its class.
        needs: what an error says that is needed.
        device: where to compute.
        dtype: float32 or float64; the model's own when None.

    Raises:
        ValueError: if the model is of another class, or for another dtype.
    """
    if dtype not in (None, torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    if isinstance(model, nn.Module):
        built, called = model, f"a {type(model).__name__} was given"
    else:
        from egno_md.bundle import build_model

        built = build_model(model)
        name = model.card.architecture["name"]
        called = f"bundle {model.card.name} holds a {name!r} model"
    if not isinstance(built, kind):
        raise ValueError(f"{called}; {needs}")
    return copy.deepcopy(built).to(device=device, dtype=dtype).eval()


def replica_pieces(state: State, atoms_at_once: int) -> Iterator[State]:
    """Cut a state into pieces of whole replicas.

    Args:
        state: any number of replicas.
        atoms_at_once: atoms in a piece, about; a piece has one replica at least.
    """
    size = max(1, atoms_at_once // state.molecule.n_atoms)
    if state.n_replicas <= size:
        yield state
        return
    for start in range(0, state.n_replicas, size):
        yield state.replica(range(start, min(start + size, state.n_replicas)))


def groups_of(state: State, size: int) -> Iterator[tuple[State, int]]:
    """Cut replicas into groups of a size, and single ones where they fill less than half of one.

    A compiled function belongs to one number of replicas; a last group that is not full is filled
    up with its first replica.

    Args:
        state: any number of replicas.
        size: of a group.

    Yields:
        States of `size` replicas or of one, and how many of them count.
    """
    n, start = state.n_replicas, 0
    while start < n:
        left = min(size, n - start)
        if 2 * left < size:
            left = 1
        rows = list(range(start, start + left)) + [start] * (size - left if left > 1 else 0)
        yield (state if rows == list(range(n)) else state.replica(rows)), left
        start += left


def check_elements(state: State, known: Collection[int]) -> None:
    """Refuse a molecule with an element that a model does not know.

    Args:
        state: has the molecule.
        known: atomic numbers.

    Raises:
        ValueError: naming the atom and what is known.
    """
    for atom, number in enumerate(state.molecule.numbers.tolist()):
        if number not in known:
            from ase.data import chemical_symbols

            raise ValueError(
                f"atom {atom} is {chemical_symbols[number]} (Z = {number}); "
                f"this potential knows only {', '.join(chemical_symbols[z] for z in known)}"
            )


def check_finite(energy: Tensor, forces: Tensor | None = None) -> None:
    """Refuse results that are not finite.

    Args:
        energy: `(n_replicas,)`, eV.
        forces: `(n_replicas, n_atoms, 3)`, eV/Å, or None.

    Raises:
        ValueError: naming the replica, and the atom.
    """
    if not bool(torch.isfinite(energy).all()):
        r = int((~torch.isfinite(energy)).nonzero()[0])
        raise ValueError(
            f"the energy of replica {r} came out as {float(energy[r])} eV; "
            "the geometry is outside what the potential can describe"
        )
    if forces is not None and not bool(torch.isfinite(forces).all()):
        r, i, _ = (int(k) for k in (~torch.isfinite(forces)).nonzero()[0])
        raise ValueError(
            f"the force on atom {i} (replica {r}) came out not finite; "
            "the geometry is outside what the potential can describe"
        )
