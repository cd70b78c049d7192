"""The laws of the Bartlett factors: entry by entry (Kolmogorov-Smirnov) and as matrices (moments, z-scores).

Every statistical test uses a fixed seed; the thresholds (p > 1e-4, |z| < 4.5) bound the false-alarm rate of a whole
test, over all its comparisons and over seeds, by about 1e-3.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dkp.linalg.bartlett import bartlett, inverse_bartlett, reverse_bartlett

SIZE, DF, DRAWS = 3, 7.5, 20_000


@functools.cache
def draws(function, df=DF):
    keys = jax.random.split(jax.random.key(11), DRAWS)
    return np.asarray(jax.jit(jax.vmap(lambda k: function(k, jnp.asarray(df), SIZE)))(keys))


def z_scores(samples, truth):
    return (samples.mean(0) - truth) / (samples.std(0, ddof=1) / np.sqrt(len(samples)))


FACTORS = {
    # name: draws turned into independent entries, whether lower-triangular, degrees of freedom of the diagonal
    "bartlett": (lambda: draws(bartlett), True, DF - np.arange(SIZE)),
    "reverse_bartlett": (lambda: draws(reverse_bartlett), False, DF - np.arange(SIZE)[::-1]),
    "inverse_bartlett": (
        lambda: np.linalg.inv(draws(inverse_bartlett)).transpose(0, 2, 1),
        False,
        DF - np.arange(SIZE)[::-1],
    ),
}


@pytest.mark.parametrize("name", FACTORS)
def test_entries(name):
    make, lower, df = FACTORS[name]
    samples = make()
    zeros = np.triu(samples, 1) if lower else np.tril(samples, -1)
    np.testing.assert_allclose(zeros, 0, atol=1e-12)
    for j in range(SIZE):
        assert stats.kstest(samples[:, j, j] ** 2, stats.chi2(df[j]).cdf).pvalue > 1e-4
        assert np.all(samples[:, j, j] > 0)
    rows, columns = np.tril_indices(SIZE, -1) if lower else np.triu_indices(SIZE, 1)
    for i, j in zip(rows, columns, strict=True):
        assert stats.kstest(samples[:, i, j], stats.norm.cdf).pvalue > 1e-4


@pytest.mark.parametrize("name", FACTORS)
def test_entries_are_uncorrelated(name):
    make, lower, _ = FACTORS[name]
    samples = make()
    index = np.tril_indices(SIZE) if lower else np.triu_indices(SIZE)
    correlation = np.corrcoef(samples[:, index[0], index[1]].T) * np.sqrt(DRAWS)
    off_diagonal = correlation[~np.eye(len(correlation), dtype=bool)]
    assert np.max(np.abs(off_diagonal)) < 4.5


@pytest.mark.parametrize("function", [bartlett, reverse_bartlett])
def test_products_have_the_moments_of_the_wishart(function):
    a = draws(function)
    g = a @ a.transpose(0, 2, 1)
    eye = np.eye(SIZE)
    assert np.max(np.abs(z_scores(g, DF * eye))) < 4.5
    variance = DF * (eye**2 + 1)
    assert np.max(np.abs(z_scores((g - DF * eye) ** 2, variance))) < 4.5


def test_inverse_factor_has_the_mean_of_the_inverse_wishart():
    t = draws(inverse_bartlett, df=12.0)
    g = t @ t.transpose(0, 2, 1)
    assert np.max(np.abs(z_scores(g, np.eye(SIZE) / (12.0 - SIZE - 1)))) < 4.5
    np.testing.assert_array_equal(np.triu(t, 1), 0)


@pytest.mark.parametrize("function", [bartlett, reverse_bartlett])
def test_gradient_in_the_degrees_of_freedom(function):
    """E tr(A A^T) = df p, so the mean of the pathwise derivative is p."""
    keys = jax.random.split(jax.random.key(5), 2_000)
    derivative = jax.vmap(jax.grad(lambda df, k: jnp.sum(function(k, df, SIZE) ** 2)), in_axes=(None, 0))
    samples = np.asarray(jax.jit(derivative)(jnp.asarray(DF), keys))
    assert abs(z_scores(samples, SIZE)) < 4


@pytest.mark.parametrize("function", [bartlett, reverse_bartlett, inverse_bartlett])
def test_float32_draws_are_the_float64_draws(function):
    key = jax.random.key(1)
    draw = jax.jit(lambda df: function(key, df, SIZE))
    single, double = draw(jnp.asarray(DF, jnp.float32)), draw(jnp.asarray(DF))
    assert single.dtype == jnp.float32 and double.dtype == jnp.float64
    np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-5)


def test_barely_enough_degrees_of_freedom():
    t = draws(bartlett, df=SIZE - 1 + 1e-3)
    assert np.all(np.isfinite(t)) and np.all(np.diagonal(t, axis1=1, axis2=2) >= 0)
