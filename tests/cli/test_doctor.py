"""What `egno-md doctor` says of extras that are hard to install."""

from __future__ import annotations

from egno_md.calculators import openmm_torch_backend
from egno_md.cli import doctor


def test_says_why_openmm_torch_cannot_be_used(monkeypatch):
    monkeypatch.setattr(openmm_torch_backend, "why_not", lambda: "it is too old")
    found = doctor._openmm_torch()
    assert (found.mark, found.subject) == ("missing", "openmmtorch")
    assert found.text.startswith("it is too old (")


def test_says_what_an_openmm_torch_that_works_lacks(monkeypatch):
    monkeypatch.setattr(openmm_torch_backend, "why_not", lambda: None)
    monkeypatch.setattr(openmm_torch_backend, "limits", lambda: ["no this", "no that"])
    found = doctor._openmm_torch()
    assert found.mark == "ok"
    assert "; no this; no that (" in found.text


def test_does_not_need_torch_to_say_so(monkeypatch):
    monkeypatch.setattr(doctor, "_try_import", lambda name: f"no {name}")
    assert doctor._openmm_torch().mark == "missing"
