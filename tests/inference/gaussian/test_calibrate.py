"""Classification by regression: leave-one-out by retraining, calibrated probabilities, ensembles of
augmented data."""

import functools

import jax
import numpy as np
import pandas as pd
import pytest
from scipy import special

import dkp
from dkp import kernels, likelihoods

KEY = jax.random.key(0)
RNG = np.random.default_rng(3)
X = RNG.normal(size=(60, 2))
LABELS = np.array(["low", "mid", "top"])[
    np.digitize(X[:, 0] + 0.5 * RNG.normal(size=60), [-0.5, 0.5])
]
NEW = RNG.normal(size=(500, 2))
NEW_LABELS = np.array(["low", "mid", "top"])[
    np.digitize(NEW[:, 0] + 0.5 * RNG.normal(size=500), [-0.5, 0.5])
]
MODEL = dkp.DeepKernelProcess(
    layers=[kernels.Affine(1.5, 0.2), kernels.ReLU(), kernels.Affine(1.0)],
    likelihood=likelihoods.Gaussian(noise=0.3),
)


@functools.cache
def data():
    return dkp.Dataset.from_labels(X, LABELS)


@functools.cache
def posterior(kind="nngp"):
    fit = dkp.condition if kind == "nngp" else dkp.gradient_flow
    return fit(MODEL, data(), diag_reg=0.02)


def test_targets_are_centred_one_hot_codes():
    y = np.asarray(data().y)
    np.testing.assert_allclose(y.sum(1), 0, atol=1e-12)
    assert data().classes == ("low", "mid", "top") == data().target_names
    np.testing.assert_array_equal(np.array(data().classes)[y.argmax(1)], LABELS)
    np.testing.assert_allclose(np.unique(y), [-1 / 3, 2 / 3])


def test_the_temperature_maximises_the_held_out_likelihood():
    classifier = dkp.calibrate(posterior(), validation=(NEW, NEW_LABELS))
    assert isinstance(classifier, dkp.CalibratedClassifier)
    index = np.searchsorted(["low", "mid", "top"], NEW_LABELS)
    means = dkp.predict(posterior(), NEW, key=KEY).mean

    def log_density(temperature):
        return special.log_softmax(means / temperature, axis=1)[np.arange(500), index].mean()

    grid = classifier.temperature * np.array([0.5, 0.95, 1.05, 2.0])
    np.testing.assert_allclose(
        classifier.log_density, log_density(classifier.temperature), rtol=1e-9
    )
    assert all(log_density(t) < classifier.log_density for t in grid)
    np.testing.assert_allclose(
        classifier.probabilities(NEW), special.softmax(means / classifier.temperature, 1)
    )
    np.testing.assert_allclose(
        classifier.log_density_of(NEW, NEW_LABELS).mean(), classifier.log_density, rtol=1e-9
    )
    assert classifier.accuracy == np.mean(classifier.classify(NEW) == NEW_LABELS)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_probabilities_are_calibrated_on_new_points(kind):
    """The mean probability of the true class and of being right differ by less than 4 standard
    errors (500 points): false-alarm rate 1e-4, for calibration from 60 points an allowance of
    0.05."""
    classifier = dkp.calibrate(posterior(kind))
    probabilities = classifier.probabilities(NEW)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    confidence, right = probabilities.max(1), classifier.classify(NEW) == NEW_LABELS
    assert (
        abs(confidence.mean() - right.mean()) < 4 * np.std(right - confidence) / np.sqrt(500) + 0.05
    )
    assert classifier.log_density_of(NEW, NEW_LABELS).mean() > np.log(1 / 3) + 0.25


def test_leave_one_out_scores_are_those_of_retraining():
    loo = posterior().leave_one_out_mean()
    for n in (0, 7):
        others = np.delete(np.arange(60), n)
        kernel = dkp.nngp_kernel(MODEL, np.asarray(data().x)) + posterior().ridge * np.eye(60)
        weights = np.linalg.solve(kernel[np.ix_(others, others)], np.asarray(data().y)[others])
        np.testing.assert_allclose(loo[n], kernel[n, others] @ weights, rtol=1e-8, atol=1e-10)


def test_the_regularisation_with_the_best_held_out_density_is_kept():
    grid = [1e-6, 1e-3, 0.1, 1e3]
    chosen = dkp.calibrate(posterior(), diag_reg=grid)
    each = [dkp.calibrate(posterior().with_diag_reg(value)).log_density for value in grid]
    assert chosen.diag_reg == grid[int(np.argmax(each))] == chosen.posterior.diag_reg
    np.testing.assert_allclose(chosen.log_density, max(each), rtol=1e-9)


@pytest.mark.parametrize("time", [0.05, 1.0, 20.0])
def test_temperatures_of_finite_times_are_those_of_retraining(time):
    flow = dkp.gradient_flow(MODEL, data(), time=time)
    x, y = np.asarray(data().x), np.asarray(data().y)
    theta, index = dkp.ntk_kernel(MODEL, x), y.argmax(1)
    means = np.empty_like(y)
    for n in range(60):
        others = np.delete(np.arange(60), n)
        values, vectors = np.linalg.eigh(theta[np.ix_(others, others)])
        means[n] = (
            theta[n, others]
            @ (vectors * -np.expm1(-values * time) / values)
            @ (vectors.T @ y[others])
        )
    log_densities = special.log_softmax(means / dkp.calibrate(flow).temperature, axis=1)[
        np.arange(60), index
    ]
    np.testing.assert_allclose(dkp.calibrate(flow).log_density, log_densities.mean(), rtol=1e-7)


def test_separated_classes_have_a_temperature():
    """Two clusters: the held-out labels alone would want temperature 0, one more observation of
    either label does not."""
    x = np.concatenate([RNG.normal(-4, 0.3, size=(20, 1)), RNG.normal(4, 0.3, size=(20, 1))])
    separated = dkp.Dataset.from_labels(x, np.repeat([False, True], 20))
    classifier = dkp.calibrate(dkp.condition(MODEL, separated))
    assert classifier.temperature > 0.05 and classifier.classes == (False, True)
    assert 0.9 < classifier.probabilities(x)[:20, 0].mean() < 0.9999
    assert abs(classifier.probabilities([[0.0]])[0, 0] - 0.5) < 0.2


def test_an_ensemble_of_identical_copies_is_its_member():
    same = dkp.fit_augmented(
        lambda d: dkp.condition(MODEL, d, diag_reg=0.02), data(), lambda key, x: x, key=KEY
    )
    assert isinstance(same, dkp.AugmentedPosterior)
    assert len(same.members) == 4 and same.summary()["members"] == 4
    a, b = dkp.calibrate(same), dkp.calibrate(posterior())
    np.testing.assert_allclose(a.probabilities(NEW), b.probabilities(NEW), rtol=1e-5)


def test_an_ensemble_averages_the_predictors():
    """Against the formula with explicit matrices."""

    def jitter(key, x):
        return x + 0.1 * jax.random.normal(key, x.shape, x.dtype)

    many = dkp.fit_augmented(lambda d: dkp.condition(MODEL, d), data(), jitter, key=KEY, copies=3)
    new = data().standardize_inputs(NEW[:5])
    expected = 0
    for b in range(3):
        x = data().x if b == 0 else jitter(jax.random.fold_in(KEY, b), data().x)
        gram = dkp.nngp_kernel(MODEL, x) + 0.09 * np.eye(60)
        expected += dkp.nngp_kernel(MODEL, new, x) @ np.linalg.solve(gram, np.asarray(data().y)) / 3
    prediction = dkp.predict(many, NEW[:5], key=KEY)
    np.testing.assert_allclose(prediction.mean, expected, rtol=1e-8, atol=1e-10)
    assert prediction.latent_mean.shape == (3, 5, 3) and np.all(prediction.variance > 0)
    loo = np.mean([m.leave_one_out()[0] for m in many.members], axis=0)
    np.testing.assert_allclose(many.leave_one_out_mean(), loo, rtol=1e-10)
    np.testing.assert_allclose(many.latent_mean(new, 2), expected, rtol=1e-8, atol=1e-10)


def test_members_keep_their_own_learned_noise():
    learned = MODEL.replace(likelihood=likelihoods.Gaussian())

    def jitter(key, x):
        return x + jax.random.normal(key, x.shape, x.dtype)

    many = dkp.fit_augmented(
        lambda d: dkp.gradient_flow(learned, d), data(), jitter, key=KEY, copies=3
    )
    noise = [float(member.values["likelihood.noise"]) for member in many.members]
    prediction = dkp.predict(many, NEW[:4], key=KEY)
    own = np.mean(
        np.asarray(prediction.latent_variance) + np.array(noise)[:, None, None] ** 2, axis=0
    )
    np.testing.assert_allclose(
        prediction.variance, own + np.var(np.asarray(prediction.latent_mean), axis=0), rtol=1e-9
    )
    assert len(set(noise)) == 3


def test_images_by_convolutions():
    """Bars against columns, 3 by 3 pixels, under noise."""
    labels = RNG.integers(0, 2, 80)
    images = np.where(
        labels[:, None, None] == 1, np.eye(3)[1][None, :, None], np.eye(3)[1][None, None]
    )
    images = (images + 0.4 * RNG.normal(size=(80, 3, 3)))[..., None]
    layers = [
        kernels.Conv(3, weight_var=2.0, bias_var=0.1),
        kernels.ReLU(),
        kernels.GlobalAvgPool(),
        kernels.Affine(),
    ]
    model = dkp.DeepKernelProcess(layers=layers, likelihood=likelihoods.Gaussian(noise=0.1))
    classifier = dkp.calibrate(
        dkp.condition(model, dkp.Dataset.from_labels(images[:50], labels[:50]))
    )
    assert np.mean(classifier.classify(images[50:]) == labels[50:]) > 0.85
    augmented = dkp.fit_augmented(
        lambda d: dkp.gradient_flow(model, d, diag_reg=0.1),
        dkp.Dataset.from_labels(images[:50], labels[:50]),
        dkp.preprocessing.random_flips,
        key=KEY,
        copies=2,
    )
    assert np.mean(dkp.calibrate(augmented).classify(images[50:]) == labels[50:]) > 0.85


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dkp.Dataset.from_labels(X, ["a"] * 60), "two classes"),
        (lambda: dkp.Dataset.from_labels(X, LABELS[:, None]), "labels of shape"),
        (lambda: dkp.Dataset.from_labels(X, LABELS[:5]), "equally many rows"),
        (lambda: dkp.Dataset.from_labels(X, [None, *LABELS[1:]]), "1 that are missing"),
        (lambda: dkp.Dataset.from_labels(X, np.where(X[:, 0] > 0, np.nan, 1.0)), "missing"),
        (
            lambda: dkp.calibrate(posterior(), validation=(NEW, pd.Series(["other"] * 500))),
            "Got 'other'",
        ),
        (
            lambda: dkp.fit_augmented(lambda d: MODEL, data(), lambda k, x: x, key=KEY),
            "fit to return",
        ),
        (lambda: dkp.calibrate(posterior(), diag_reg=[]), "at least one"),
        (lambda: dkp.calibrate(posterior(), diag_reg=[-1.0]), "diag_reg"),
        (lambda: dkp.calibrate(posterior(), validation=(NEW, NEW_LABELS[:3])), "equally many rows"),
        (lambda: dkp.calibrate(posterior(), validation=(NEW, np.full(500, "other"))), "among"),
        (lambda: dkp.calibrate(MODEL), "posterior of"),
        (
            lambda: dkp.calibrate(dkp.condition(MODEL, dkp.Dataset.from_arrays(X, X[:, 0]))),
            "from_labels",
        ),
        (lambda: dkp.calibrate(posterior()).log_density_of(NEW, ["low"]), "equally many rows"),
        (
            lambda: dkp.fit_augmented(lambda d: posterior(), data(), lambda k, x: x[:3], key=KEY),
            "keep shape",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match="Expected .*Got ") as caught:
        call()
    assert message in str(caught.value)
