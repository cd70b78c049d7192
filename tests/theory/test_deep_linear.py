"""Deep linear networks: moments against real weight products, recursions against brute force,
posteriors against their own equations, Markov chains and trained weights.

Monte Carlo comparisons use fixed seeds and |z| < 4.5: a false-alarm rate of 7e-6 a comparison over
seeds."""

import numpy as np
import pytest
from scipy import linalg, optimize

from dkp.theory import deep_linear
from dkp.theory.matrix_gig import hidden_gram_posterior

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4))
K0 = X @ X.T / 4
TARGET = (
    K0 + np.outer(RNG.normal(size=3), np.ones(3)) @ np.outer(np.ones(3), RNG.normal(size=3)) * 0
)
Y = RNG.normal(size=(3, 5))
TARGET = Y @ Y.T / 5


def weight_products(widths, n, seed=0):
    """Gram matrices of real networks, (n, P, P)."""
    rng, f = np.random.default_rng(seed), np.broadcast_to(X / 2, (n, *X.shape))
    for i, width in enumerate(widths):
        fan_in = 1 if i == 0 else f.shape[-1]
        f = f @ rng.normal(size=(n, f.shape[-1], width)) / np.sqrt(fan_in)
    return f @ f.swapaxes(1, 2) / f.shape[-1]


@pytest.mark.parametrize("widths", [(5,), (5, 8, 4), (20, 30, 10), (1, 2)])
def test_moments_are_those_of_real_networks(widths):
    n = 100_000
    draws = weight_products(widths, n)
    mean, covariance = deep_linear.gram_moments(K0, widths)
    flat = draws.reshape(n, 9)
    error = flat.std(axis=0) / np.sqrt(n)
    assert np.abs((flat.mean(axis=0) - mean.ravel()) / error).max() < 4.5
    products = np.einsum("na,nb->nab", flat - mean.ravel(), flat - mean.ravel())
    z = (products.mean(axis=0) - covariance.reshape(9, 9)) / (products.std(axis=0) / np.sqrt(n))
    assert np.abs(z).max() < 4.5


def test_moments_of_one_layer_are_the_wishart_laws():
    covariance = deep_linear.gram_moments(K0, [7])[1]
    np.testing.assert_allclose(np.einsum("iiii->i", covariance), 2 * np.diag(K0) ** 2 / 7)
    np.testing.assert_allclose(covariance, deep_linear.gram_moments_leading_order(K0, [7])[1])


def test_the_leading_order_is_a_limit():
    wide = [10**6, 2 * 10**6]
    exact, leading = (
        f(K0, wide)[1] for f in (deep_linear.gram_moments, deep_linear.gram_moments_leading_order)
    )
    np.testing.assert_allclose(leading, exact, rtol=1e-5)
    exact, leading = (
        f(K0, [5, 8, 4])[1]
        for f in (deep_linear.gram_moments, deep_linear.gram_moments_leading_order)
    )
    assert leading[0, 0, 0, 0] < 0.75 * exact[0, 0, 0, 0]  # and no more than that


def conv_products(k0, widths, filter_size, shared, n, seed=0):
    """Gram matrices (n, P, S, P, S) of real linear networks of convolutions on a circle."""
    rng = np.random.default_rng(seed)
    p, s = k0.shape[:2]
    root = np.linalg.cholesky(k0.reshape(p * s, p * s) + 1e-12 * np.eye(p * s))
    f = np.broadcast_to(root.reshape(p, s, -1), (n, p, s, p * s))
    offsets, norm = np.arange(filter_size) - (filter_size - 1) // 2, 1.0
    for width in widths:
        patches = np.stack([np.roll(f, -d, axis=2) for d in offsets], axis=3).reshape(n, p, s, -1)
        shape = (n, 1 if shared else s, patches.shape[-1], width)
        weights = np.broadcast_to(rng.normal(size=shape), (n, s, *shape[2:]))
        f = np.einsum("npsc,nscw->npsw", patches, weights) / np.sqrt(filter_size * norm)
        norm = width
    return np.einsum("npsw,nqtw->npsqt", f, f) / norm


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("widths", "filter_size"), [((4,), 3), ((3, 5), 2)])
def test_convolutional_moments_are_those_of_real_networks(widths, filter_size, shared):
    n, p, s = 40_000, 2, 4
    features = np.random.default_rng(1).normal(size=(p * s, 5))
    k0 = (features @ features.T / 5).reshape(p, s, p, s)
    flat = conv_products(k0, widths, filter_size, shared, n).reshape(n, -1)
    mean, covariance = deep_linear.conv_gram_moments(k0, widths, filter_size, shared=shared)
    spread = flat.std(axis=0) / np.sqrt(n)
    always = spread < 1e-12
    np.testing.assert_allclose(flat.mean(axis=0)[always], mean.ravel()[always], atol=1e-10)
    assert np.abs((flat.mean(axis=0) - mean.ravel())[~always] / spread[~always]).max() < 4.5
    deviation = flat - mean.ravel()
    pairs = np.random.default_rng(2).integers(0, flat.shape[1], (300, 2))
    for a, b in pairs:
        products = deviation[:, a] * deviation[:, b]
        error = max(products.std() / np.sqrt(n), 1e-12)
        assert abs(products.mean() - covariance.reshape(flat.shape[1], -1)[a, b]) < 5 * error


def test_convolutions_of_one_location_are_dense_layers():
    mean, covariance = deep_linear.conv_gram_moments(K0[:, None, :, None], [5, 8], 1)
    dense = deep_linear.gram_moments(K0, [5, 8])
    np.testing.assert_allclose(mean[:, 0, :, 0], dense[0])
    np.testing.assert_allclose(covariance[:, 0, :, 0, :, 0, :, 0], dense[1], atol=1e-12)


def test_dense_layers_vary_more_than_convolutions_and_these_more_than_local_ones():
    """The order of the paper, for the kernel that is averaged over locations."""
    features = np.random.default_rng(1).normal(size=(12, 5))
    k0 = (features @ features.T / 5).reshape(2, 6, 2, 6)
    average = np.einsum("irjr->ij", k0) / 6
    found = [deep_linear.gram_moments(average, [4, 4])[1][0, 0, 0, 0]]
    for shared in (True, False):
        covariance = deep_linear.conv_gram_moments(k0, [4, 4], 3, shared=shared)[1]
        found.append(np.einsum("irjrksls->ijkl", covariance)[0, 0, 0, 0] / 36)
    assert found[0] > found[1] > found[2]


# --- the posterior --------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [(3.0, 3.0), (1.0, 2.0, 4.0, 0.5), (100.0, 7.0, 30.0)])
def test_posterior_grams_satisfy_their_equation(widths):
    grams = deep_linear.posterior_grams(K0, TARGET, widths).grams
    chain = [K0, *grams, TARGET]
    rates = [
        n * (np.linalg.solve(a, b) - np.eye(3))
        for n, a, b in zip(widths, chain[:-1], chain[1:], strict=True)
    ]
    for rate in rates[1:]:
        np.testing.assert_allclose(rate, rates[0], atol=1e-8 * np.abs(rates[0]).max())


def test_posterior_grams_maximise_the_joint():
    widths = (2.0, 5.0, 3.0)
    best = deep_linear.posterior_grams(K0, TARGET, widths).grams
    height = deep_linear.log_joint(K0, best, TARGET, widths)
    rng = np.random.default_rng(0)
    for _ in range(20):
        direction = rng.normal(size=best.shape)
        direction = direction + direction.swapaxes(1, 2)
        h = 1e-4
        up, down = (
            deep_linear.log_joint(K0, best + t * direction, TARGET, widths) for t in (h, -h)
        )
        assert up < height and down < height
        assert abs(up - down) / (2 * h) < 1e-3 * max(1, abs(height))


def test_equal_widths_interpolate_geometrically():
    general = deep_linear.posterior_grams(K0, TARGET, [4.0] * 4).grams
    special = deep_linear.geometric_interpolation(K0, TARGET, 3).grams
    np.testing.assert_allclose(general, special, atol=1e-10)
    power = linalg.fractional_matrix_power(np.linalg.solve(K0, TARGET), 0.25)
    np.testing.assert_allclose(special[0], K0 @ power, atol=1e-8)


def test_one_hidden_layer_is_the_mean_of_the_exact_posterior_when_wide():
    errors = []
    for n in (8, 400):
        mean = (
            hidden_gram_posterior(K0 + 0.1 * np.eye(3), TARGET + 0.1 * np.eye(3), n, n)
            .mean(seed=0, n=3000)
            .mean
        )
        geometric = deep_linear.geometric_interpolation(
            K0 + 0.1 * np.eye(3), TARGET + 0.1 * np.eye(3), 1
        ).grams[0]
        errors.append(np.linalg.norm(mean - geometric) / np.linalg.norm(geometric))
    assert errors[1] < 0.02 and errors[0] > 5 * errors[1]


def test_few_outputs_barely_move_the_representation():
    exact = deep_linear.posterior_grams(K0, TARGET, [1000.0, 1.0]).grams[0]
    first_order = deep_linear.few_outputs(K0, TARGET, 1000, 1)
    assert np.abs(exact - first_order).max() < 0.05 * np.abs(exact - K0).max()


def test_small_weights_that_fit_have_these_grams():
    """Three layers of weights, L-BFGS, a decay of 1e-6."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 5)), rng.normal(size=(3, 2))
    shapes = [(5, 6), (6, 4), (4, 2)]
    sizes = np.cumsum([0, *(a * b for a, b in shapes)])

    def unpack(theta):
        return [
            theta[i:j].reshape(s) for i, j, s in zip(sizes[:-1], sizes[1:], shapes, strict=True)
        ]

    def loss(theta, decay=1e-6):
        u, v, w = unpack(theta)
        f1, f2 = x @ u, x @ u @ v
        residual = f2 @ w - y
        slopes = [x.T @ residual @ w.T @ v.T, f1.T @ residual @ w.T, f2.T @ residual]
        return (residual**2).sum() / 2 + decay * theta @ theta / 2, np.concatenate(
            [g.ravel() for g in slopes]
        ) + decay * theta

    theta = optimize.minimize(
        loss, 0.3 * rng.normal(size=sizes[-1]), jac=True, method="L-BFGS-B",
        options={"maxiter": 50_000, "maxfun": 100_000, "ftol": 1e-18, "gtol": 1e-12},
    ).x  # fmt: skip
    u, v, _ = unpack(theta)
    predicted = deep_linear.weight_decay_grams(x @ x.T, y @ y.T, 2).grams
    for features, gram in zip((x @ u, x @ u @ v), predicted, strict=True):
        assert np.linalg.norm(features @ features.T - gram) < 5e-3 * np.linalg.norm(gram)


def test_targets_outside_of_the_range_of_the_inputs_are_left_out_and_said():
    thin = np.outer([1.0, 2.0, 0.0], [1.0, 2.0, 0.0])
    found = deep_linear.geometric_interpolation(thin, np.eye(3), 1)
    assert found.outside == pytest.approx(2 / 3)
    np.testing.assert_allclose(found.grams[0] @ [0.0, 0.0, 1.0], 0, atol=1e-12)
    assert deep_linear.geometric_interpolation(K0, TARGET, 1).outside < 1e-12


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: deep_linear.gram_moments(np.diag([1.0, -1.0]), [2]), "positive semi-definite"),
        (lambda: deep_linear.gram_moments(np.array([[1.0, 2.0], [0.0, 1.0]]), [2]), "symmetric"),
        (lambda: deep_linear.gram_moments(K0, [2, 0]), "positive integers"),
        (lambda: deep_linear.gram_moments(K0, [2.5]), "positive integers"),
        (lambda: deep_linear.gram_moments(K0, []), "at least one"),
        (lambda: deep_linear.gram_moments(np.full((2, 2), np.nan), [2]), "k0"),
        (lambda: deep_linear.posterior_grams(K0, np.eye(2), [1.0, 1.0]), "one shape"),
        (
            lambda: deep_linear.posterior_grams(np.zeros((3, 3)), TARGET, [1.0, 1.0]),
            "other than zero",
        ),
        (lambda: deep_linear.posterior_grams(K0, TARGET, [1.0, -1.0]), "positive numbers"),
        (lambda: deep_linear.log_joint(K0, TARGET[None], TARGET, [1.0]), "Expected 2 widths"),
        (lambda: deep_linear.log_joint(K0, np.zeros((1, 3, 3)), TARGET, [1.0, 1.0]), "singular"),
        (
            lambda: deep_linear.conv_gram_moments(K0[:, None, :, None], [2], 2),
            "filter_size of at most 1",
        ),
        (lambda: deep_linear.conv_gram_moments(np.ones((2, 1, 1, 2)), [2], 1), "shape"),
        (lambda: deep_linear.few_outputs(K0, TARGET, 0, 1), "positive numbers"),
    ],
)
@pytest.mark.usefixtures("_unchecked")
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
