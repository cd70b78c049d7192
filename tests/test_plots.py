"""Figures hold the numbers that they show."""

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest

import dkp
from dkp import kernels, likelihoods, plots
from dkp.diagnostics.grams import GramDraws

RNG = np.random.default_rng(8)
X = RNG.uniform(-2, 2, 20)
Y = 10 * np.sin(X) + RNG.normal(size=20)


@pytest.fixture(scope="module")
def prediction():
    """Of a Gaussian process at its own inputs, which are in no order."""
    model = dkp.DeepKernelProcess(
        layers=[kernels.Linear(), kernels.SquaredExponential(lengthscale=1.0, variance=1.0)],
        likelihood=likelihoods.Gaussian(noise=0.3),
    )
    posterior = dkp.condition(model, dkp.Dataset.from_arrays(X, Y))
    return dkp.predict(posterior, X[:, None], key=jax.random.key(0))


@pytest.fixture
def axes():
    figure, axes = plt.subplots(2, 2, squeeze=False)
    yield axes
    plt.close(figure)


def test_band_shows_mean_and_quantiles_in_the_order_of_x(axes, prediction):
    ax = plots.band(axes[0, 0], X[:, None], prediction, level=0.8, label="gp")
    order = np.argsort(X)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), np.stack([X, prediction.mean], 1)[order])
    edges = ax.collections[0].get_paths()[0].vertices
    for bound in prediction.quantile([0.1, 0.9]):
        points = np.stack([X, bound], 1)
        np.testing.assert_allclose(
            np.abs(points[:, None] - edges[None]).sum(-1).min(1), 0, atol=1e-9
        )


def test_band_refuses_several_features(axes, prediction):
    with pytest.raises(ValueError, match="one feature"):
        plots.band(axes[0, 0], np.stack([X, X], 1), prediction)
    with pytest.raises(ValueError, match="equally many rows"):
        plots.band(axes[0, 0], X[1:], prediction)


def test_observed_against_predicted_has_intervals_and_the_diagonal(axes, prediction):
    ax = plots.observed_against_predicted(axes[0, 0], prediction, Y, level=0.5)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), np.stack([prediction.mean, Y], 1))
    segments = np.array(ax.containers[0].lines[2][0].get_segments())
    np.testing.assert_allclose(segments[:, :, 0].T, prediction.quantile([0.25, 0.75]))
    assert ax.lines[1].get_slope() == 1


def test_coverage_of_calibrated_draws_is_nominal():
    """4,000 observations of the law that the draws have: binomial errors of at most 0.0079; beyond
    4.5 of them: odds 4e-5."""
    draws = RNG.normal(size=(101, 4000))
    levels = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
    got = plots.coverage_curve(draws, RNG.normal(size=4000), levels)
    # Places are multiples of 1 / 102: the probability of each level is known exactly.
    place = (np.arange(102) + 0.5) / 102
    truth = np.mean(2 * np.abs(place - 0.5)[None] <= levels[:, None], axis=1)
    assert np.all(np.abs(got - truth) < 4.5 * np.sqrt(truth * (1 - truth) / 4000))


def test_coverage_of_overconfident_draws_is_too_small():
    draws = RNG.normal(size=(101, 1000)) / 4
    assert plots.coverage_curve(draws, RNG.normal(size=1000), [0.9])[0] < 0.5


def test_calibration_shows_the_coverage(axes, prediction):
    ax = plots.calibration(axes[0, 0], prediction, Y)
    levels, shown = ax.lines[1].get_data()
    np.testing.assert_allclose(shown, plots.coverage_curve(prediction.samples, Y, levels))


def test_elbo_trace_shows_the_trace(axes):
    trace = np.linspace(-3, -1, 10)
    ax = plots.elbo_trace(axes[0, 0], trace, skip=0.2)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), np.stack([np.arange(3, 11), trace[2:]], 1))


def test_elbo_trace_of_a_run_that_was_stopped_at_once(axes):
    assert plots.elbo_trace(axes[0, 0], np.zeros(0)).lines[0].get_xydata().size == 0


def test_gram_matrices_are_posterior_means_on_one_scale(axes):
    learned, fixed = ((RNG.normal(size=(3, 4, 4)), RNG.normal(size=(3, 4, 4))) for _ in range(2))
    order = [2, 0, 3, 1]
    plots.gram_matrices(axes, GramDraws(learned=learned, fixed=fixed), order=order)
    for row, grams in enumerate((learned, fixed)):
        for layer, gram in enumerate(grams):
            image = axes[row, layer].images[0]
            np.testing.assert_allclose(image.get_array(), gram.mean(0)[order][:, order])
            assert image.get_clim() == axes[1 - row, layer].images[0].get_clim()


def test_gram_matrices_need_axes_of_their_shape(axes):
    with pytest.raises(ValueError, match=r"shape \(2, 1\)"):
        plots.gram_matrices(
            axes, GramDraws(learned=(np.ones((1, 2, 2)),), fixed=(np.ones((1, 2, 2)),))
        )


def test_overview_can_be_saved(prediction, tmp_path):
    plots.overview(prediction, Y, np.arange(5.0)).savefig(tmp_path / "figure.png", dpi=40)
    height, width, _ = plt.imread(tmp_path / "figure.png").shape
    assert (width, height) == (480, 160)


def test_reliability_shows_accuracy_against_confidence(axes):
    """Two bins, by hand: confidences 0.6 and 0.7 (one right of two), and 0.95 (right)."""
    probabilities = np.array([[0.6, 0.4], [0.3, 0.7], [0.95, 0.05]])
    ax = plots.reliability(axes[0, 0], np.array([0, 0, 0]), probabilities, bins=4)
    np.testing.assert_allclose(ax.lines[1].get_xydata(), [[0.65, 0.5], [0.95, 1.0]])
    assert ax.collections[0].get_sizes()[0] > ax.collections[0].get_sizes()[1]
    with pytest.raises(ValueError, match="labels"):
        plots.reliability(axes[0, 0], np.array([0, 0]), probabilities)
