"""What every likelihood obeys: a new likelihood is one more row of this table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dkp import likelihoods

C, B = 2, 3
RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(B, C))
LIKELIHOODS = [
    # likelihood, targets
    (likelihoods.Gaussian(noise=0.4), REAL),
    (likelihoods.Gaussian(noise=jnp.asarray(1.7)), REAL),
]
MEAN, VARIANCE = jnp.asarray(RNG.normal(size=(B, C))), jnp.asarray(RNG.uniform(0.1, 2.0, size=(B, C)))
rows = pytest.mark.parametrize(("likelihood", "y"), LIKELIHOODS, ids=[repr(row[0]) for row in LIKELIHOODS])
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
WEIGHTS = WEIGHTS / np.sqrt(2 * np.pi)


def latent(n_latent):
    """Means and variances of as many latent functions as there are."""
    repeats = -(-n_latent // C)
    return jnp.tile(MEAN, (1, repeats))[:, :n_latent], jnp.tile(VARIANCE, (1, repeats))[:, :n_latent]


@rows
def test_pytree_round_trip(likelihood, y):
    leaves, structure = jax.tree.flatten(likelihood)
    back = jax.tree.unflatten(structure, leaves)
    assert type(back) is type(likelihood) and jax.tree.structure(back) == structure


@rows
def test_conditional_has_one_law_a_row(likelihood, y):
    f, _ = latent(likelihood.n_latent(C))
    law = likelihood.conditional(f)
    assert law.batch_shape == (B,) and law.event_shape == (C,)
    sample = law.sample(jax.random.key(0))
    assert sample.shape == (B, C) and np.all(np.isfinite(law.log_prob(sample)))


@rows
def test_expected_log_density_is_the_quadrature_of_the_conditional(likelihood, y):
    """Outputs that depend on one latent function each: one-dimensional Gauss-Hermite quadrature, output by output."""
    targets = jnp.asarray(y)
    total = np.zeros(B)
    for node, weight in zip(NODES, WEIGHTS, strict=True):
        total += weight * np.asarray(likelihood.conditional(MEAN + np.sqrt(VARIANCE) * node).log_prob(targets))
    # The sum over outputs of one-dimensional integrals: the same node may serve all outputs.
    np.testing.assert_allclose(likelihood.expected_log_density(targets, MEAN, VARIANCE), total, rtol=1e-8)


@rows
def test_predictive_is_the_integral_of_the_conditional(likelihood, y):
    law = likelihood.predictive(MEAN, VARIANCE)
    if law is None:
        return
    assert law.batch_shape == (B, C)
    density = np.zeros((B, C))
    for c in range(C):
        grid = np.linspace(-9, 9, 4001)
        for b in range(B):
            f = MEAN[b, c] + jnp.sqrt(VARIANCE[b, c]) * grid
            log_prob = likelihood.conditional(f[:, None]).log_prob(jnp.full((len(grid), 1), y[b, c]))
            weight = np.exp(-0.5 * grid**2) / np.sqrt(2 * np.pi)
            density[b, c] = np.trapezoid(np.exp(np.asarray(log_prob)) * weight, grid)
    np.testing.assert_allclose(np.exp(law.log_prob(jnp.asarray(y))), density, rtol=1e-8)


@rows
def test_noise_variance_is_what_is_added_to_the_latent_variance(likelihood, y):
    noise = likelihood.noise_variance(C)
    if noise is None:
        return
    assert noise.shape == (C,)
    law = likelihood.predictive(MEAN, VARIANCE)
    np.testing.assert_allclose(law.variance, VARIANCE + noise[None, :], rtol=1e-12)
    np.testing.assert_allclose(law.mean, MEAN)


@rows
def test_float32_stays_float32(likelihood, y):
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), likelihood)
    mean, variance, targets = (jnp.asarray(a, jnp.float32) for a in (MEAN, VARIANCE, y))
    value = single.expected_log_density(targets, mean, variance)
    assert value.shape == (B,) and value.dtype == jnp.float32
    np.testing.assert_allclose(value, likelihood.expected_log_density(jnp.asarray(y), MEAN, VARIANCE), rtol=1e-5)
    assert single.conditional(mean).log_prob(targets).dtype == jnp.float32


@rows
def test_gradients_are_finite(likelihood, y):
    targets = jnp.asarray(y)
    resolved = jax.tree.map(jnp.asarray, likelihood)
    gradient = jax.grad(lambda lik, m, v: jnp.sum(lik.expected_log_density(targets, m, v)), (0, 1, 2))
    for leaf in jax.tree.leaves(gradient(resolved, MEAN, VARIANCE)):
        assert np.all(np.isfinite(leaf))


@pytest.mark.parametrize("noise", [0.0, -0.1, float("inf"), float("nan")])
def test_gaussian_noise_outside_its_domain(noise):
    with pytest.raises(ValueError, match=r"Expected Gaussian\(noise=…\) to be finite and positive. Got"):
        likelihoods.Gaussian(noise=noise)


def test_gaussian_noise_starts_below_the_residual_of_a_linear_fit():
    x = jnp.asarray(RNG.normal(size=(500, 3)))
    y = x @ jnp.array([[1.0], [-2.0], [0.5]]) + 0.6 * RNG.normal(size=(500, 1))
    start = likelihoods.Gaussian().initial_values(x, y)["noise"]
    assert 0.25 < start < 0.35
    assert likelihoods.Gaussian().initial_values(x, x[:, :1])["noise"] == 0.05  # even where the fit is perfect
    assert np.isfinite(likelihoods.Gaussian().initial_values(x[:1], y[:1])["noise"])
