"""The schema of a bundle's card: wrong fields are named, odd JSON is refused."""

import pytest

from egno_md.bundle import load_bundle
from egno_md.bundle_card import (
    FORMAT_CHANGES,
    FORMAT_VERSION,
    card_as_json,
    card_as_markdown,
    read_card,
)
from tests.small_bundle import edit_card, saved, small_card, small_model


@pytest.fixture
def card():
    return small_card(small_model())


@pytest.fixture
def folder(tmp_path, card):
    return saved(tmp_path / "small.bundle", small_model(), card)


class TestCardSchema:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"surprise": 1}, "surprise = 1 is not allowed: extra inputs"),
            ({"name": "drop"}, "name is missing"),
            ({"name": "../evil"}, "name = '../evil' is not allowed"),
            (
                {"kind": "gnn"},
                "kind = 'gnn' is not allowed: input should be 'egno', 'escn' or 'distance'",
            ),
            ({"elements": [0]}, "atomic number 0 is outside 1 to 118"),
            ({"cutoff_A": -1.0}, "cutoff_A = -1.0 is not allowed"),
            ({"dtype": "float16"}, "dtype = 'float16' is not allowed"),
            ({"units": {"length": "nm"}}, "length in nm; this format uses length Å"),
            ({"architecture": {"name": "egno"}}, "does not fit kind 'escn'; allowed is escn-md"),
            ({"architecture": {}}, "architecture None does not fit"),
            ({"temperature_range_K": [500, 300]}, "is not a range"),
            ({"weights_sha256": "abc"}, "weights_sha256 = 'abc' is not allowed"),
            ({"weights_sha256": None}, "weights_sha256 is missing"),
            ({"format_version": 0}, "format_version = 0 is not allowed"),
            ({"held_out": {"mae": "low"}}, "held_out.mae = 'low' is not allowed"),
        ],
    )
    def test_wrong_fields_are_named(self, folder, changes, message):
        edit_card(folder, **changes)
        with pytest.raises(ValueError, match=r"bundle\.json") as error:
            load_bundle(folder)
        assert message in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"[]", "must hold a JSON object, got list"),
            (b"\xff\xfe", "not valid JSON"),
            (b'{"name": "a", "name": "b"}', "key 'name' is given twice"),
            (b'{"cutoff_A": NaN}', "NaN is not a finite number"),
            (b"[" * 100_000, "nested too deeply"),
            (b'{"training": ' + b"1" * 5000 + b"}", "not valid JSON"),
        ],
    )
    def test_odd_json_is_refused(self, text, message):
        with pytest.raises(ValueError, match="somewhere") as error:
            read_card(text, "somewhere")
        assert message in str(error.value)

    def test_every_format_version_has_its_change_written_down(self):
        assert sorted(FORMAT_CHANGES) == list(range(1, FORMAT_VERSION + 1))

    def test_json_round_trip(self, folder):
        card = load_bundle(folder).card
        assert read_card(card_as_json(card).encode(), "x") == card

    def test_card_for_people_holds_the_facts_and_nothing_measured_elsewhere(self, folder):
        text = (folder / "CARD.md").read_text()
        assert "| held out: force_mae_eV_per_A | 0.25 |" in text
        assert "| elements | H C O |" in text
        assert "| training temperatures | 200 to 900 K |" in text
        assert "horizon" not in text

    def test_a_table_cell_cannot_be_broken_out_of(self, card):
        text = card_as_markdown(card.model_copy(update={"citation": "a | b\n# new heading"}))
        assert "\n# new heading" not in text
        assert "a \\| b # new heading" in text
