"""The command line: quick to start, wrong input is one line, every verb answers."""

import subprocess
import sys

import pytest

from egno_md import __version__, cli


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    ).stdout


@pytest.mark.parametrize(
    "code",
    [
        "import egno_md",
        "from egno_md.cli import main; main(['--help'])",
        "from egno_md.cli import main; main(['--version'])",
        "from egno_md.cli import main; main(['nonsense'])",
        "from egno_md.job import make_job; from egno_md.config import RunConfig; "
        "make_job(RunConfig, {'example': 'ethanol'})",
    ],
)
def test_starting_loads_nothing_heavy(code):
    loaded = python(f"{code}\nimport sys\nprint('LOADED', *sorted(sys.modules))")
    names = loaded.split("LOADED")[1].split()
    assert "egno_md" in names
    heavy = {"torch", "numpy", "openmm", "ase", "mdtraj", "zarr", "e3nn", "matplotlib"}
    assert heavy.isdisjoint(names)


@pytest.mark.parametrize("verb", sorted(cli.verbs()))
def test_help_of_a_verb_loads_no_torch(verb):
    code = (
        "import sys\nfrom egno_md.cli import main\n"
        f"try:\n    code = main([{verb!r}, '--help'])\n"
        "except SystemExit as stop:\n    code = stop.code\n"
        "print('CODE', code or 0, 'TORCH', 'torch' in sys.modules)"
    )
    text = python(code)
    assert text.rstrip().endswith("CODE 0 TORCH False")
    assert f"egno-md {verb}" in text


def test_every_listed_verb_has_a_file_and_every_file_is_listed():
    from pathlib import Path

    files = {p.stem for p in Path(cli.__file__).parent.glob("*.py")} - {"__init__"}
    assert files <= set(cli.VERBS)
    assert set(cli.verbs()) == files


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"egno-md {__version__}\n"


def test_no_verb_prints_usage_and_fails(capsys):
    assert cli.main([]) == 2
    assert "usage: egno-md" in capsys.readouterr().out


def test_unknown_verb_names_the_nearest(capsys):
    assert cli.main(["inspekt"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("egno-md: error: unknown verb 'inspekt' (did you mean 'inspect'?)")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["inspect", "no-such-bundle"], ["no-such-bundle", "no such folder"]),
        (["inspect", "--bundel", "x"], ["--bundel", "did you mean '--bundle'"]),
        (["inspect", "missing.toml"], ["missing.toml", "no such job file"]),
        (["inspect", "--max-weights-MB", "0"], ["max_weights_MB", "greater than or equal to 1"]),
        (["doctor", "extra"], ["'extra' is not expected"]),
    ],
)
def test_wrong_input_is_one_line_and_code_2(argv, words, capsys):
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("egno-md: error: ")
    assert captured.err.count("\n") == 1
    for word in words:
        assert word in captured.err


def test_a_refusing_disk_is_one_line_that_names_the_file(capsys, monkeypatch):
    from egno_md.cli import doctor

    def full(argv):
        raise OSError(28, "No space left on device", "out/frames")

    monkeypatch.setattr(doctor, "run", full)
    assert cli.main(["doctor"]) == 2
    assert capsys.readouterr().err == "egno-md: error: No space left on device: out/frames\n"


def test_interruption_is_code_130(capsys, monkeypatch):
    from egno_md.cli import doctor

    def interrupt(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run", interrupt)
    assert cli.main(["doctor"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["doctor"], ["--help"]])
def test_a_closed_pipe_is_no_error(words):
    code = (
        "import sys\nfrom egno_md import cli\nfrom egno_md.cli import doctor\n"
        "def talk(argv):\n    print('x' * 10_000_000)\n    return 0\n"
        "doctor.run = talk\ncli.usage = lambda: 'x' * 10_000_000\n"
        f"sys.exit(cli.main({words}))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


def test_doctor_says_all_is_here(capsys):
    import logging

    assert cli.main(["doctor"]) == 0
    assert logging.getLoggerClass() is logging.Logger  # sgdml, if imported, replaces it
    out = capsys.readouterr().out
    assert "everything needed is here" in out
    assert "ok      torch " in out


def test_doctor_says_why_a_package_is_missing(capsys, monkeypatch):
    # None in sys.modules makes the import fail, as a missing package does.
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "bad     tyro" in out
    assert "not usable: tyro" in out


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "egno_md", "--version"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == f"egno-md {__version__}\n"
