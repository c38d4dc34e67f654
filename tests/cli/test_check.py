"""The conformance kit through its command."""

import json

import pytest

from egno_md.cli import main
from egno_md.testing import conformance


def test_an_untrained_potential_is_physics(tiny_guard, tmp_path, capsys):
    file = tmp_path / "methanol.xyz"
    file.write_text(
        "6\n\nC 0 0 0\nO 1.42 0 0\nH -0.36 1.02 0\nH -0.36 -0.5 0.9\nH -0.36 -0.5 -0.9\n"
        "H 1.75 0.9 0\n"
    )
    argv = ["check", str(tiny_guard), "--structure", str(file), "--length-ps", "0.02"]
    code = main([*argv, "--as-json", "--n-replicas", "2"])
    found = {r["name"]: r for r in json.loads(capsys.readouterr().out)[str(tiny_guard)]}
    # Untrained and at rest nowhere, it may not reach the order of the fluctuations in 20 fs.
    found.pop("constant energy: fluctuation ~ step^2")
    found.pop("constant energy: drift")
    assert [name for name, r in found.items() if not r["value"] <= r["limit"]] == []
    assert {"stress = dE/d(strain)/V", "Hessian symmetric", "jump at the cutoff"} <= set(found)
    assert "4 x 4 x 4 supercell, forces" in found
    assert code in (0, 1)


def test_a_propagator_is_reversible(capsys):
    assert main(["check", "ethanol-egno"]) == 0
    said = capsys.readouterr().out
    assert "there and back" in said
    assert "symplectic" in said


def test_a_failure_is_said_and_is_the_exit_code(monkeypatch, capsys):
    worse = conformance.CheckResult("gravity", 2.0, 1.0, "g")
    monkeypatch.setattr(conformance, "check_bundle", lambda *given: [worse])
    assert main(["check", "ethanol-escn"]) == 1
    assert "gravity: 2 g (limit 1) FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [([], "name the bundles"), (["nothing.bundle"], "nothing.bundle")],
)
def test_wrong_input_is_refused(argv, message, capsys):
    assert main(["check", *argv]) == 2
    assert message in capsys.readouterr().err


def test_a_bundle_without_example_asks_for_a_structure(tiny_guard, capsys):
    assert main(["check", str(tiny_guard)]) == 2
    assert "--structure" in capsys.readouterr().err
