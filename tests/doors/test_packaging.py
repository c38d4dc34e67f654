"""What a checkout imports is what an installation imports."""

import os
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINKED = ("calculators", "trajectories")


def test_the_package_list_is_complete():
    found = {"egno_md"}
    for folder in sorted((ROOT / "egno_md").rglob("__init__.py")):
        found.add(".".join(folder.parent.relative_to(ROOT).parts))
    for name in LINKED:
        for folder in sorted((ROOT / name).rglob("__init__.py")):
            found.add(".".join(("egno_md", *folder.parent.relative_to(ROOT).parts)))
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(found)


def test_every_folder_with_code_is_a_package():
    for top in ("egno_md", *LINKED):
        for path in (ROOT / top).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), path


@pytest.mark.parametrize("name", LINKED)
def test_links_are_relative_and_lead_to_the_folders(name):
    link = ROOT / "egno_md" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"
    assert (ROOT / name).is_dir()
    assert not (ROOT / name).is_symlink()


@pytest.mark.parametrize("name", LINKED)
def test_linked_folders_are_mapped_to_the_package(name):
    assert PROJECT["tool"]["setuptools"]["package-dir"][f"egno_md.{name}"] == name


def test_version_is_said_once_over():
    import egno_md

    assert PROJECT["project"]["version"] == egno_md.__version__


def test_data_files_are_in_the_package():
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for folder in ("bundles", "examples"):
        patterns = data[f"egno_md.{folder}"]
        for path in (ROOT / "egno_md" / folder).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                name = path.relative_to(ROOT / "egno_md" / folder).as_posix()
                assert any(fnmatch(name, pattern) for pattern in patterns), name


def pins(name):
    """What a file of constraints pins: version by lower-case name."""
    lines = (ROOT / name).read_text().splitlines()
    return {n.lower(): version for n, _, version in (x.partition("==") for x in lines) if version}


def test_constraints_pin_every_direct_dependency():
    pinned = set(pins("constraints.txt"))
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *extras["test"], *extras["dev"]]
    names = {w.split(">=")[0].lower() for w in wanted if not w.startswith("egno-md")}
    assert names <= pinned


def test_the_environment_of_openmm_torch_differs_where_it_must():
    from egno_md.calculators.openmm_torch_backend import WHEELS

    usual, other = pins("constraints.txt"), pins("constraints-openmm-torch.txt")
    wheel = WHEELS[other["openmmtorch"]]
    assert other["torch"].startswith(wheel.torch + ".")
    assert wheel.openmm[0] <= other["openmm"] < wheel.openmm[1]
    assert {n for n in other if usual.get(n) != other[n]} == {"openmmtorch", "torch", "openmm"}
    dependencies = PROJECT["project"]["dependencies"]
    assert {w.split(">=")[0].lower() for w in dependencies} <= set(other)


def test_the_public_door_gives_every_name():
    import egno_md

    for name in egno_md._HOMES:
        assert getattr(egno_md, name).__name__ == name
        assert name in dir(egno_md)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = egno_md.nonsense


def test_type_checkers_see_the_same_public_door():
    import ast

    import egno_md

    tree = ast.parse((ROOT / "egno_md" / "__init__.py").read_text())
    seen = {
        alias.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("egno_md.")
        for alias in node.names
    }
    assert seen == {name: f"egno_md.{home}" for name, home in egno_md._HOMES.items()}


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(tmp_path), str(ROOT)],
        check=True,
        timeout=600,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"egno_md"}
    for top in ("egno_md", *LINKED):
        for path in (ROOT / top).rglob("*.py"):
            inside = path.relative_to(ROOT).as_posix()
            assert (inside if top == "egno_md" else f"egno_md/{inside}") in names
    assert "egno_md/py.typed" in names
    assert "egno_md/examples/ethanol.xyz" in names
