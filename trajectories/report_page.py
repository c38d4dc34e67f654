"""The HTML of a report: one file, nothing loaded from anywhere, readable in print.

Small pieces of text are made into HTML here and only here, and every text that comes from a
run or a bundle is escaped on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from egno_md.trajectories.report_checks import Check, Mark

_STYLE = """
:root { color-scheme: light dark;
  --page: #ffffff; --ink: #1d2430; --soft: #5b6472; --line: #d9dde3; --card: #f6f7f9;
  --pass: #1f7a4d; --warn: #b3541e; --open: #5b6472; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171c; --ink: #e4e7ec; --soft: #9aa3b0; --line: #333a44; --card: #1c2027;
  --pass: #5cc98f; --warn: #f0a06a; --open: #9aa3b0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 860px; margin: 0 auto; padding: 2.2rem 1.2rem 4rem; }
h1 { font-size: 1.55rem; line-height: 1.25; margin: 0 0 .2rem; }
h2 { font-size: 1.12rem; margin: 2.4rem 0 .5rem; padding-top: .7rem;
  border-top: 1px solid var(--line); }
p { margin: .5rem 0; } .soft, figcaption { color: var(--soft); }
figure { margin: .8rem 0 1.2rem; } figure svg { width: 100%; height: auto; display: block; }
figcaption { font-size: .88rem; margin-top: .3rem; }
.verdict { background: var(--card); border-left: 5px solid var(--open); border-radius: 4px;
  padding: .7rem 1rem; margin: 1.1rem 0; }
.verdict.pass { border-color: var(--pass); } .verdict.warn { border-color: var(--warn); }
.verdict p:first-child { font-size: 1.06rem; font-weight: 600; margin-top: 0; }
.verdict p:last-child { margin-bottom: 0; }
.numbers { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; padding: 0;
  list-style: none; }
.numbers li { flex: 1 1 8.5rem; background: var(--card); border-radius: 6px;
  padding: .55rem .8rem; }
.numbers b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.numbers span { color: var(--soft); font-size: .86rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; margin: .6rem 0; }
th { text-align: left; font-weight: 600; color: var(--soft); }
th, td { padding: .38rem .8rem .38rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
tr > :first-child, .checks tr > :last-child { overflow-wrap: normal; min-width: 7.5rem; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.checks td:nth-child(2) { width: 45%; } .checks td:nth-child(3) { width: 25%; }
td small { color: var(--soft); display: block; font-size: .84rem; }
.mark { font-weight: 700; font-size: .78rem; letter-spacing: .03em; white-space: nowrap; }
.mark.pass { color: var(--pass); } .mark.warn { color: var(--warn); }
.mark.open { color: var(--open); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px;
  margin: 0 .3em 0 .9em; vertical-align: -.05em; }
code { font-size: .9em; overflow-wrap: anywhere; } details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--soft); }
@media print { main { max-width: none; padding: 0; } body { font-size: 10.5pt; }
  figure, tr, .verdict, .numbers { break-inside: avoid; } h2 { break-after: avoid; }
  :root { --page: #fff; --ink: #000; --soft: #444; --line: #bbb; --card: #f4f4f4;
    --pass: #1f7a4d; --warn: #b3541e; --open: #444; } }
"""

_CLASS = {Mark.PASS: "pass", Mark.WARN: "warn", Mark.NOT_CHECKED: "open"}
_SIGN = {Mark.PASS: "✓ PASS", Mark.WARN: "▲ WARN", Mark.NOT_CHECKED: "○ NOT CHECKED"}


def page(title: str, parts: Iterable[str]) -> str:
    """Put a page together.

    Args:
        title: plain text.
        parts: HTML made by the other functions here.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def title(text: str, below: str) -> str:
    """The name of the page and a line under it."""
    return f'<h1>{escape(text)}</h1>\n<p class="soft">{escape(below)}</p>'


def heading(text: str) -> str:
    """Open a section."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, *, soft: bool = False) -> str:
    """One paragraph of plain text."""
    opening = '<p class="soft">' if soft else "<p>"
    return f"{opening}{escape(text)}</p>"


def verdict(sentences: Sequence[str], mark: Mark) -> str:
    """The box that says how far the run can be trusted; the first sentence stands out."""
    return (
        f'<div class="verdict {_CLASS[mark]}">'
        + "".join(f"<p>{escape(s)}</p>" for s in sentences)
        + "</div>"
    )


def numbers(pairs: Iterable[tuple[str, str]]) -> str:
    """A row of large numbers.

    Args:
        pairs: number and what it is.
    """
    items = "".join(f"<li><b>{escape(n)}</b><span>{escape(w)}</span></li>" for n, w in pairs)
    return f'<ul class="numbers">{items}</ul>'


def check_table(checks: Iterable[Check]) -> str:
    """The questions, their thresholds and answers."""
    rows = "".join(
        f'<tr><td><span class="mark {_CLASS[c.mark]}">{_SIGN[c.mark]}</span></td>'
        f"<td>{escape(c.name)}" + (f"<small>{escape(c.note)}</small>" if c.note else "") + "</td>"
        f"<td>{escape(c.found) or '–'}</td><td>{escape(c.allowed)}</td></tr>"
        for c in checks
    )
    return (
        '<div class="scroll"><table class="checks"><thead><tr><th></th><th>question</th>'
        f"<th>found</th><th>allowed</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    """A plain table.

    Args:
        head: names of the columns; empty for a table without a head.
        rows: texts.
        numeric: columns that hold numbers and are set to the right.
    """

    def cells(row: Sequence[str], tag: str) -> str:
        right = ' class="number"'
        return "".join(
            f"<{tag}{right if n in numeric else ''}>{escape(text)}</{tag}>"
            for n, text in enumerate(row)
        )

    top = f"<thead><tr>{cells(head, 'th')}</tr></thead>" if head else ""
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def picture(svg: str, caption: str, keys: Iterable[tuple[str, str]] = ()) -> str:
    """A figure with its caption.

    Args:
        svg: made by `svg_picture.as_svg`.
        caption: plain text.
        keys: colour and name of what is drawn in it.
    """
    legend = "".join(
        f'<span class="key" style="background:{escape(colour)}"></span>{escape(name)}'
        for colour, name in keys
    )
    return f"<figure>{svg}<figcaption>{escape(caption)}{legend}</figcaption></figure>"


def folded(summary: str, inside: str) -> str:
    """Something long that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"
