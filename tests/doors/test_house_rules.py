"""Rules of the house that a reader of one file cannot see broken."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOPS = ("egno_md", "calculators", "trajectories")
SOURCES = sorted(path for top in TOPS for path in (ROOT / top).rglob("*.py"))
TEXTS = sorted(
    path
    for path in [*ROOT.glob("*"), *(ROOT / "tests").rglob("*.py"), *(ROOT / ".ci").glob("*")]
    if path.is_file() and path.suffix in (".py", ".md", ".toml", ".txt", ".yaml", "")
)

# Names that say nothing about what is inside, or that hide a package of the same name.
BANNED_STEMS = {"utils", "util", "helpers", "helper", "manager", "base", "core", "common", "misc"}
SHADOWING_STEMS = {"ase", "openmm", "mdtraj", "zarr", "torch", "numpy", "e3nn"}
UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def test_there_is_something_to_look_at():
    assert len(SOURCES) > 30
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(TOPS)


def test_files_are_small():
    sizes = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in SOURCES}
    assert {name: size for name, size in sizes.items() if size > 400} == {}


def test_files_are_well_named():
    assert [p for p in SOURCES if p.stem in BANNED_STEMS | SHADOWING_STEMS] == []


def dotted(node):
    """`torch.load` for the expression torch.load, "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def loads_weights_only(call):
    """Whether a call of torch.load says, in so many words, weights_only=True."""
    given = {k.arg: k.value for k in call.keywords}
    value = given.get("weights_only")
    return isinstance(value, ast.Constant) and value.value is True and None not in given


def forbidden(text):
    """Calls and imports that may run code from a data file, or that hide errors."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            if name in ("torch.load", "torch.jit.load", "eval", "exec", "os._exit") and not (
                name == "torch.load" and loads_weights_only(node)
            ):
                found.append(name)
            found += [
                "allow_pickle"
                for k in node.keywords
                if k.arg == "allow_pickle"
                and not (isinstance(k.value, ast.Constant) and k.value.value is False)
            ]
        elif isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in UNPICKLING]
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in UNPICKLING:
                found.append(str(node.module))
            found += [a.name for a in node.names if f"{node.module}.{a.name}" == "torch.load"]
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append("bare except")
    return found


def test_nothing_unpickles():
    assert {p: found for p in SOURCES if (found := forbidden(p.read_text()))} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "import torch\ntorch.load('x', weights_only=flag)",
        "import torch\ntorch.load('x', weights_only=True, **more)",
        "from torch import load",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.load('x', allow_pickle=flag)",
        "try:\n    f()\nexcept:\n    g()",
    ],
)
def test_forbidden_calls_are_found(text):
    assert len(forbidden(text)) == 1


def test_weights_are_loaded_in_one_file_only():
    calls = {
        path.name
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and dotted(node.func) == "torch.load"
    }
    assert calls == {"escn_checkpoint.py"}


def random_without_generator(text):
    """Calls that draw from the global random stream."""
    drawing = {"randn", "rand", "randint", "randperm", "normal", "bernoulli", "multinomial"}
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            if (
                name.startswith("torch.")
                and name.split(".")[-1] in drawing
                and not any(k.arg == "generator" for k in node.keywords)
            ):
                found.append(name)
            if name.startswith(("np.random.", "numpy.random.")) and not name.endswith("_rng"):
                found.append(name)
    return found


def test_random_numbers_have_a_generator():
    # Networks draw their first weights as torch's own layers do.
    for path in (p for p in SOURCES if p.parent.name != "models"):
        assert random_without_generator(path.read_text()) == [], path


def test_a_draw_from_the_global_stream_is_found():
    assert random_without_generator("torch.randn(3)") == ["torch.randn"]
    assert random_without_generator("np.random.seed(3)") == ["np.random.seed"]
    assert random_without_generator("torch.randn(3, generator=g)") == []


def code_lines(function):
    """Lines of a function from its first statement on, docstring aside."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return function.end_lineno - body[0].lineno + 1 if body else 0


def test_functions_are_short():
    long = [
        f"{path.relative_to(ROOT)}: {node.name} has {code_lines(node)} lines"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and code_lines(node) > 60
    ]
    assert long == []


def test_no_machine_specific_paths():
    # Spelled in pieces so that this file does not contain them.
    places = re.compile("|".join(["/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/", "/opt/" + "p"]))
    wrong = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in [*SOURCES, *TEXTS]
        for line in path.read_text().splitlines()
        if places.search(line)
    ]
    assert wrong == []


def test_tests_mirror_the_tree():
    for path in (ROOT / "tests").iterdir():
        if path.is_dir() and path.name not in ("doors", "__pycache__"):
            assert (ROOT / "egno_md" / path.name).is_dir(), path.name
    assert not list((ROOT / "tests").rglob("__init__.py"))
