"""The per-point conditionals of the Wishart laws against joint sampling, and their independence of
the batch.

Each law is a row of one table. Monte Carlo with fixed seeds; p > 1e-4 and |z| < 4.5 keep the
false-alarm rate of each test over seeds below 2e-3."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dkp.distributions import (
    InverseWishartFactor,
    WishartFactor,
    inverse_wishart_conditional,
    wishart_conditional,
)
from dkp.distributions.conditional import (
    inverse_wishart_conditional_mean,
    wishart_conditional_mean,
)
from dkp.gram.gram import Gram
from dkp.linalg.cholesky import cholesky

P, DRAWS = 3, 20_000


class InverseWishartLaw:
    """G ~ IW(delta K, delta + P + 1)."""

    condition = staticmethod(inverse_wishart_conditional)
    columns = P

    def __init__(self, delta):
        self.parameter = delta

    def mean(self, k, scale, factor, whitened):
        delta = jnp.asarray(self.parameter)
        return inverse_wishart_conditional_mean(k, scale, delta, factor, whitened)

    def factor(self, scale):
        delta = self.parameter
        return InverseWishartFactor(delta + P + 1, np.sqrt(delta) * scale.tril)

    def joint(self, k):
        delta = self.parameter
        return stats.invwishart(delta + len(k) + 1, delta * k).rvs(DRAWS, random_state=3)


class WishartLaw:
    """G ~ W(K / nu, nu)."""

    condition = staticmethod(wishart_conditional)
    mean = staticmethod(wishart_conditional_mean)

    def __init__(self, width):
        self.parameter, self.columns = width, min(width, P) if isinstance(width, int) else P

    def factor(self, scale):
        return WishartFactor(self.parameter, scale.tril / np.sqrt(self.parameter))

    def joint(self, k):
        """Products of features, or scipy where the width is no integer."""
        width = self.parameter
        if not isinstance(width, int):
            return stats.wishart(width, k / width).rvs(DRAWS, random_state=3)
        normals = np.random.default_rng(3).normal(size=(DRAWS, len(k), width))
        features = np.linalg.cholesky(k / width) @ normals
        return features @ features.transpose(0, 2, 1)


LAWS = {
    "inverse Wishart": InverseWishartLaw(6.0),
    "Wishart of width 2 < P": WishartLaw(2),
    "Wishart of width 3 = P": WishartLaw(3),
    "Wishart of width 7": WishartLaw(7),
    "Wishart of width 5.6": WishartLaw(5.6),
}
WISHARTS = [name for name in LAWS if name != "inverse Wishart"]
ROOT = np.array([[1.2, 0.0, 0.0], [0.4, 0.9, 0.0], [-0.3, 0.5, 0.7]])

laws = pytest.mark.parametrize("name", LAWS)
wisharts = pytest.mark.parametrize("name", WISHARTS)


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


def root(name):
    """One value of the factor, of as many columns as the law has."""
    return jnp.asarray(ROOT[:, : LAWS[name].columns])


def condition(name, key, gram, factor, parameter=None):
    law = LAWS[name]
    value = law.parameter if parameter is None else parameter
    value = value if isinstance(value, int) else jnp.asarray(value, gram.ii.dtype)
    return law.condition(key, gram, cholesky(gram.ii), value, factor)


@functools.partial(jax.jit, static_argnums=0)
def draw_given_factor(name, keys, gram, factor):
    return jax.vmap(lambda key: condition(name, key, gram, factor))(keys)


@functools.partial(jax.jit, static_argnums=0)
def draw_all(name, keys, gram):
    @jax.vmap
    def draw(key):
        key_factor, key_data = jax.random.split(key)
        return condition(
            name, key_data, gram, LAWS[name].factor(cholesky(gram.ii)).sample(key_factor)
        )

    return draw(keys)


@functools.cache
def conditional_draws(name, n, seed):
    """Draws of (G_ii, G_ti, g_tt), with the factor from its marginal law."""
    gram = draw_all(name, jax.random.split(jax.random.key(seed), DRAWS), blocks(kernel(n)))
    return Draws(*map(np.asarray, (gram.ii, gram.ti, gram.tt)))


def draws_given(name, n, seed, factor):
    gram = draw_given_factor(
        name, jax.random.split(jax.random.key(seed), DRAWS), blocks(kernel(n)), factor
    )
    return Draws(*map(np.asarray, (gram.ii, gram.ti, gram.tt)))


@functools.cache
def joint_draws(name, n):
    """The same blocks out of joint draws."""
    g = LAWS[name].joint(np.asarray(kernel(n)))
    return Draws(g[:, :P, :P], g[:, P:, :P], np.diagonal(g, axis1=1, axis2=2)[:, P:])


def residual(g):
    """g_tt given all inducing points, without its conditional mean."""
    return g.tt[:, 0] - np.einsum("si,sij,sj->s", g.ti[:, 0], np.linalg.inv(g.ii), g.ti[:, 0])


STATISTICS = {
    "g_ii": lambda g: g.ii[:, 0, 1],
    "g_tt": lambda g: g.tt[:, 0],
    "g_ti": lambda g: g.ti[:, 0, 0],
    "other g_ti": lambda g: g.ti[:, 0, 1],
    "correlation": lambda g: g.ti[:, 0, 0] / np.sqrt(g.tt[:, 0] * g.ii[:, 0, 0]),
    "product": lambda g: g.tt[:, 0] * g.ii[:, 2, 2],
    "residual given one point": lambda g: g.tt[:, 0] - g.ti[:, 0, 1] ** 2 / g.ii[:, 1, 1],
    "residual": residual,
    "regression weight": lambda g: np.linalg.solve(g.ii, g.ti[:, 0][..., None])[:, 0, 0],
}


@laws
@pytest.mark.rows(2)
def test_one_point_follows_the_joint_law(name):
    """Joint draws over 1 data point, and over 3 with two ignored, both agree with the conditional
    at 1 and at 3. At most 36 p-values above 1e-4: a false-alarm rate of 4e-3 over seeds."""
    conditional = [conditional_draws(name, n, seed) for n, seed in ((1, 0), (3, 1))]
    # they need the inverse of G_ii
    degenerate = () if LAWS[name].columns == P else ("residual", "regression weight")
    degenerate += ("residual",) if LAWS[name].columns == LAWS[name].parameter else ()  # it is 0
    for statistic in sorted(STATISTICS.keys() - set(degenerate)):
        f = STATISTICS[statistic]
        values = [f(g) for g in conditional]
        for n in (1, 3):
            truth = f(joint_draws(name, n))
            for value in values:
                assert stats.ks_2samp(value, truth).pvalue > 1e-4, statistic


@laws
def test_every_point_of_a_batch_follows_the_joint_law(name):
    truth, gram = joint_draws(name, 3), conditional_draws(name, 3, 1)
    for t in range(3):
        assert stats.ks_2samp(gram.tt[:, t], truth.tt[:, t]).pvalue > 1e-4
        assert stats.ks_2samp(gram.ti[:, t, 0], truth.ti[:, t, 0]).pvalue > 1e-4


@wisharts
@pytest.mark.rows(2)
def test_joint_second_moments(name):
    """Cov(G_ij, G_kl) = (K_ik K_jl + K_il K_jk) / nu for all entries of one data point and the
    inducing points.

    |z| < 4.5 over the 55 pairs of 10 entries: a false-alarm rate of 4e-4 over seeds.
    """
    gram, k = conditional_draws(name, 1, 0), np.asarray(kernel(1))
    full = np.zeros((DRAWS, P + 1, P + 1))
    full[:, :P, :P], full[:, P, :P], full[:, P, P] = gram.ii, gram.ti[:, 0], gram.tt[:, 0]
    i, j = np.tril_indices(P + 1)
    centred = full[:, i, j] - k[i, j]
    products = centred[:, :, None] * centred[:, None, :]
    pairs = k[np.ix_(i, i)] * k[np.ix_(j, j)] + k[np.ix_(i, j)] * k[np.ix_(j, i)]
    z = (products.mean(0) - pairs / LAWS[name].parameter) / (products.std(0) / np.sqrt(DRAWS))
    assert np.max(np.abs(z)) < 4.5


@laws
@pytest.mark.rows(2)
def test_independence_of_batch_size(name):
    """Given one factor, the law of a point is the same alone and among seven."""
    alone, among = draws_given(name, 1, 5, root(name)), draws_given(name, 7, 6, root(name))
    assert stats.ks_2samp(alone.tt[:, 0], among.tt[:, 0]).pvalue > 1e-4
    assert stats.ks_2samp(alone.ti[:, 0, 0], among.ti[:, 0, 0]).pvalue > 1e-4


@wisharts
def test_independence_of_the_choice_of_root(name):
    """S and S Q, for an orthogonal Q, are roots of one G_ii."""
    q = np.linalg.qr(np.random.default_rng(4).normal(size=(LAWS[name].columns,) * 2))[0]
    one, other = (
        draws_given(name, 1, 5, root(name)),
        draws_given(name, 1, 6, root(name) @ jnp.asarray(q)),
    )
    np.testing.assert_allclose(one.ii, other.ii, rtol=1e-10)
    for statistic in ("g_tt", "g_ti", "other g_ti", "residual given one point"):
        f = STATISTICS[statistic]
        assert stats.ks_2samp(f(one), f(other)).pvalue > 1e-4


def conditional_variance_of_the_kernel(n):
    k = np.asarray(kernel(n))
    return k[P, P] - k[P, :P] @ np.linalg.solve(k[:P, :P], k[:P, P])


@pytest.mark.parametrize("n", [1, 7])
def test_residual_of_the_inverse_wishart_is_inverse_gamma_of_the_stated_shape(n):
    gram, delta = (
        draws_given("inverse Wishart", n, 5 if n == 1 else 6, root("inverse Wishart")),
        6.0,
    )
    law = stats.invgamma(
        (delta + P + 2) / 2, scale=delta * conditional_variance_of_the_kernel(n) / 2
    )
    assert stats.kstest(residual(gram), law.cdf).pvalue > 1e-4


@pytest.mark.parametrize("name", ["Wishart of width 7", "Wishart of width 5.6"])
def test_residual_of_the_wishart_is_chi_square_of_the_remaining_features(name):
    gram, width = draws_given(name, 1, 5, root(name)), LAWS[name].parameter
    law = stats.chi2(width - P, scale=conditional_variance_of_the_kernel(1) / width)
    assert stats.kstest(residual(gram), law.cdf).pvalue > 1e-4


@pytest.mark.parametrize("name", ["Wishart of width 2 < P", "Wishart of width 3 = P"])
def test_with_no_more_features_than_inducing_points_they_determine_the_point(name):
    """The Gram matrix of P + 1 points has the rank of G_ii: g_tt = g_ti G_ii^+ g_it."""
    gram = draws_given(name, 1, 5, root(name))
    inverse = np.linalg.pinv(gram.ii[0], rcond=1e-9)
    np.testing.assert_allclose(
        gram.tt[:, 0], np.einsum("si,ij,sj->s", gram.ti[:, 0], inverse, gram.ti[:, 0]), rtol=1e-9
    )


@laws
def test_the_mean_is_the_kernel_in_all_blocks(name):
    gram, k = conditional_draws(name, 3, 1), blocks(kernel(3))
    for samples, truth in ((gram.ii, k.ii), (gram.ti, k.ti), (gram.tt, k.tt)):
        z = (samples.mean(0) - np.asarray(truth)) / (samples.std(0) / np.sqrt(DRAWS))
        assert np.max(np.abs(z)) < 4.5


@laws
@pytest.mark.rows(3)
def test_the_conditional_mean_is_the_mean_of_draws(name):
    """|z| < 4.5 over 12 numbers: a false-alarm rate of 1e-4 over seeds. A mean of g_tt without the
    noise of G_ti is off by ten standard errors."""
    k, law = blocks(kernel(3)), LAWS[name]
    scale = cholesky(k.ii)
    factor = jnp.asarray(law.factor(scale).sample(jax.random.key(5)))
    mean = law.mean(k, scale, factor, scale.inverse @ factor)
    gram = draws_given(name, 3, 6, factor)
    for samples, truth in ((gram.ti, mean.ti), (gram.tt, mean.tt)):
        z = (samples.mean(0) - np.asarray(truth)) / (samples.std(0) / np.sqrt(DRAWS))
        assert np.max(np.abs(z)) < 4.5
    np.testing.assert_allclose(mean.ii, factor @ factor.T, rtol=1e-12)


@pytest.mark.parametrize("name", ["inverse Wishart", "Wishart of width 5.6"])
def test_the_concentrated_limit_is_the_deterministic_network(name):
    gram = blocks(kernel(3))
    limit = jax.jit(
        lambda gram: condition(name, jax.random.key(0), gram, cholesky(gram.ii).tril, 1e12)
    )
    for block, truth in zip(jax.tree.leaves(limit(gram)), jax.tree.leaves(gram), strict=True):
        np.testing.assert_allclose(block, truth, rtol=1e-4)


@laws
def test_blocks_are_positive_semidefinite(name):
    gram = draws_given(name, 7, 6, root(name))
    inverse = np.linalg.pinv(gram.ii[0], rcond=1e-9)
    schur = gram.tt - np.einsum("sti,ij,stj->st", gram.ti, inverse, gram.ti)
    assert np.all(schur > (0 if LAWS[name].columns == P != LAWS[name].parameter else -1e-9))


@functools.partial(jax.jit, static_argnums=0)
def one_draw(name, gram, factor):
    return condition(name, jax.random.key(0), gram, factor)


@laws
@pytest.mark.rows(2)
def test_float32_is_close_to_float64(name):
    double = (blocks(kernel(3)), root(name))
    single = jax.tree.map(lambda a: a.astype(jnp.float32), double)
    outs = [one_draw(name, *single), one_draw(name, *double)]
    assert outs[0].ti.dtype == outs[0].tt.dtype == jnp.float32
    np.testing.assert_allclose(outs[0].ti, outs[1].ti, rtol=3e-3, atol=1e-3)  # the jitters differ
    np.testing.assert_allclose(outs[0].tt, outs[1].tt, rtol=3e-3)


@laws
@pytest.mark.rows(2)
def test_at_a_data_point_that_is_an_inducing_point(name):
    """It gets the row of that point, and gradients are finite."""
    k = kernel(1)[:P, :P]

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def total(s):
        gram = Gram(ii=s * k, ti=s * k[1:], tt=s * jnp.diagonal(k)[1:])
        out = condition(name, jax.random.key(0), gram, root(name))
        return jnp.sum(out.ti) + jnp.sum(out.tt), out

    (_, out), gradient = total(1.0)
    np.testing.assert_allclose(out.ti, out.ii[1:], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out.tt, np.diagonal(out.ii)[1:], rtol=1e-4)
    assert jnp.isfinite(gradient)


@laws
@pytest.mark.rows(2)
def test_gradients_are_finite_where_the_factor_is_drawn_too(name):
    @jax.jit
    @jax.grad
    def gradient(s):
        gram = jax.tree.map(lambda block: s * block, blocks(kernel(3)))
        factor = LAWS[name].factor(cholesky(gram.ii)).sample(jax.random.key(1))
        out = condition(name, jax.random.key(0), gram, factor)
        return jnp.sum(out.ti) + jnp.sum(out.tt)

    assert jnp.isfinite(gradient(1.0))
