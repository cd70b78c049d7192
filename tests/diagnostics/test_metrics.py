import numpy as np
import pytest
import sklearn.metrics
from scipy import integrate, stats

from dkp.diagnostics import metrics

RNG = np.random.default_rng(3)
Y = RNG.normal(size=(30, 2)) * np.array([1.0, 10.0])
P = Y + RNG.normal(size=(30, 2))


def gaussian_crps(y, mean, scale):
    """Gneiting and Raftery (2007), equation 21."""
    z = (y - mean) / scale
    return scale * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))


def integrated_crps(y, cdf):
    """The definition, integral of (F(t) - 1[t >= y])² dt."""
    below = integrate.quad(lambda t: cdf(t) ** 2, -40, y, points=[y - 1], limit=400)[0]
    return below + integrate.quad(lambda t: (1 - cdf(t)) ** 2, y, 40, points=[y + 1], limit=400)[0]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (metrics.rmse, sklearn.metrics.root_mean_squared_error),
        (metrics.mae, sklearn.metrics.mean_absolute_error),
    ],
)
def test_point_scores_agree_with_scikit_learn(ours, theirs):
    np.testing.assert_allclose(ours(Y, P), theirs(Y, P, multioutput="raw_values"))
    np.testing.assert_allclose(ours(Y[:, 0], P[:, 0]), theirs(Y[:, 0], P[:, 0]))


def test_mean_log_density_agrees_with_scipy():
    values = RNG.normal(size=17)
    found = metrics.mean_log_density(values)
    np.testing.assert_allclose(found, (values.mean(), stats.sem(values)))


def test_a_density_of_zero_is_a_score():
    found = metrics.mean_log_density([0.0, -np.inf])
    assert found.mean == -np.inf
    assert np.isnan(found.standard_error)


@pytest.mark.parametrize("bad", [[1.0], [[1.0, 2.0]], [0.0, np.nan], [0.0, np.inf]])
def test_mean_log_density_refuses(bad):
    with pytest.raises(ValueError, match="Expected log_density to be at least two numbers"):
        metrics.mean_log_density(bad)


@pytest.mark.parametrize("fair", [True, False])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_crps_of_draws_agrees_with_all_pairs(fair, offset):
    samples = RNG.normal(size=(9, 30, 2))
    pairs = np.abs(samples[:, None] - samples[None]).sum(axis=(0, 1)) / (9 * 8 if fair else 81)
    truth = np.abs(samples - Y).mean(axis=0) - 0.5 * pairs
    np.testing.assert_allclose(
        metrics.crps(Y + offset, samples + offset, fair=fair), truth, atol=1e-15 * (1 + offset) * 10
    )
    np.testing.assert_allclose(metrics.crps(Y[:, 0], samples[:, :, 0], fair=fair), truth[:, 0])


def test_crps_of_draws_is_that_of_their_empirical_distribution():
    samples = RNG.normal(size=6)
    truth = integrated_crps_of_steps(0.3, samples)
    np.testing.assert_allclose(metrics.crps([0.3], samples[:, None], fair=False), [truth])


def integrated_crps_of_steps(y, samples):
    knots = np.sort(np.append(samples, y))
    middle = (knots[1:] + knots[:-1]) / 2
    cdf = (samples[:, None] <= middle[None]).mean(axis=0)
    return np.sum((cdf - (middle >= y)) ** 2 * np.diff(knots))


def test_fair_crps_is_unbiased_with_few_draws():
    """z-score over 20,000 repetitions, fixed seed; |z| > 4 has probability 6e-5 under
    unbiasedness."""
    rng = np.random.default_rng(5)
    n = 20_000
    y, samples = np.full(n, 0.7), rng.normal(size=(3, n))
    truth = gaussian_crps(0.7, 0.0, 1.0)
    fair, plain = metrics.crps(y, samples), metrics.crps(y, samples, fair=False)
    z = [(s.mean() - truth) / stats.sem(s) for s in (fair, plain)]
    assert abs(z[0]) < 4
    assert z[1] > 10  # the other form is biased upwards, and this test sees it


def test_one_component_is_the_gaussian_closed_form():
    scale = RNG.uniform(0.1, 3.0, size=Y.shape)
    np.testing.assert_allclose(
        metrics.crps_gaussian_mixture(Y, P[None], scale[None]),
        gaussian_crps(Y, P, scale),
        rtol=1e-10,
    )


def test_equal_components_are_one_component():
    scale = np.ones((4, 30))
    mean = np.tile(P[None, :, 0], (4, 1))
    np.testing.assert_allclose(
        metrics.crps_gaussian_mixture(Y[:, 0], mean, scale),
        gaussian_crps(Y[:, 0], P[:, 0], 1.0),
        rtol=1e-10,
    )


def test_mixture_agrees_with_quadrature():
    mean, scale, y = (
        np.array([-2.0, 0.5, 3.0]),
        np.array([0.5, 1.0, 2.0]),
        np.array([-4.0, 0.0, 2.5]),
    )
    truth = [integrated_crps(v, lambda t: stats.norm.cdf(t, mean, scale).mean()) for v in y]
    columns = np.tile(mean[:, None], (1, 3)), np.tile(scale[:, None], (1, 3))
    np.testing.assert_allclose(metrics.crps_gaussian_mixture(y, *columns), truth, rtol=1e-6)


def test_mixture_agrees_with_draws_from_it():
    """z-score of one average over 400 observations of the fair score; |z| > 4 has probability
    6e-5."""
    rng = np.random.default_rng(6)
    y = rng.normal(size=400)
    mean, scale = rng.normal(size=(3, 400)), rng.uniform(0.5, 2.0, size=(3, 400))
    component = rng.integers(3, size=(200, 400))
    draws = np.take_along_axis(mean, component, 0) + np.take_along_axis(
        scale, component, 0
    ) * rng.normal(size=(200, 400))
    difference = metrics.crps(y, draws) - metrics.crps_gaussian_mixture(y, mean, scale)
    assert abs(difference.mean() / stats.sem(difference)) < 4


def test_coverage_counts_and_includes_the_ends():
    lower, upper = np.zeros(5), np.ones(5)
    assert metrics.interval_coverage([-0.1, 0.0, 0.5, 1.0, 1.1], lower, upper) == 0.6
    both = metrics.interval_coverage(
        np.array([[0.5, 2.0], [3.0, 0.5]]), np.zeros((2, 2)), np.ones((2, 2))
    )
    np.testing.assert_array_equal(both, [0.5, 0.5])


def test_coverage_of_gaussian_intervals_is_nominal():
    """z-score of a binomial proportion, n = 10,000; |z| > 4 has probability 6e-5."""
    y = np.random.default_rng(7).normal(size=10_000)
    half = np.full(10_000, stats.norm.ppf(0.95))
    found = metrics.interval_coverage(y, -half, half)
    assert abs(found - 0.9) / np.sqrt(0.9 * 0.1 / 10_000) < 4


def test_width_is_the_mean_width():
    lower, upper = np.array([[0.0, 0.0], [1.0, 5.0]]), np.array([[1.0, 2.0], [4.0, 9.0]])
    np.testing.assert_array_equal(metrics.interval_width(lower, upper), [2.0, 3.0])
    assert metrics.interval_width(lower[:, 0], upper[:, 0]) == 2.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.rmse([1.0, 2.0], [1.0]), "Expected y and prediction to have one shape"),
        (lambda: metrics.mae([1.0, np.nan], [1.0, 2.0]), "Expected y to be finite"),
        (
            lambda: metrics.crps([1.0, 2.0], np.zeros((5, 3))),
            r"Expected samples to have shape \(S, 2\). Got \(5, 3\)",
        ),
        (lambda: metrics.crps([1.0, 2.0], np.zeros((1, 2))), "at least two draws"),
        (
            lambda: metrics.crps_gaussian_mixture([1.0], [[1.0]], [[0.0]]),
            "Expected scale to be positive",
        ),
        (
            lambda: metrics.crps_gaussian_mixture([1.0], [[1.0]], [[1.0], [1.0]]),
            "Expected mean and scale to have one shape",
        ),
        (lambda: metrics.interval_coverage([1.0], [2.0], [0.0]), "Expected lower <= upper"),
        (lambda: metrics.interval_width([1.0], [0.0]), "Expected lower <= upper"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- classes --------------------------------------------------------------------------------------

LABELS = RNG.integers(0, 3, 200)
PROBABILITIES = RNG.dirichlet([1.0, 2.0, 0.5], 200)


def test_scores_of_classes_agree_with_scikit_learn():
    assert metrics.accuracy(LABELS, PROBABILITIES) == sklearn.metrics.accuracy_score(
        LABELS, PROBABILITIES.argmax(axis=1)
    )
    np.testing.assert_allclose(
        metrics.mean_log_probability(LABELS, PROBABILITIES).mean,
        -sklearn.metrics.log_loss(LABELS, PROBABILITIES),
    )
    two = PROBABILITIES[:, :2] / PROBABILITIES[:, :2].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        metrics.brier_score(LABELS == 1, two),
        2 * sklearn.metrics.brier_score_loss(LABELS == 1, two[:, 1]),
    )
    by_hand = np.mean(
        [
            sum((p[k] - (k == y)) ** 2 for k in range(3))
            for p, y in zip(PROBABILITIES, LABELS, strict=True)
        ]
    )
    np.testing.assert_allclose(metrics.brier_score(LABELS, PROBABILITIES), by_hand)
    np.testing.assert_allclose(
        metrics.predictive_entropy(PROBABILITIES), [stats.entropy(p) for p in PROBABILITIES]
    )


def test_calibration_error_by_hand():
    """Two rows of confidence 0.9, one right; two of 0.6, both right; one that is sure and right, in
    the last bin."""
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.4, 0.6], [1.0, 0.0]])
    labels = np.array([0, 0, 0, 1, 0])
    expected = (2 * abs(0.5 - 0.9) + 2 * abs(1 - 0.6) + 0) / 5
    np.testing.assert_allclose(
        metrics.expected_calibration_error(labels, probabilities, bins=10), expected
    )
    np.testing.assert_allclose(
        metrics.expected_calibration_error(labels, probabilities, bins=1), abs(0.8 - 0.8)
    )
    found = metrics.reliability(labels, probabilities, bins=10)
    np.testing.assert_allclose(found.confidence, [0.6, 2.8 / 3])
    np.testing.assert_allclose(found.accuracy, [1, 2 / 3])
    np.testing.assert_allclose(found.share, [0.4, 0.6])


def test_calibrated_probabilities_have_little_calibration_error():
    """50,000 labels drawn from their probabilities: what is left is chance, about sqrt(15 / N) / 2
    = 0.009 at most."""
    probabilities = RNG.dirichlet([1.0, 1.0, 1.0], 50_000)
    labels = np.array((RNG.uniform(size=(50_000, 1)) > probabilities.cumsum(axis=1)).sum(axis=1))
    assert metrics.expected_calibration_error(labels, probabilities) < 0.01
    assert (
        metrics.expected_calibration_error(
            labels, probabilities**3 / (probabilities**3).sum(1, keepdims=True)
        )
        > 0.1
    )


def test_entropies_tell_what_lies_elsewhere():
    sure, unsure = np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([[0.5, 0.5], [0.85, 0.15]])
    assert metrics.out_of_distribution_auroc(sure, unsure) == 0.75
    assert metrics.out_of_distribution_auroc(sure, sure) == 0.5


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 3], [[0.5, 0.5], [0.5, 0.5]], "Expected labels to be integers from 0 to 1"),
        ([0.5, 1], [[0.5, 0.5], [0.5, 0.5]], "Expected labels to be integers from 0 to 1"),
        ([0, 1], [[0.5, 0.6], [0.5, 0.5]], "Expected rows of probabilities"),
        ([0, 1], [[1.5, -0.5], [0.5, 0.5]], "Expected rows of probabilities"),
        ([0], [[0.5, 0.5], [0.5, 0.5]], "labels"),
    ],
)
def test_what_are_no_classes(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        metrics.brier_score(labels, probabilities)
