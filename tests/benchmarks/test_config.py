"""Command-line text to runs, and the identity of a run."""

import dataclasses

import pytest

from benchmarks.config import SUITES, Run, Settings, override, parse_names, parse_splits, plan

RUN = Run(suite="smoke", dataset="diabetes", split=0, method="mean", settings=Settings())


@pytest.mark.parametrize(
    ("text", "splits"),
    [
        ("", ()),
        ("3", (3,)),
        ("0-4", (0, 1, 2, 3, 4)),
        ("0,2, 5-7", (0, 2, 5, 6, 7)),
        ("1-2,2-3", (1, 2, 3)),
    ],
)
def test_splits_are_numbers_and_ranges(text, splits):
    assert parse_splits(text) == splits


@pytest.mark.parametrize("text", ["a", "1-", "-1", "4-2", "1-b", "1.5", "0-1-2"])
def test_wrong_splits_are_errors(text):
    with pytest.raises(ValueError, match="Expected .* Got"):
        parse_splits(text)


def test_names_lose_blanks_and_repetitions_and_keep_their_order():
    assert parse_names(" gp, diwp,,gp ") == ("gp", "diwp")


@pytest.mark.parametrize("suite", SUITES)
def test_a_plan_defaults_to_all_of_its_suite(suite):
    chosen, runs = SUITES[suite], plan(suite)
    pairs = len(chosen.datasets) * len(chosen.methods) - len(chosen.excluded)
    assert len(runs) == pairs * len(chosen.splits)
    assert not {(r.dataset, r.method) for r in runs} & set(chosen.excluded)
    assert len({(r.dataset, r.split, r.method) for r in runs}) == len(runs)
    assert all(r.settings == chosen.settings_of(r.method) for r in runs)


def test_deep_processes_have_settings_of_their_own():
    (deep,), (other,) = (
        plan("uci-small", datasets="yacht", splits="0", methods=m) for m in ("dwp-ab", "diwp")
    )
    assert (
        deep.settings == SUITES["uci-small"].deep != other.settings == SUITES["uci-small"].settings
    )


def test_a_plan_narrows_to_what_it_is_told():
    runs = plan(
        "uci-small",
        datasets="energy,yacht",
        splits="7",
        methods="mean",
        dtype="float32",
        settings="steps=5",
    )
    assert [(r.dataset, r.split, r.method) for r in runs] == [
        ("uci/energy", 7, "mean"),
        ("uci/yacht", 7, "mean"),
    ]
    assert {(r.dtype, r.settings.steps, r.settings.samples) for r in runs} == {
        ("float32", 5, Settings().samples)
    }


@pytest.mark.parametrize("wrong", [{"suite": "none"}, {"suite": "smoke", "datasets": "energy"}])
def test_a_plan_of_unknown_data_is_an_error(wrong):
    with pytest.raises(ValueError, match="Expected (suite|datasets) .* Got"):
        plan(**wrong)


def test_settings_change_one_by_one():
    changed = override(Settings(batch_size=10), "steps=20, batch_size=none")
    assert changed == Settings(steps=20, batch_size=None)


@pytest.mark.parametrize(
    "text", ["speed=1", "steps", "steps=", "steps=-1", "steps=0", "steps=none", "samples=1.5"]
)
def test_wrong_settings_are_errors(text):
    with pytest.raises(ValueError, match="Expected .* Got"):
        override(Settings(), text)


def test_a_run_survives_json():
    assert Run.from_json(RUN.to_json()) == RUN


def test_the_fingerprint_sees_the_configuration_and_only_that():
    run = dataclasses.replace(RUN, method="dwp-ab")
    elsewhere = dataclasses.replace(run, dataset="uci/energy", split=3, suite="uci-small")
    assert elsewhere.fingerprint == run.fingerprint
    numbers = {
        f.name: dataclasses.replace(run.settings, **{f.name: 7})
        for f in dataclasses.fields(Settings)
    }
    changed = [dataclasses.replace(run, settings=s) for s in numbers.values()]
    changed += [dataclasses.replace(run, seed=1), dataclasses.replace(run, dtype="float32")]
    assert len({run.fingerprint, *(r.fingerprint for r in changed)}) == len(changed) + 1


def test_the_fingerprint_of_a_method_leaves_out_what_it_ignores():
    gp = dataclasses.replace(RUN, method="gp")
    longer = dataclasses.replace(gp, settings=dataclasses.replace(gp.settings, steps=7))
    more_draws = dataclasses.replace(
        gp, settings=dataclasses.replace(gp.settings, prediction_samples=7)
    )
    assert longer.fingerprint == gp.fingerprint != more_draws.fingerprint
