"""Error against cost from logs: telling measures, costs added up, an end that was cut."""

from egno_md.bundle_card import BundleCard, card_as_markdown, card_rows
from egno_md.training.learning_curve import learning_curve
from egno_md.training.log import write_line


def test_costs_of_the_fits_add_up_and_the_last_point_of_each_is_kept(tmp_path):
    first, second = tmp_path / "0", tmp_path / "1"
    for folder in (first, second):
        folder.mkdir()
    for k in range(1, 8):
        row = {"step": k, "score": 0.5 / k, "force_mae_kcal_per_mol_A": 1.0 / k}
        write_line(first / "log.jsonl", {**row, "kind": "training", "cpu_seconds": 1.0})
        write_line(first / "log.jsonl", {**row, "kind": "validation", "cpu_seconds": 60.0 * k})
    segment = {"score": 2.0, "velocity_error_over_change_3fs": 0.3}
    segment["position_error_over_displacement_3fs"] = 0.123456
    write_line(second / "log.jsonl", {**segment, "kind": "validation", "cpu_seconds": 30.0})
    with (second / "log.jsonl").open("a") as log:
        log.write('{"kind": "validation", "cpu_sec')
    curve = learning_curve([first, second, tmp_path / "never started"], n_points=3)
    assert [point["cpu_minutes"] for point in curve] == [3.0, 5.0, 7.0, 7.5]
    assert [list(point)[1] for point in curve[:3]] == ["force_mae_kcal_per_mol_A"] * 3
    assert curve[2]["force_mae_kcal_per_mol_A"] == 0.1429
    assert curve[3] == {"cpu_minutes": 7.5, "position_error_over_displacement_3fs": 0.1235}


def test_without_a_known_measure_the_score_is_told_and_nothing_where_it_is_not_finite(tmp_path):
    write_line(
        tmp_path / "log.jsonl", {"kind": "validation", "score": float("nan"), "cpu_seconds": 6.0}
    )
    write_line(tmp_path / "log.jsonl", {"kind": "validation", "score": 2.0, "cpu_seconds": 12.0})
    assert learning_curve([tmp_path]) == [{"cpu_minutes": 0.2, "score": 2.0}]


def test_of_several_molecules_the_mean_is_told(tmp_path):
    row = {"score": 9.0, "water/score": 8.0, "water/force_mae": 0.2, "methane/force_mae": 0.4}
    write_line(tmp_path / "log.jsonl", {**row, "kind": "validation", "cpu_seconds": 6.0})
    assert learning_curve([tmp_path]) == [{"cpu_minutes": 0.1, "force_mae": 0.3}]


def test_the_card_prints_a_row_for_each_point():
    curve = [{"cpu_minutes": 1.5, "score": 0.25}, {"cpu_minutes": 3.0, "score": 0.125}]
    card = BundleCard(
        name="x",
        kind="escn",
        architecture={"name": "escn-md"},
        elements=[1],
        training={"seed": 1, "learning_curve": curve},
    )
    rows = card_rows(card)
    assert ("validation after 1.5 CPU min", "score 0.25") in rows
    assert not [label for label, _ in rows if "learning_curve" in label]
    assert "| validation after 3.0 CPU min | score 0.125 |" in card_as_markdown(card)
