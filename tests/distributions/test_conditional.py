"""The per-point conditional of the inverse Wishart against joint sampling, and its independence of the batch.

Monte Carlo with fixed seeds; p > 1e-4 and |z| < 4.5 keep the false-alarm rate of each test over seeds below 2e-3.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dkp.distributions import inverse_wishart_conditional
from dkp.distributions.wishart import InverseWishartFactor
from dkp.linalg.blocks import Gram
from dkp.linalg.cholesky import cholesky

P, DELTA, DRAWS = 2, 6.0, 20_000


class Draws(NamedTuple):
    ii: np.ndarray
    ti: np.ndarray
    tt: np.ndarray


@functools.cache
def kernel(n):
    """K over P inducing and n data points; the first data point is the same for every n."""
    x = np.random.default_rng(0).normal(size=(P + 8, 3))
    k = np.exp(-0.5 * ((x[:, None] - x[None]) ** 2).sum(-1) / 4) * 1.5
    return jnp.asarray(k[: P + n, : P + n])


def blocks(k):
    return Gram(ii=k[:P, :P], ti=k[P:, :P], tt=jnp.diagonal(k)[P:])


@functools.cache
def conditional_draws(n, seed, factor=None):
    """Draws of (G_ii, G_ti, g_tt): the factor from its marginal law, or one and the same for all."""
    gram = blocks(kernel(n))
    scale = cholesky(gram.ii)

    @jax.jit
    @jax.vmap
    def draw(key):
        key_factor, key_data = jax.random.split(key)
        law = InverseWishartFactor(DELTA + P + 1, jnp.sqrt(DELTA) * scale.tril)
        s = law.sample(key_factor) if factor is None else jnp.asarray(factor)
        out = inverse_wishart_conditional(key_data, gram, scale, jnp.asarray(DELTA), s)
        return out.ii, out.ti, out.tt

    return Draws(*map(np.asarray, draw(jax.random.split(jax.random.key(seed), DRAWS))))


@functools.cache
def joint_draws(n):
    """The same blocks out of joint draws by scipy."""
    law = stats.invwishart(DELTA + P + n + 1, DELTA * np.asarray(kernel(n)))
    return law.rvs(DRAWS, random_state=3)


STATISTICS = {
    "g_tt": lambda ii, ti, tt: tt[:, 0],
    "g_ti": lambda ii, ti, tt: ti[:, 0, 0],
    "other g_ti": lambda ii, ti, tt: ti[:, 0, 1],
    "correlation": lambda ii, ti, tt: ti[:, 0, 0] / np.sqrt(tt[:, 0] * ii[:, 0, 0]),
    "conditional variance": lambda ii, ti, tt: (
        tt[:, 0] - np.einsum("si,sij,sj->s", ti[:, 0], np.linalg.inv(ii), ti[:, 0])
    ),
    "regression weight": lambda ii, ti, tt: np.linalg.solve(ii, ti[:, 0][..., None])[:, 0, 0],
}


@pytest.mark.parametrize("statistic", STATISTICS)
def test_one_point_follows_the_joint_law(statistic):
    """Joint draws over 1 data point, and over 3 with two ignored, both agree with the conditional at 1 and at 3."""
    f = STATISTICS[statistic]
    conditional = [conditional_draws(n, seed) for n, seed in ((1, 0), (3, 1))]
    for n in (1, 3):
        g = joint_draws(n)
        truth = f(g[:, :P, :P], g[:, P:, :P], np.diagonal(g, axis1=1, axis2=2)[:, P:])
        for gram in conditional:
            assert stats.ks_2samp(f(gram.ii, gram.ti, gram.tt), truth).pvalue > 1e-4


def test_every_point_of_a_batch_follows_the_joint_law():
    g, gram = joint_draws(3), conditional_draws(3, 1)
    for t in range(3):
        assert stats.ks_2samp(gram.tt[:, t], g[:, P + t, P + t]).pvalue > 1e-4
        assert stats.ks_2samp(gram.ti[:, t, 0], g[:, P + t, 0]).pvalue > 1e-4


def test_independence_of_batch_size():
    """Given one factor, the law of a point is the same alone and among seven."""
    factor = ((1.2, 0.0), (0.4, 0.9))
    alone, among = conditional_draws(1, 5, factor), conditional_draws(7, 6, factor)
    assert stats.ks_2samp(alone.tt[:, 0], among.tt[:, 0]).pvalue > 1e-4
    assert stats.ks_2samp(alone.ti[:, 0, 0], among.ti[:, 0, 0]).pvalue > 1e-4


@pytest.mark.parametrize("n", [1, 7])
def test_conditional_variance_is_inverse_gamma_of_the_stated_shape(n):
    factor = ((1.2, 0.0), (0.4, 0.9))
    gram = conditional_draws(n, 8, factor)
    k = np.asarray(kernel(n))
    residual = k[P, P] - k[P, :P] @ np.linalg.solve(k[:P, :P], k[:P, P])
    law = stats.invgamma((DELTA + P + 2) / 2, scale=DELTA * residual / 2)
    variance = STATISTICS["conditional variance"](gram.ii, gram.ti, gram.tt)
    assert stats.kstest(variance, law.cdf).pvalue > 1e-4


def test_the_mean_is_the_kernel_in_all_blocks():
    gram, k = conditional_draws(3, 1), blocks(kernel(3))
    for samples, truth in ((gram.ii, k.ii), (gram.ti, k.ti), (gram.tt, k.tt)):
        z = (samples.mean(0) - np.asarray(truth)) / (samples.std(0) / np.sqrt(DRAWS))
        assert np.max(np.abs(z)) < 4.5


def test_large_delta_is_the_deterministic_network():
    gram = blocks(kernel(3))
    scale = cholesky(gram.ii)
    out = inverse_wishart_conditional(jax.random.key(0), gram, scale, jnp.asarray(1e12), scale.tril)
    for block in ("ii", "ti", "tt"):
        np.testing.assert_allclose(getattr(out, block), getattr(gram, block), rtol=1e-4)


def test_a_data_point_that_is_an_inducing_point_gets_its_row():
    k = kernel(1)[:P, :P]
    gram, factor = Gram(ii=k, ti=k[1:], tt=jnp.diagonal(k)[1:]), jnp.array([[1.2, 0.0], [0.4, 0.9]])
    out = inverse_wishart_conditional(jax.random.key(0), gram, cholesky(k), jnp.asarray(DELTA), factor)
    np.testing.assert_allclose(out.ti[0], out.ii[1], rtol=1e-4)
    np.testing.assert_allclose(out.tt[0], out.ii[1, 1], rtol=1e-4)


def test_blocks_are_positive_semidefinite():
    gram = conditional_draws(7, 6, ((1.2, 0.0), (0.4, 0.9)))
    schur = gram.tt - np.einsum("sti,sij,stj->st", gram.ti, np.linalg.inv(gram.ii), gram.ti)
    assert np.all(schur > 0)


def test_float32_is_close_to_float64():
    @jax.jit
    def draw(gram, delta):
        scale = cholesky(gram.ii)
        return inverse_wishart_conditional(jax.random.key(0), gram, scale, delta, scale.tril)

    double = blocks(kernel(3))
    single = jax.tree.map(lambda a: a.astype(jnp.float32), double)
    outs = [draw(single, jnp.asarray(DELTA, jnp.float32)), draw(double, jnp.asarray(DELTA))]
    assert outs[0].ti.dtype == outs[0].tt.dtype == jnp.float32
    np.testing.assert_allclose(outs[0].ti, outs[1].ti, rtol=1e-3)
    np.testing.assert_allclose(outs[0].tt, outs[1].tt, rtol=1e-3)


def test_gradients_are_finite_at_an_inducing_point():
    k = kernel(1)[:P, :P]

    @jax.jit
    @jax.grad
    def gradient(s):
        gram = Gram(ii=s * k, ti=s * k[1:], tt=s * jnp.diagonal(k)[1:])
        scale = cholesky(gram.ii)
        out = inverse_wishart_conditional(jax.random.key(0), gram, scale, jnp.asarray(DELTA), scale.tril)
        return jnp.sum(out.ti) + jnp.sum(out.tt)

    assert jnp.isfinite(gradient(1.0))
