"""The laws of the Bartlett factors: entry by entry (Kolmogorov-Smirnov) and as matrices (moments,
z-scores).

Every statistical test uses a fixed seed; the thresholds (p > 1e-4, |z| < 4.5) bound the false-alarm
rate of a whole test, over all its comparisons and over seeds, by about 1e-3."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dkp.linalg.bartlett import bartlett, inverse_wishart_df, trapezoid, wishart_df

DRAWS = 20_000
# degrees of freedom by column, degrees of freedom of the matrix, columns, rows, and those of the
# diagonal by hand
FACTORS = {
    "Wishart": (wishart_df, 7.5, 3, 3, [7.5, 6.5, 5.5]),
    "singular Wishart": (wishart_df, 2.0, 2, 4, [2.0, 1.0]),
    "singular Wishart of rank one": (wishart_df, 1.0, 1, 3, [1.0]),
    "inverse Wishart": (inverse_wishart_df, 7.5, 3, 3, [5.5, 6.5, 7.5]),
}

factors = pytest.mark.parametrize("name", FACTORS)


@functools.cache
def draws(name, df=None):
    by_column, default, columns, rows, _ = FACTORS[name]
    keys = jax.random.split(jax.random.key(11), DRAWS)
    values = by_column(jnp.asarray(default if df is None else df), columns)
    return np.asarray(jax.jit(jax.vmap(lambda key: bartlett(key, values, rows)))(keys))


def z_scores(samples, truth):
    return (samples.mean(0) - truth) / (samples.std(0, ddof=1) / np.sqrt(len(samples)))


@factors
def test_degrees_of_freedom(name):
    by_column, df, columns, _, expected = FACTORS[name]
    np.testing.assert_allclose(by_column(jnp.asarray(df), columns), expected, rtol=1e-15)
    batch = by_column(jnp.asarray([[df, df + 1]], jnp.float32), columns)
    assert batch.shape == (1, 2, columns) and batch.dtype == jnp.float32
    np.testing.assert_allclose(batch[0, 1] - batch[0, 0], np.ones(columns), rtol=1e-6)


@factors
def test_entries(name):
    samples, (*_, columns, rows, df) = draws(name), FACTORS[name]
    assert samples.shape == (DRAWS, rows, columns)
    np.testing.assert_array_equal(np.triu(samples, 1), 0)
    for j in range(columns):
        assert stats.kstest(samples[:, j, j] ** 2, stats.chi2(df[j]).cdf).pvalue > 1e-4
        assert np.all(samples[:, j, j] > 0)
    for i, j in zip(*np.tril_indices(rows, -1, columns), strict=True):
        assert stats.kstest(samples[:, i, j], stats.norm.cdf).pvalue > 1e-4


@factors
def test_entries_are_uncorrelated(name):
    samples, (*_, columns, rows, _) = draws(name), FACTORS[name]
    i, j = np.tril_indices(rows, 0, columns)
    correlation = np.corrcoef(samples[:, i, j].T) * np.sqrt(DRAWS)
    off_diagonal = correlation[~np.eye(len(correlation), dtype=bool)]
    assert np.max(np.abs(off_diagonal)) < 4.5


@factors
def test_products_have_the_moments_of_the_wishart(name):
    """A A^T, and A^T A for the factor of the inverse, whose transpose is the upper-triangular
    factor of a Wishart."""
    a, (by_column, df, _, rows, _) = draws(name), FACTORS[name]
    transposed = a.transpose(0, 2, 1)
    g = a @ transposed if by_column is wishart_df else transposed @ a
    eye = np.eye(rows)
    assert np.max(np.abs(z_scores(g, df * eye))) < 4.5
    assert np.max(np.abs(z_scores((g - df * eye) ** 2, df * (eye**2 + 1)))) < 4.5


def test_inverse_factor_has_the_mean_of_the_inverse_wishart():
    t = np.linalg.inv(draws("inverse Wishart", df=12.0))
    g = t @ t.transpose(0, 2, 1)
    assert np.max(np.abs(z_scores(g, np.eye(3) / (12.0 - 3 - 1)))) < 4.5
    np.testing.assert_allclose(np.triu(t, 1), 0, atol=1e-12)


@factors
def test_gradient_in_the_degrees_of_freedom(name):
    """E tr(A A^T) is the sum of df_j and a constant: the mean of the pathwise derivative is the
    number of columns."""
    by_column, df, columns, rows, _ = FACTORS[name]

    def squared_norm(df, key):
        return jnp.sum(bartlett(key, by_column(df, columns), rows) ** 2)

    keys = jax.random.split(jax.random.key(5), 2_000)
    samples = np.asarray(
        jax.jit(jax.vmap(jax.grad(squared_norm), in_axes=(None, 0)))(jnp.asarray(df), keys)
    )
    assert abs(z_scores(samples, columns)) < 4


@factors
def test_float32_draws_are_the_float64_draws(name):
    by_column, df, columns, rows, _ = FACTORS[name]
    draw = jax.jit(lambda df: bartlett(jax.random.key(1), by_column(df, columns), rows))
    single, double = draw(jnp.asarray(df, jnp.float32)), draw(jnp.asarray(df))
    assert single.dtype == jnp.float32 and double.dtype == jnp.float64
    np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-5)


def test_barely_enough_degrees_of_freedom():
    t = draws("Wishart", df=2 + 1e-3)
    assert np.all(np.isfinite(t)) and np.all(np.diagonal(t, axis1=1, axis2=2) >= 0)


@pytest.mark.parametrize("shape", [(5, 3), (4, 4), (3, 6), (1, 1), (4, 1)], ids=str)
def test_trapezoid_is_the_root_of_the_same_matrix(shape):
    root = np.random.default_rng(4).normal(size=shape)
    t = jax.jit(trapezoid)(jnp.asarray(root))
    assert t.shape == (shape[0], min(shape))
    np.testing.assert_allclose(t @ t.T, root @ root.T, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(np.triu(t, 1), 0, atol=1e-15)
    assert np.all(np.diagonal(t) > 0)
    if shape[0] <= shape[1]:
        np.testing.assert_allclose(t, np.linalg.cholesky(root @ root.T), rtol=1e-9, atol=1e-12)
    again = trapezoid(t)
    np.testing.assert_allclose(again, t, rtol=1e-12, atol=1e-12)


def test_trapezoid_does_not_depend_on_rotations():
    rng = np.random.default_rng(5)
    root, (q, _) = rng.normal(size=(5, 3)), np.linalg.qr(rng.normal(size=(3, 3)))
    np.testing.assert_allclose(
        trapezoid(jnp.asarray(root @ q)), trapezoid(jnp.asarray(root)), rtol=1e-10, atol=1e-12
    )
