"""Imports go one way; these tests read them from the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "egno_md"

# Each part may import itself and the parts before it.
LINE = [
    "units",
    "job",
    "config",
    "benchmark_config",
    "bundle_card",
    "state",
    "bonds",
    "ase_atoms",
    "segment",
    "roles",
    "models",
    "bundle",
    "propagators",
    "calculators",
    "trajectories",
    "cli",
]
DATA_FOLDERS = {"bundles", "examples"}
# Beside the line: what each of these may import, and who may import it.
BESIDE = {
    "data": {"data", *LINE[: LINE.index("propagators") + 1]},
    # Teachers come through the doors: OpenMM's force fields, ASE's calculators.
    "training": {"data", "training", *LINE[: LINE.index("calculators") + 1]},
    "testing": {"testing", *LINE[: LINE.index("propagators") + 1]},
    "benchmarks": {"benchmarks", "data", "training", "testing", *LINE[: LINE.index("cli")]},
}
MAY_IMPORT_BESIDE = {
    "data": {"data", "training", "benchmarks", "cli"},
    "training": {"training", "benchmarks", "cli"},
    "testing": {"testing", "benchmarks", "cli"},
    "benchmarks": {"benchmarks", "cli"},
}
# Loaded by `import egno_md`, `egno-md --help` and a verb's `--help`: must not bring torch.
LIGHT = {"__init__", "__main__", "job", "config", "benchmark_config", "bundle_card", "cli", "units"}
HEAVY = {"torch", "openmm", "mdtraj", "ase", "zarr", "e3nn", "vesin", "matplotlib", "safetensors"}


def sources():
    """Every source file, once, as (part of the package, path)."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path
    for part in ("calculators", "trajectories"):  # rglob does not follow the links
        for path in sorted((ROOT / part).rglob("*.py")):
            yield part, path


def imported_modules(nodes):
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            if node.module == "egno_md":
                yield from (f"egno_md.{alias.name}" for alias in node.names)


def arrow_is_allowed(part, other):
    if part == other:
        return True
    if other in BESIDE:
        return part in MAY_IMPORT_BESIDE[other]
    if part in BESIDE:
        return other in BESIDE[part]
    return LINE.index(other) < LINE.index(part)


def wrong_imports(part, text):
    """Imports in the text of a file that run against the order."""
    wrong = []
    for name in imported_modules(ast.walk(ast.parse(text))):
        if name.startswith("."):
            wrong.append(f"{name}: relative")
        elif name.startswith("egno_md."):
            other = name.split(".")[1]
            if other not in ("__version__", *LINE, *BESIDE):
                wrong.append(f"{name}: not in the order of this test")
            elif other != "__version__" and not arrow_is_allowed(part, other):
                wrong.append(f"{name}: {part} may not import {other}")
    return wrong


def is_the_door(part):
    return part in ("__init__", "__main__")


def test_every_file_is_seen_and_has_a_place():
    parts = {part for part, _ in sources() if not is_the_door(part)}
    assert parts == {*LINE, *BESIDE, *DATA_FOLDERS}


def test_data_folders_hold_no_code():
    for part, path in sources():
        if part in DATA_FOLDERS:
            assert path.name == "__init__.py"
            assert len(ast.parse(path.read_text()).body) == 1, path  # the docstring


def test_imports_go_one_way():
    wrong = {
        str(path.relative_to(ROOT)): found
        for part, path in sources()
        if not is_the_door(part) and (found := wrong_imports(part, path.read_text()))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("state", "from egno_md.segment import Segment"),
        ("models", "from egno_md.bundle import Bundle"),
        ("calculators", "import egno_md.trajectories.store"),
        ("trajectories", "from egno_md.training.loop import train"),
        ("calculators", "from egno_md.training.loop import train"),
        ("trajectories", "from egno_md.data.sgdml import SGDMLPotential"),
        ("data", "from egno_md.trajectories.store import Store"),
        ("data", "from egno_md.training.loop import train"),
        ("testing", "from egno_md.trajectories.store import Store"),
        ("trajectories", "from .store import Store"),
        ("bundle", "from egno_md import cli"),
    ],
)
def test_an_arrow_that_runs_back_is_found(part, line):
    assert len(wrong_imports(part, line)) == 1


def top_level(tree):
    """Statements that run at import, without what is only for type checkers."""
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield from ast.walk(node)


def test_light_files_import_nothing_heavy():
    wrong = []
    for part, path in sources():
        if part not in LIGHT:
            continue
        for name in imported_modules(top_level(ast.parse(path.read_text()))):
            ours = name.split(".")[1:2] if name.startswith("egno_md.") else []
            if name.split(".")[0] in HEAVY or (ours and ours[0] not in LIGHT):
                wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert wrong == []
