"""One look for all pictures of a report, as SVG text that takes its ink from the page.

Figures are drawn without pyplot, so nothing global changes and no window system is needed.
Black becomes `currentColor`: the same picture reads on light and dark pages.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

#: Colours that stand out on white and on near-black.
NETWORK_COLOUR: Final = "#3b82c4"
INTEGRATOR_COLOUR: Final = "#e07b39"
GIVEN_COLOUR: Final = "#8a8f98"
REFERENCE_COLOUR: Final = "#8a8f98"
SERIES_COLOURS: Final = ("#3b82c4", "#e07b39", "#3a9d6e", "#b5638f", "#a08a2e", "#7a6fd0")

#: Becomes the colour of the page's text.
INK: Final = "#010203"

_WIDTH_IN: Final = 7.6
_SETTINGS: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "egno-md",
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.titleweight": "normal",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.4,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
}


@contextmanager
def figure(height_in: float, width_in: float = _WIDTH_IN) -> Iterator[Figure]:
    """Open a figure with the report's looks.

    Args:
        height_in: height in inches.
        width_in: width in inches.
    """
    with mpl.rc_context(_SETTINGS):
        yield Figure(figsize=(width_in, height_in), layout="constrained")


def as_svg(drawing: Figure, label: str, description: str) -> str:
    """Turn a figure into an `<svg>` element for an HTML page.

    Args:
        drawing: the figure; call this inside `figure`.
        label: a word of letters that no other figure of the page has.
        description: what the picture shows, for those who cannot see it.
    """
    buffer = io.StringIO()
    empty = {"Date": None, "Creator": None, "Format": None, "Type": None}
    drawing.savefig(buffer, format="svg", metadata=empty)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = text.replace("xlink:href=", "href=").replace(INK, "currentColor")
    text = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 system-ui, sans-serif", text)
    # Identifiers must be unique on the page, not only in the picture.
    text = re.sub(r'\bid="', f'id="{label}-', text)
    text = text.replace("url(#", f"url(#{label}-").replace('href="#', f'href="#{label}-')
    safe = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{safe}" ', 1)


def thin(values: Tensor, n_points: int, reduce: Callable[..., Tensor] = torch.mean) -> Tensor:
    """Shorten a series by reducing equal stretches of it.

    Args:
        values: `(n, ...)`.
        n_points: most points to keep.
        reduce: called as `reduce(stretch, dim=0)`.
    """
    if values.shape[0] <= n_points:
        return values
    return torch.stack([reduce(part, dim=0) for part in values.tensor_split(n_points)])


def name_axes(axes: Axes, x: str, y: str) -> None:
    """Write what the axes show."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def legend_above(axes: Axes, columns: int = 3) -> None:
    """Put the legend above the picture, where no curve is."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, borderaxespad=0.2)
