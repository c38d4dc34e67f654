"""Pages of the documentation, and their code run as a reader would."""

import re
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def page(name):
    """Text of `docs/NAME.md`, or of README.md."""
    return (ROOT / ("README.md" if name == "README" else f"docs/{name}.md")).read_text()


def blocks(text, language="python"):
    """Code blocks of a page, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def run_blocks(shown, tmp_path, monkeypatch):
    """Run blocks one after the other in a folder with the repository's `egno_md`; their names."""
    (tmp_path / "egno_md").symlink_to(ROOT / "egno_md")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for block in shown:
            exec(compile(block, "page", "exec"), names)
    return names
