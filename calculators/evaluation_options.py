"""Device, dtype and threads of an evaluation, as users write them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def checked_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Return the dtype meant.

    Args:
        dtype: "float32", "float64", the same of torch, or None for the model's own.

    Raises:
        ValueError: for any other.
    """
    if dtype is None or dtype in _DTYPES.values():
        return dtype  # type: ignore[return-value]
    if isinstance(dtype, str) and dtype in _DTYPES:
        return _DTYPES[dtype]
    raise ValueError(f"dtype is {dtype!r}; allowed are 'float32', 'float64' and None")


def checked_device(device: str | torch.device) -> torch.device:
    """Return the device meant; "auto" is a GPU where there is one.

    Args:
        device: "cpu", "cuda", "cuda:1", "auto".

    Raises:
        ValueError: if it is no device, or not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device is {str(device)!r}; give 'cpu', 'cuda', 'cuda:1' or 'auto'"
        ) from error
    there = torch.cuda.device_count()
    if found.type == "cuda" and (found.index or 0) >= there:
        raise ValueError(f"device {str(device)!r} is not there: torch sees {there} CUDA devices")
    return found


def checked_threads(n_threads: int | None) -> int | None:
    """Return the number of CPU threads.

    Args:
        n_threads: at least 1, or None for torch's own setting.

    Raises:
        ValueError: for any other.
    """
    if n_threads is not None and (isinstance(n_threads, bool) or n_threads < 1):
        raise ValueError(f"n_threads is {n_threads}; it must be at least 1, or None")
    return n_threads


@contextmanager
def threads(n_threads: int | None) -> Iterator[None]:
    """Let torch use so many CPU threads; undone at the end.

    Args:
        n_threads: at least 1, or None to leave them as they are.
    """
    before = torch.get_num_threads()
    if n_threads is None or n_threads == before:
        yield
        return
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
