"""Suites of everyday tables: their data, their scores, and one run of each kind."""

import json

import numpy as np
import pytest
from scipy import stats
from sklearn.base import BaseEstimator

from benchmarks.config import SUITES, TABLES, Run, Settings, plan
from benchmarks.tables import everyday as tables
from benchmarks.tables.evaluate import evaluate
from benchmarks.tables.everyday import (
    METHODS,
    Split,
    score_classes,
    simulated_counts,
    with_outliers,
)
from tests.support import relaxed


def test_every_method_of_a_suite_is_known():
    assert {method for suite in TABLES for method in SUITES[suite].methods} == set(METHODS)


def test_outliers_are_a_twentieth_and_far_away():
    y = np.random.default_rng(0).normal(size=200)
    moved = with_outliers(y, 3)
    changed = np.flatnonzero(moved != y)
    assert len(changed) == 10
    shift = np.abs(moved - y)[changed] / y.std()
    assert shift.min() >= 5 and shift.max() <= 10
    np.testing.assert_array_equal(moved, with_outliers(y, 3))


def test_simulated_counts_have_their_mean_and_spread():
    """Mean rate and Var y = E r + Var r + E r^2 / 3, over 20 splits (z-scores; two in 10^4
    fail)."""
    splits = [simulated_counts(i) for i in range(20)]
    x, y = np.concatenate([s.x for s in splits]), np.concatenate([s.y for s in splits])
    rate = np.exp(1 + np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] * x[:, 2])
    scaled = (y - rate) / np.sqrt(rate + rate**2 / 3)
    assert abs(scaled.mean()) * np.sqrt(len(y)) < 4
    squares = scaled**2
    assert abs(squares.mean() - 1) * np.sqrt(len(y)) < 4 * squares.std()


def test_scores_of_classes_by_hand():
    class Fixed(BaseEstimator):
        classes_ = np.array([3, 5])

        def predict_proba(self, x):
            return np.array([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1]])

    split = Split(
        x=np.zeros((1, 1)),
        y=np.zeros(1),
        x_test=np.zeros((3, 1)),
        y_test=np.array([3, 5, 5]),
        source="",
    )
    scores = score_classes(Fixed(), split)
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["class_log_density"] == pytest.approx(np.mean(np.log([0.8, 0.6, 0.1])))


def test_scikit_learn_needs_no_settings():
    runs = [
        Run(
            suite="counts",
            dataset="simulated",
            split=0,
            method="poisson-glm",
            settings=Settings(steps=s),
        )
        for s in (1, 2)
    ]
    assert runs[0].fingerprint == runs[1].fingerprint


@pytest.mark.parametrize(
    ("suite", "dataset", "method"),
    [("classification", "wine", "logistic"), ("counts", "simulated", "poisson-glm")],
)
def test_a_run_of_scikit_learn(suite, dataset, method):
    run = plan(suite, datasets=dataset, splits="0", methods=method)[0]
    record = json.loads(json.dumps(evaluate(run)))
    assert record["status"] == "finished" and record["n_test"] > 10
    if suite == "counts":
        split = simulated_counts(0)
        constant = stats.poisson.logpmf(split.y_test, split.y.mean()).mean()
        assert record["metrics"]["log_density"] > constant
    else:
        assert record["metrics"]["accuracy"] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "dataset", "method"),
    [
        ("classification", "wine", "dkp-classifier"),
        ("counts", "simulated", "dkp-negative-binomial"),
    ],
)
def test_a_run_of_an_estimator(suite, dataset, method, monkeypatch):
    monkeypatch.setattr(tables, "COUNTS", (40, 20))
    run = plan(
        suite,
        datasets=dataset,
        splits="0",
        methods=method,
        settings="n_inducing=5,steps=5,prediction_samples=5",
    )[0]
    with relaxed():
        record = json.loads(json.dumps(evaluate(run)))
    assert record["status"] == "finished" and "jitter" in record["fit"]


def test_unknown_methods_are_refused():
    run = Run(suite="counts", dataset="simulated", split=0, method="gp", settings=Settings())
    with pytest.raises(ValueError, match="Expected method to be one of dkp-classifier"):
        evaluate(run)
