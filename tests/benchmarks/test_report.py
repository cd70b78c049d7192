"""Tables against numbers computed by hand."""

import dataclasses
import json

import pytest

from benchmarks import report
from benchmarks.config import SUITES

VERSIONS = {"python": "3.11", "jax": "0.9.2", "dkp": "0.1.0"}


def record(
    method, split, log_density, *, dataset="uci/yacht", date="2025-01-02", elbo=None, **changes
):
    metrics = {"log_density": log_density, "rmse": 0.5, "crps": 0.25, "coverage_90": 0.9}
    return {
        "suite": "uci-small",
        "dataset": dataset,
        "split": split,
        "method": method,
        "dtype": "float64",
        "seed": 0,
        "settings": dataclasses.asdict(SUITES["uci-small"].settings),
        "status": "finished",
        "metrics": metrics if elbo is None else metrics | {"elbo": elbo},
        "model": f"{method} model",
        "times": {"fit": 10.0},
        "date": f"{date}T00:00:00+00:00",
        "versions": VERSIONS,
        **changes,
    }


# gp: mean -2, s = 1, s.e. 1/sqrt(3) = 0.577. diwp: mean -4/3, deviations 5/6, 1/3, -7/6, s =
# 1.0408, s.e. 0.601. Differences 1/2, 1, 1/2: mean 2/3, s = sqrt(1/12), s.e. 1/6.
RECORDS = [record("gp", k, v) for k, v in enumerate([-1.0, -2.0, -3.0])]
RECORDS += [record("diwp", k, v, elbo=k + 1.0) for k, v in enumerate([-0.5, -1.0, -2.5])]


def rendered(records, **options):
    return report.render(report.tables(records, **options))


def table_after(text, title):
    """Rows of the table below a title, as lists of cells."""
    lines = text[text.index(f"**{title}**") :].split("\n\n")[1].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_mean_and_standard_error():
    assert report.mean_and_error([-1.0, -2.0, -3.0]) == pytest.approx((-2.0, 3**-0.5))
    assert report.mean_and_error([4.0]) == (4.0, None)


def test_differences_are_paired_by_split():
    cells = {
        ("a", "gp"): {0: 1.0, 1: 2.0, 5: 9.0},
        ("a", "m"): {1: 5.0, 0: 2.0, 7: 3.0},
        ("b", "m"): {0: 1.0},
    }
    assert report.differences(cells, "gp") == {("a", "m"): {0: 1.0, 1: 3.0}}


def test_tables_hold_the_numbers():
    text = rendered(RECORDS)
    header, _, yacht = table_after(text, "Test log density")
    assert header[:3] == ["", "gp", "diwp"]
    assert yacht[:3] == ["yacht", "-2.00 ± 0.58 (3)", "-1.33 ± 0.60 (3)"]
    difference = table_after(text, "Test log density: difference from gp on the same splits")
    assert difference == [["", "diwp"], ["---", "---"], ["yacht", "0.667 ± 0.167 (3)"]]
    assert table_after(text, "RMSE")[2] == ["yacht", "0.500 ± 0.000 (3)", "0.500 ± 0.000 (3)"]
    elbo = table_after(text, "ELBO per data point, standardised targets")
    assert (elbo[0][1], elbo[2][1]) == ("diwp", "2.00 ± 0.58 (3)")
    assert "6 runs, 2025-01-02 to 2025-01-02. python 3.11; jax 0.9.2; dkp 0.1.0." in text


def test_published_numbers_stand_beside_with_their_source():
    text = rendered(RECORDS)
    header, _, yacht = table_after(text, "Test log density")
    assert yacht[header.index("DWP, 5 layers [ober2021]")] == "-0.46 ± 0.12 (20)"
    assert yacht[header.index("DGP, 5 layers [ober2021]")] == "-0.77 ± 0.03 (20)"
    assert "[ober2021]: " in text
    assert "Table 1 (submission version)" in text
    assert "boston" not in text


def test_published_numbers_are_of_the_same_targets():
    """The suite with corrupted targets has one of the published data sets."""
    usual = dataclasses.asdict(SUITES["robust"].settings)
    records = [
        record("dkp-gaussian", 0, -3.0, suite="robust", dataset="uci/boston", settings=usual)
    ]
    assert "ober2021" not in rendered(records)


def test_data_sets_and_methods_come_in_the_order_of_the_suite():
    text = rendered([record("mean", 0, -4.0, dataset="uci/wine"), *reversed(RECORDS)])
    header, _, *rows = table_after(text, "RMSE")
    assert header == ["", "gp", "diwp", "mean"]
    assert [row[0] for row in rows] == ["yacht", "wine"]
    assert rows[1] == ["wine", "", "", "0.500 (1)"]


def test_the_latest_of_two_records_for_a_split_counts():
    text = rendered(
        [record("gp", 0, -7.0, date="2025-02-01"), record("gp", 0, -8.0, date="2025-01-01")]
    )
    assert table_after(text, "Test log density")[2][1] == "-7.00 (1)"


def test_runs_with_other_settings_are_variants():
    """Unless the method ignores the setting."""
    other, same = (
        record(m, 0, -9.0, settings={**RECORDS[0]["settings"], "steps": 5}) for m in ("diwp", "gp")
    )
    narrow = record("gp", 0, -8.0, dtype="float32")
    header = table_after(rendered([*RECORDS, other, same, narrow]), "RMSE")[0]
    assert header == ["", "gp", "gp (float32)", "diwp"]
    header = table_after(rendered([*RECORDS, other, same], variants=True), "RMSE")[0]
    assert header == ["", "gp", "diwp", "diwp (steps=5)"]


def test_failures_and_mixed_models_are_said():
    failed = {**record("gp", 4, 0.0), "status": "failed"}
    text = rendered([*RECORDS, failed, record("diwp", 3, -1.0, model="another")])
    assert "7 runs, 2025-01-02 to 2025-01-02; 1 failed." in text
    assert "The runs of diwp do not all have the same model." in text


@pytest.mark.parametrize("choice", [{"methods": ("none",)}, {"suites": ("smoke",)}])
def test_no_runs_to_show_is_an_error(choice):
    with pytest.raises(ValueError, match="Expected at least one finished run"):
        rendered(RECORDS, **choice)


def test_each_suite_has_tables_and_what_they_depend_on():
    network = record("fcn", 0, -0.5, suite="nngp", dataset="digits", settings={})
    found = report.tables([*RECORDS, network, {**network, "split": 1, "status": "failed"}])
    assert list(found) == ["uci-small", "nngp"]
    assert "6 runs" in found["uci-small"] and "failed" not in found["uci-small"]
    assert "1 runs, 2025-01-02 to 2025-01-02; 1 failed." in found["nngp"]
    assert list(report.tables([*RECORDS, network], suites=("nngp",))) == ["nngp"]


def test_the_summary_is_one_table_of_few_methods():
    narrow = record("gp", 0, -8.0, dtype="float32")
    rows = report.summary([*RECORDS, narrow, record("mean", 0, -4.0)]).splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    published = ["DWP, 5 layers [ober2021]", "DGP, 5 layers [ober2021]"]
    assert cells[0] == ["", "gp", "diwp", *published]
    assert cells[2][:3] == ["yacht", "-2.00 ± 0.58 (3)", "-1.33 ± 0.60 (3)"]
    assert report.summary([]) is None


def test_published_numbers_have_a_source_and_known_names():
    published = json.loads(report.PUBLISHED.read_text(encoding="utf-8"))
    datasets = {name for suite in SUITES.values() for name in suite.datasets}
    for entry in published["results"]:
        assert entry.keys() == {"source", "dataset", "method", "metric", "mean", "se", "splits"}
        assert entry["source"] in published["sources"]
        assert entry["dataset"] in datasets
        assert entry["metric"] in report.METRICS
        assert entry["se"] >= 0
        assert entry["splits"] == (5 if entry["dataset"] == "uci/protein" else 20)
    for source in published["sources"].values():
        assert source.keys() == {"citation", "url", "location", "note"}
    identities = {
        (e["source"], e["dataset"], e["method"], e["metric"]) for e in published["results"]
    }
    assert len(identities) == len(published["results"]) == 9 * 2 * 2


def test_learning_curves_after_shares_of_the_steps():
    curves = [
        record("diwp", split, -1.0, curve=[float(i + split) for i in range(1, 21)])
        for split in (0, 1)
    ]
    text = rendered(
        [*curves, record("gp", 0, -1.0, curve=None), record("mean", 0, -1.0, curve=[None, 5.0])]
    )
    header, _, diwp, mean = table_after(
        text, "Learning curve, ELBO per data point after a share of the steps"
    )
    assert header[1:] == ["10%", "25%", "50%", "75%", "100%"]
    assert diwp == [
        "yacht, diwp",
        "2.500 (2)",
        "5.500 (2)",
        "10.500 (2)",
        "15.500 (2)",
        "20.500 (2)",
    ]
    assert mean == ["yacht, mean", "", "", "", "5.000 (1)", "5.000 (1)"]


def test_chosen_is_the_method_with_the_highest_bound():
    """The exact process has the higher bound on split 0, the deep one on split 1; on split 2 there
    is no choice."""
    deep = dataclasses.asdict(SUITES["uci-small"].settings_of("dwp-ab"))
    evidence = [2.0, 0.5, 9.0]
    records = [
        record("gp-matern", k, -1.0 - k, fit={"log_marginal_likelihood_per_point": value})
        for k, value in enumerate(evidence)
    ]
    records += [record("dwp-ab", k, -7.0 - k, elbo=1.0, settings=deep) for k in range(2)]
    records += [record("dgp", 0, 5.0, elbo=10.0, settings=deep)]  # not a candidate
    found = report.chosen_by_bound(records)
    assert [(r["split"], r["chose"], r["metrics"]["log_density"]) for r in found] == [
        (0, "gp-matern", -1.0),
        (1, "dwp-ab", -8.0),
    ]
    text = rendered(records)
    header, _, yacht = table_after(text, "Test log density")
    assert yacht[header.index("chosen")] == "-4.50 ± 3.50 (2)"
    assert "yacht: gp-matern (1), dwp-ab (1)." in text
    assert f"{len(records)} runs" in text


def test_settings_that_differ_are_not_candidates():
    records = [record("gp", 0, -1.0, fit={"log_marginal_likelihood_per_point": 0.0})]
    records.append(
        record("diwp", 0, -0.5, elbo=3.0, settings=records[0]["settings"] | {"steps": 7})
    )
    assert report.chosen_by_bound(records) == []
