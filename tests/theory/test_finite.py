"""Finite Bayesian networks: their prior against closed forms, their posterior against importance
sampling.

Monte Carlo comparisons use fixed seeds and |z| < 4.5: a false-alarm rate of 7e-6 a comparison over
seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dkp import kernels, nngp_kernel
from dkp.theory import deep_linear, finite
from dkp.theory.marginal_priors import OutputPrior

RNG = np.random.default_rng(0)
X, Y = jnp.asarray(RNG.normal(size=(4, 2))), jnp.asarray(RNG.normal(size=(4, 2)))
NOISE = 0.7
SMALL = finite.Network((3,), jnp.tanh, weight_var=1.5, bias_var=0.2)


def identity(a):
    return a


def target(network=SMALL, noise=NOISE):
    return finite.Repriorised(network, X, Y, noise)


# --- the prior ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "phi", "variance"), [("linear", identity, 1.0), ("relu", jax.nn.relu, 2.0)]
)
def test_outputs_have_the_exact_marginal_prior(activation, phi, variance):
    """At an input with |x|^2 / D = 1 and, for rectifiers, half of it, which their first layer would
    double."""
    x = jnp.sqrt(jnp.asarray([[2.0, 0.0]]) ** 2 / 2 * (1.0 if activation == "linear" else 0.5))
    network = finite.Network((4, 3), phi, weight_var=variance)
    draws = np.asarray(network.sample_outputs(jax.random.key(0), x, 100_000))[:, 0]
    scale = 1.0 if activation == "linear" else np.sqrt(variance * 0.25 * 2)
    prior, places = (
        OutputPrior([4, 3], activation, scale=float(scale)),
        scale * np.array([-2.0, -0.3, 0.05, 1.0]),
    )
    truth = prior.cdf(places)
    z = (np.mean(draws[:, None] <= places, axis=0) - truth) / np.sqrt(
        truth * (1 - truth) / len(draws)
    )
    assert np.abs(z).max() < 4.5


def test_grams_have_the_exact_moments():
    network = finite.Network((5, 8), identity)
    draws = np.asarray(network.sample_grams(jax.random.key(1), X, 50_000)[1])
    mean, covariance = deep_linear.gram_moments(np.asarray(X @ X.T / 2), [5, 8])
    error = draws.std(axis=0) / np.sqrt(len(draws))
    assert np.abs((draws.mean(axis=0) - mean) / error).max() < 4.5
    squares = (draws - mean) ** 2
    z = (squares.mean(axis=0) - np.einsum("ijij->ij", covariance)) / (
        squares.std(axis=0) / np.sqrt(len(draws))
    )
    assert np.abs(z).max() < 4.5


def test_wide_networks_have_the_nngp_kernel():
    network = finite.Network((4000,), jax.nn.relu, weight_var=2.0, bias_var=0.1)
    gram = np.asarray(network.sample_grams(jax.random.key(2), X, 50)[0]).mean(axis=0)
    kernel = nngp_kernel([kernels.Affine(2.0, 0.1), kernels.ReLU()], np.asarray(X))
    np.testing.assert_allclose(gram, kernel, rtol=0.02, atol=0.01)


# --- the posterior --------------------------------------------------------------------------------


def test_the_potential_is_the_likelihood_without_the_readout():
    phi = jax.random.normal(jax.random.key(0), (target().size,))
    t = np.asarray(SMALL.readout_features(phi, X))
    law = stats.multivariate_normal(np.zeros(4), t @ t.T + NOISE**2 * np.eye(4))
    np.testing.assert_allclose(
        target().potential(phi), -law.logpdf(np.asarray(Y).T).sum(), rtol=1e-10
    )


def test_readouts_have_the_posterior_of_linear_regression():
    phi = jax.random.normal(jax.random.key(0), (target().size,))
    t = np.asarray(SMALL.readout_features(phi, X))
    precision = t.T @ t / NOISE**2 + np.eye(4)
    draws = np.asarray(
        jax.vmap(lambda k: target().readout(k, phi))(jax.random.split(jax.random.key(1), 40_000))
    )
    mean, covariance = (
        np.linalg.solve(precision, t.T @ np.asarray(Y)) / NOISE**2,
        np.linalg.inv(precision),
    )
    assert np.abs((draws.mean(axis=0) - mean) / (draws.std(axis=0) / 200)).max() < 4.5
    for c in range(2):
        np.testing.assert_allclose(
            np.cov(draws[:, :, c].T), covariance, atol=6 * np.abs(covariance).max() / 200
        )


def test_langevin_proposals_are_corrected_exactly():
    """The ratio against the densities of the proposals, which are Gaussian."""
    delta, key = 0.4, jax.random.key(3)
    evaluate = jax.value_and_grad(target().potential)
    phi = jax.random.normal(key, (target().size,))
    (new, value, g), ratio = finite._pcnl(key, (phi, *evaluate(phi)), evaluate, delta)

    def log_move(a, b):
        centre = ((2 - delta) * a - 2 * delta * evaluate(a)[1]) / (2 + delta)
        return -np.sum((np.asarray(b - centre) * (2 + delta)) ** 2) / (16 * delta)

    def log_target(a):
        return -float(evaluate(a)[0]) - float(jnp.sum(a**2)) / 2

    truth = log_target(new) + log_move(new, phi) - log_target(phi) - log_move(phi, new)
    np.testing.assert_allclose(ratio, truth, rtol=1e-9)


@pytest.mark.parametrize(("move", "step"), [("pcn", 0.5), ("pcnl", 0.5), ("hmc", 0.3)])
def test_chains_have_the_posterior_of_importance_sampling(move, step):
    """Means of the potential, of the first kernel entry and of its square."""
    posterior = target()

    def functionals(phi):
        t = SMALL.readout_features(phi, X)
        gram = t @ t.T
        return jnp.stack([posterior.potential(phi), gram[0, 0], gram[0, 1], gram[0, 0] ** 2])

    prior = jax.random.normal(jax.random.key(5), (100_000, posterior.size))
    values = np.asarray(jax.jit(jax.vmap(functionals))(prior))
    weight = np.exp(values[:, 0].min() - values[:, 0])
    weight /= weight.sum()
    truth = weight @ values
    error = np.sqrt((weight**2) @ (values - truth) ** 2)
    chain = posterior.sample(jax.random.key(6), 20_000, move=move, step=step)
    found = np.asarray(jax.jit(jax.vmap(functionals))(chain.phi))[500:]
    batches = np.stack([part.mean(axis=0) for part in np.array_split(found, 30)])
    own = batches.std(axis=0, ddof=1) / np.sqrt(30)
    assert np.abs((found.mean(axis=0) - truth) / np.hypot(error, own)).max() < 4.5
    np.testing.assert_allclose(chain.potential[500:], found[:, 0], rtol=1e-8)
    assert 0.2 < chain.acceptance <= 1


def test_acceptance_of_prior_moves_rises_with_the_width():
    rates = [
        target(finite.Network((n,), jax.nn.gelu), 0.3)
        .sample(jax.random.key(0), 400, step=0.3, thin=3)
        .acceptance
        for n in (4, 64, 1024)
    ]
    assert rates[0] < rates[1] < rates[2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: finite.Network((), jnp.tanh), "at least one hidden layer"),
        (lambda: finite.Network((0,), jnp.tanh), "widths"),
        (lambda: finite.Network((2,), jnp.tanh, weight_var=0.0), "weight_var"),
        (lambda: finite.Network((2,), jnp.tanh, bias_var=-1.0), "bias_var"),
        (lambda: finite.Repriorised(SMALL, X, Y[:2], 0.1), "as many rows"),
        (lambda: target(noise=0.0), "noise"),
        (lambda: target().sample(jax.random.key(0), 3, move="nuts", step=0.1), "move"),
        (lambda: target().sample(jax.random.key(0), 3, step=1.5), "at most 1.0"),
        (lambda: target().sample(jax.random.key(0), 0, step=0.5), "n"),
        (lambda: SMALL.sample_grams(jax.random.key(0), X, 0), "n"),
    ],
)
@pytest.mark.usefixtures("_unchecked")
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
