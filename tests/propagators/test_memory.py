import pytest
import torch

from egno_md.models.escn_md import ESCNMD
from egno_md.propagators import escn_potential, memory
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.state import Molecule, State


def test_what_the_system_tells(tmp_path, monkeypatch):
    file = tmp_path / "meminfo"
    file.write_text("MemTotal: 24 kB\nMemAvailable:    2000000 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", file)
    assert memory.available_bytes() == 2.048e9
    memory.refuse_too_large(2.0e9, "3 atoms")
    with pytest.raises(ValueError, match=r"3 atoms need about 2\.1 GB .* and 2\.0 GB are"):
        memory.refuse_too_large(2.1e9, "3 atoms")
    file.write_text("nothing\n")
    assert memory.available_bytes() is None
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    memory.refuse_too_large(1e30, "3 atoms")


def test_a_system_that_does_not_fit_is_refused_before_the_run(tmp_path, monkeypatch):
    file = tmp_path / "meminfo"
    file.write_text("MemAvailable: 1 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", file)
    monkeypatch.setattr(escn_potential, "_MANY_EDGES", 1)
    model = ESCNMD([1], max_degree=1, max_order=1, channels=4, n_layers=1)
    x = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    state = State.at_rest(Molecule.from_numbers([1, 1, 1]), x)
    with pytest.raises(ValueError, match="3 atoms with 6 neighbours need about"):
        ESCNPotential(model).evaluate(state)
