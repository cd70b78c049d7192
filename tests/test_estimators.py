"""scikit-learn's own checks, and what they do not check."""

import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import dkp
from dkp import kernels, likelihoods
from dkp.estimators import DKPClassifier, DKPRegressor
from tests.support import relaxed

RNG = np.random.default_rng(0)
X = RNG.uniform(-2, 2, size=(60, 2))
Y = np.sin(2 * X[:, 0]) + 0.1 * RNG.normal(size=60)
QUICK = {"n_inducing": 15, "steps": 150, "n_samples": 20, "random_state": 0}
FEW = {"n_inducing": 6, "steps": 3, "n_samples": 3, "random_state": 0}
LAYERS = [kernels.Linear(ard=True), kernels.SquaredExponential(variance=dkp.learn(1.0))]
# All checks fit a hundred times, and most fits compile a program: so the models have one layer and
# nothing to learn.
ONE_LAYER = {
    "layers": [kernels.SquaredExponential(lengthscale=2.0, variance=3.0)],
    "random_state": 0,
}
SPARSE = ONE_LAYER | {"n_inducing": 20, "steps": 60, "n_samples": 3}
NOISE = likelihoods.Gaussian(noise=0.1)
REPETITION = "check_sample_weight_equivalence_on_dense_data"
WEIGHTS = (
    "check_sample_weights_pandas_series",
    "check_sample_weights_not_an_array",
    "check_sample_weights_list",
    "check_sample_weights_shape",
    "check_sample_weights_not_overwritten",
    REPETITION,
)


@pytest.mark.slow
@pytest.mark.usefixtures("_unchecked")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("estimator", "failing"),
    [
        (DKPRegressor(likelihood=NOISE, inference="exact", **ONE_LAYER), WEIGHTS),
        (DKPRegressor(likelihood=NOISE, **SPARSE), (REPETITION,)),
        (DKPClassifier(**SPARSE), (REPETITION,)),
    ],
    ids=["exact regressor", "regressor", "classifier"],
)
def test_scikit_learns_own_checks(estimator, failing):
    """The exact engine takes no weights, and says so. Elsewhere a row with weight 2 is not a row
    twice for k-means, which chooses the inducing points; for the bound it is, which is tested
    there. Nothing else may fail."""
    with relaxed():
        results = check_estimator(
            estimator, expected_failed_checks=dict.fromkeys(failing, "weights"), on_skip=None
        )
    failed = {result["check_name"] for result in results if result["status"] == "xfail"}
    assert failed == set(failing) and len(results) > 50


@pytest.fixture(scope="module")
def regressor():
    with relaxed():
        return DKPRegressor(**QUICK).fit(X[:50], Y[:50])


def test_regression(regressor):
    with relaxed():
        mean, deviation = regressor.predict(X[50:], return_std=True)
        assert mean.shape == deviation.shape == (10,)
        assert regressor.score(X[50:], Y[50:]) > 0.8
        assert np.mean(np.abs(mean - Y[50:]) < 2 * deviation) >= 0.7
        low, middle, high = regressor.predict_quantiles(X[50:])
        assert np.all((low < middle) & (middle < high))
        assert regressor.log_density(X[50:], Y[50:]).shape == (10,)
    assert (
        isinstance(regressor.posterior_, dkp.VariationalPosterior) and regressor.n_features_in_ == 2
    )


def test_the_same_seed_gives_the_same_predictions(regressor):
    with relaxed():
        again = clone(regressor).fit(X[:50], Y[:50])
        np.testing.assert_array_equal(again.predict(X[50:]), regressor.predict(X[50:]))
        np.testing.assert_array_equal(regressor.predict(X[50:53]), regressor.predict(X[50:])[:3])


@pytest.mark.slow
def test_tables_pipelines_and_grid_searches():
    frame = pd.DataFrame(X, columns=["a", "b"])
    pipeline = make_pipeline(
        StandardScaler(), DKPRegressor(layers=LAYERS, inference="exact", random_state=0)
    )
    pipeline.set_output(transform="pandas")
    search = GridSearchCV(pipeline, {"dkpregressor__n_samples": [1, 2]}, cv=2)
    with relaxed():
        search.fit(frame, pd.Series(Y, name="target"))
        assert search.best_score_ > 0.7
        best = search.best_estimator_[-1]
        assert best.feature_names_in_.tolist() == ["a", "b"]
        assert isinstance(best.posterior_, dkp.ExactPosterior)
        with pytest.raises(ValueError, match="feature names"):
            best.predict(frame[["b", "a"]])


@pytest.mark.slow
@pytest.mark.parametrize(("load", "classes"), [(load_breast_cancer, 2), (load_iris, 3)])
def test_classification(load, classes):
    x, labels = load(return_X_y=True)
    names = np.array(["ash", "birch", "cedar"])[labels]
    rows = np.random.default_rng(0).permutation(len(x))[:150]
    train, test = rows[:100], rows[100:]
    with relaxed():
        found = DKPClassifier(**{**QUICK, "steps": 400}).fit(x[train], names[train])
        probability = found.predict_proba(x[test])
        assert found.classes_.tolist() == ["ash", "birch", "cedar"][:classes]
        assert probability.shape == (50, classes)
        np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-6)
        assert found.score(x[test], names[test]) > 0.88
    kind = likelihoods.Bernoulli if classes == 2 else likelihoods.Categorical
    assert type(found.posterior_.model.likelihood) is kind


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_ordered_classes_counts_and_chains():
    grades = np.digitize(Y, [-0.5, 0.5])
    with relaxed():
        found = DKPClassifier(layers=LAYERS, likelihood=likelihoods.Ordinal(3), **QUICK).fit(
            X, grades
        )
        assert found.score(X, grades) > 0.8
        counts = RNG.poisson(np.exp(1 + Y)).astype(float)
        counted = DKPRegressor(layers=LAYERS, likelihood=likelihoods.Poisson(), **QUICK).fit(
            X, counts
        )
        assert np.all(counted.predict(X) > 0) and counted.score(X, counts) > 0.2
        layers = [kernels.SquaredExponential(dist.LogNormal(0.0, 1.0), 1.0)]
        numbers = {"chains": 1, "warmup": 5, "draws": 5, "n_samples": 5, "random_state": 0}
        chains = DKPRegressor(layers, likelihoods.Gaussian(noise=0.2), inference="hmc", **numbers)
        assert isinstance(chains.fit(X[:20], Y[:20]).posterior_, dkp.MCMCPosterior)


def test_weights_reach_the_data():
    with relaxed():
        found = DKPRegressor(**FEW).fit(X, Y, sample_weight=np.arange(60.0))
    np.testing.assert_array_equal(found.posterior_.data.weights, np.arange(60.0))


BAD = {
    "one class": (
        lambda: DKPClassifier().fit(X, np.zeros(60)),
        "Expected labels of at least two classes",
    ),
    "real labels": (lambda: DKPClassifier().fit(X, Y), "Unknown label type"),
    "exact classification": (
        lambda: DKPClassifier(inference="exact").fit(X, Y > 0),
        'Expected inference="vi" or "hmc"',
    ),
    "unknown engine": (
        lambda: DKPRegressor(inference="gibbs").fit(X, Y),
        "Expected inference to be one of",
    ),
    "no rows": (lambda: DKPRegressor().fit(X[:1], Y[:1]), "minimum of 2 is required"),
    "text": (lambda: DKPRegressor().fit([["a"], ["b"]], [1.0, 2.0]), "could not convert string"),
    "too few grades": (
        lambda: DKPClassifier(likelihood=likelihoods.Ordinal(3)).fit(X, np.arange(60) % 4),
        "Ordinal",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    attempt, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        attempt()
