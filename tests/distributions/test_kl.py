"""The divergence of two inverse Wishart laws: Monte Carlo, quadrature in one dimension, and its
laws."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions
import pytest
from scipy import integrate, stats

from dkp.distributions import InverseWishartFactor, kl_divergence

PAIRS = [(3, 6.5, 9.0), (3, 9.0, 6.5), (4, 40.0, 8.0), (2, 2.5, 2.5)]


def tril(size, seed):
    a = np.random.default_rng(seed).normal(size=(size, size + 2))
    return jnp.asarray(np.linalg.cholesky(a @ a.T))


def pair(size, df_q, df_p):
    return InverseWishartFactor(df_q, tril(size, 0)), InverseWishartFactor(df_p, tril(size, 1))


@pytest.mark.parametrize(("size", "df_q", "df_p"), PAIRS)
@pytest.mark.rows(2)
def test_monte_carlo(size, df_q, df_p):
    """|z| < 4 on each of four pairs: a false-alarm rate of 3e-4 over seeds."""
    q, p = pair(size, df_q, df_p)

    @jax.jit
    @jax.vmap
    def log_ratio(key):
        s = q.sample(key)
        return q.log_prob(s) - p.log_prob(s)

    samples = np.asarray(log_ratio(jax.random.split(jax.random.key(7), 10_000)))
    assert abs(samples.mean() - float(kl_divergence(q, p))) < 4 * samples.std(ddof=1) / np.sqrt(
        len(samples)
    )


def test_one_dimension_by_quadrature():
    q, p = pair(1, 4.5, 7.0)
    laws = [
        stats.invgamma(float(d.df) / 2, scale=float(d.scale_tril[0, 0]) ** 2 / 2) for d in (q, p)
    ]

    def integrand(log_g):
        g = np.exp(log_g)
        return laws[0].pdf(g) * (laws[0].logpdf(g) - laws[1].logpdf(g)) * g

    truth = integrate.quad(integrand, -12, 25, limit=500)[0]
    np.testing.assert_allclose(kl_divergence(q, p), truth, rtol=1e-7)


@pytest.mark.parametrize("df", [2.1, 50.0, 5e3])
def test_zero_where_the_laws_agree(df):
    q, _ = pair(3, df, df)
    assert abs(float(kl_divergence(q, q))) < 1e-11 * df


@pytest.mark.parametrize(("size", "df_q", "df_p"), PAIRS)
def test_positive_and_invariant_under_a_common_change_of_basis(size, df_q, df_p):
    q, p = pair(size, df_q, df_p)
    common = tril(size, 5)
    moved = [InverseWishartFactor(d.df, common @ d.scale_tril) for d in (q, p)]
    assert kl_divergence(q, p) > 0
    np.testing.assert_allclose(kl_divergence(*moved), kl_divergence(q, p), rtol=1e-9)


def test_gradient_against_finite_differences():
    base, other = tril(3, 0), InverseWishartFactor(7.0, tril(3, 1))

    @jax.jit
    def kl(df, factor):
        return kl_divergence(InverseWishartFactor(df, base + factor * jnp.eye(3)), other)

    gradient, h = jax.jit(jax.grad(kl, (0, 1)))(5.0, 0.3), 1e-5
    np.testing.assert_allclose(gradient[0], (kl(5 + h, 0.3) - kl(5 - h, 0.3)) / (2 * h), rtol=1e-6)
    np.testing.assert_allclose(
        gradient[1], (kl(5.0, 0.3 + h) - kl(5.0, 0.3 - h)) / (2 * h), rtol=1e-6
    )


def test_batches_and_registration():
    q = InverseWishartFactor(jnp.array([5.0, 9.0]), jnp.stack([tril(3, 0), tril(3, 2)]))
    p = InverseWishartFactor(jnp.array([6.0, 7.0]), jnp.stack([tril(3, 1), tril(3, 3)]))
    batched = numpyro.distributions.kl_divergence(q, p)
    for i in range(2):
        one = [InverseWishartFactor(d.df[i], d.scale_tril[i]) for d in (q, p)]
        np.testing.assert_allclose(batched[i], kl_divergence(*one), rtol=1e-12)


def test_float32():
    single = [
        InverseWishartFactor(d, tril(3, i).astype(jnp.float32)) for i, d in enumerate((6.0, 9.0))
    ]
    double = [InverseWishartFactor(d, tril(3, i)) for i, d in enumerate((6.0, 9.0))]
    assert kl_divergence(*single).dtype == jnp.float32
    np.testing.assert_allclose(kl_divergence(*single), kl_divergence(*double), rtol=1e-4)
