"""First-order posterior shifts against exact posteriors of wide networks and against prior
covariances."""

import numpy as np
import pytest
from scipy import stats

from dkp.theory import deep_linear, representation_shift

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(3, 4)), RNG.normal(size=(3, 2))
GXX, GYY, BETA = X @ X.T / 4, Y @ Y.T / 2, 2.0


def slope(kernel, gyy, n_outputs):
    """Of the log-likelihood in the outputs' kernel."""
    gamma = np.linalg.inv(kernel + np.eye(len(kernel)) / BETA)
    return n_outputs / 2 * gamma @ (gyy - np.linalg.inv(gamma)) @ gamma


def test_one_wide_layer_by_importance_sampling():
    """The prior of K_1, weighted by the likelihood; the first-order shift is right to 15% at width
    100."""
    width, n = 100, 200_000
    draws = stats.wishart(width, GXX / width).rvs(n, random_state=np.random.default_rng(1))
    covariance = draws + np.eye(3) / BETA
    log_weight = (
        -(
            2 * np.linalg.slogdet(covariance)[1]
            + 2 * np.einsum("ij,nji->n", GYY, np.linalg.inv(covariance))
        )
        / 2
    )
    weight = np.exp(log_weight - log_weight.max())
    exact = np.einsum("n,nij->ij", weight / weight.sum(), draws) - GXX
    control = draws.mean(axis=0) - GXX  # the prior's mean is known
    predicted = representation_shift.posterior_grams(GXX, GYY, [width], 2, BETA)[0] - GXX
    assert np.linalg.norm(exact - control - predicted) < 0.15 * np.linalg.norm(predicted)


def test_deep_shift_is_the_prior_covariance_times_the_slope():
    widths = [3 * 10**6, 10**6, 2 * 10**6]
    found = representation_shift.posterior_grams(GXX, GYY, widths, 2, BETA)
    for layer in range(3):
        covariance = deep_linear.gram_moments(GXX, widths[: layer + 1])[1]
        expected = np.einsum("ijkl,kl->ij", covariance, slope(GXX, GYY, 2))
        np.testing.assert_allclose(found[layer] - GXX, expected, rtol=1e-4, atol=1e-13)


def conv_case():
    features = np.random.default_rng(3).normal(size=(8, 5))
    return (features @ features.T / 5).reshape(2, 4, 2, 4), GYY[:2, :2]


@pytest.mark.parametrize("filter_size", [2, 3])
def test_convolutional_shift_is_the_prior_covariance_times_the_slope(filter_size):
    k0, gyy = conv_case()
    widths = [2 * 10**6, 10**6]
    found = representation_shift.conv_posterior_grams(k0, gyy, widths, 2, BETA, filter_size)
    mean, covariance = deep_linear.conv_gram_moments(k0, widths, filter_size)
    outputs = np.einsum("irjr->ij", mean) / 4
    expected = np.einsum("irjskqlq,kl->irjs", covariance, slope(outputs, gyy, 2)) / 4
    np.testing.assert_allclose(found[1] - mean, expected, rtol=1e-4, atol=1e-13)
    # of the first layer, whose mean after the second is what the outputs see
    mean, covariance = deep_linear.conv_gram_moments(k0, widths[:1], filter_size)
    offsets = np.arange(filter_size) - (filter_size - 1) // 2
    seen = sum(np.roll(covariance, (-d, -d), axis=(5, 7)) for d in offsets) / filter_size
    expected = np.einsum("irjskqlq,kl->irjs", seen, slope(outputs, gyy, 2)) / 4
    np.testing.assert_allclose(found[0] - mean, expected, rtol=1e-4, atol=1e-13)


def test_convolutions_of_one_location_are_dense_layers():
    dense = representation_shift.posterior_grams(GXX, GYY, [5, 7], 2, BETA)
    conv = representation_shift.conv_posterior_grams(GXX[:, None, :, None], GYY, [5, 7], 2, BETA, 1)
    np.testing.assert_allclose(conv[:, :, 0, :, 0], dense, rtol=1e-10)


def test_without_noise_it_agrees_with_few_outputs():
    found = representation_shift.posterior_grams(GXX, GYY, [1000], 1, 1e12)[0]
    np.testing.assert_allclose(found, deep_linear.few_outputs(GXX, GYY, 1000, 1), atol=1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: representation_shift.posterior_grams(GXX, GYY[:2, :2], [3], 2, 1.0), "one shape"),
        (
            lambda: representation_shift.posterior_grams(-GXX, GYY, [3], 2, 1.0),
            "positive semi-definite",
        ),
        (lambda: representation_shift.posterior_grams(GXX, GYY, [0], 2, 1.0), "positive integers"),
        (lambda: representation_shift.posterior_grams(GXX, GYY, [3], 0, 1.0), "n_outputs"),
        (lambda: representation_shift.posterior_grams(GXX, GYY, [3], 2, 0.0), "beta"),
        (lambda: representation_shift.conv_posterior_grams(GXX, GYY, [3], 2, 1.0, 1), "shape"),
    ],
)
@pytest.mark.usefixtures("_unchecked")
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
