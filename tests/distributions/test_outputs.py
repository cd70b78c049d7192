"""The output Gaussian process against dense Gaussian algebra, scipy and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from dkp.distributions.outputs import OutputLaw, collapsed_bound, exact_outputs, pseudo_target_posterior
from dkp.linalg.blocks import Gram
from dkp.linalg.cholesky import cholesky

N, P, C, NOISE = 7, 4, 2, 0.15
F32, F64 = np.dtype("float32"), np.dtype("float64")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 2))
Z = RNG.normal(size=(P, 2))
Y = RNG.normal(size=(N, C))
TARGET = RNG.normal(size=(P, C))
PRECISION = np.tril(RNG.normal(size=(P, P)), -1) + np.diag(RNG.uniform(0.5, 2.0, P))


def rbf(a, b):
    return np.exp(-0.5 * ((a[:, None] - b[None]) ** 2).sum(-1))


def gram(z, x, dtype=F64):
    blocks = Gram(ii=jnp.asarray(rbf(z, z)), ti=jnp.asarray(rbf(x, z)), tt=jnp.ones(len(x)))
    return jax.tree.map(lambda a: a.astype(dtype), blocks)


def array(values, dtype=F64):
    return jnp.asarray(values, dtype)


factorise = jax.jit(cholesky)
exact = jax.jit(exact_outputs)
pseudo = jax.jit(pseudo_target_posterior)
moments = jax.jit(OutputLaw.moments)


@jax.jit
def collapsed(blocks, y, noise):
    return collapsed_bound(blocks, cholesky(blocks.ii), y, noise)


def test_exact_density_is_scipys():
    truth = stats.multivariate_normal(np.zeros(N), rbf(X, X) + NOISE * np.eye(N)).logpdf(Y.T).sum()
    np.testing.assert_allclose(exact(array(rbf(X, X)), array(Y), array(NOISE))[0], truth, rtol=1e-9)


def test_exact_posterior_is_scikit_learns():
    regressor = GaussianProcessRegressor(RBF(1.0), alpha=NOISE, optimizer=None).fit(X, Y)
    mean, deviation = regressor.predict(Z, return_std=True)
    log_density, law = exact(array(rbf(X, X)), array(Y), array(NOISE))
    ours = moments(law, gram(X, Z))
    np.testing.assert_allclose(ours[0], mean, atol=1e-8)
    np.testing.assert_allclose(ours[1], deviation**2, atol=1e-8)
    np.testing.assert_allclose(log_density, regressor.log_marginal_likelihood_value_, rtol=1e-9)


def test_collapsed_bound_is_exact_where_the_inducing_points_are_the_data():
    log_density, law = exact(array(rbf(X, X)), array(Y), array(NOISE))
    bound, bound_law = collapsed(gram(X, X), array(Y), array(NOISE))
    np.testing.assert_allclose(bound, log_density, rtol=1e-7)
    for mine, theirs in zip(moments(bound_law, gram(X, Z)), moments(law, gram(X, Z)), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_collapsed_bound_is_titsias_formula():
    kzz, kxz = rbf(Z, Z), rbf(X, Z)
    nystrom = kxz @ np.linalg.solve(kzz, kxz.T)
    law = stats.multivariate_normal(np.zeros(N), nystrom + NOISE * np.eye(N))
    truth = law.logpdf(Y.T).sum() - C * np.trace(rbf(X, X) - nystrom) / (2 * NOISE)
    bound = collapsed(gram(Z, X), array(Y), array(NOISE))[0]
    np.testing.assert_allclose(bound, truth, rtol=1e-7)
    assert bound < exact(array(rbf(X, X)), array(Y), array(NOISE))[0]


def test_collapsed_law_is_the_optimal_posterior():
    """q(u) = N(K A^-1 K_iX y / s^2, K A^-1 K) with A = K + K_iX K_Xi / s^2 (Titsias 2009, equation 10)."""
    kzz, kxz = rbf(Z, Z), rbf(X, Z)
    a = np.linalg.inv(kzz + kxz.T @ kxz / NOISE)
    new = RNG.normal(size=(5, 2))
    ktz = rbf(new, Z)
    mean = ktz @ a @ kxz.T @ Y / NOISE
    variance = 1 - np.diag(ktz @ np.linalg.solve(kzz, ktz.T)) + np.diag(ktz @ a @ ktz.T)
    ours = moments(collapsed(gram(Z, X), array(Y), array(NOISE))[1], gram(Z, new))
    np.testing.assert_allclose(ours[0], mean, atol=1e-7)
    np.testing.assert_allclose(ours[1], np.tile(variance[:, None], (1, C)), atol=1e-7)


def dense_pseudo_posterior():
    """Mean (P, C) and covariance of u by inversion: precision K^-1 + Lam Lam^T, natural mean Lam w."""
    covariance = np.linalg.inv(np.linalg.inv(rbf(Z, Z)) + PRECISION @ PRECISION.T)
    return covariance @ PRECISION @ TARGET, covariance


def test_pseudo_target_moments_are_those_of_dense_algebra():
    mean, covariance = dense_pseudo_posterior()
    weights = np.linalg.solve(rbf(Z, Z), rbf(Z, X)).T
    law = pseudo(array(rbf(Z, Z)), array(TARGET), array(PRECISION))[0]
    ours = moments(law, gram(Z, X))
    variance = 1 - np.diag(weights @ rbf(Z, X)) + np.diag(weights @ covariance @ weights.T)
    np.testing.assert_allclose(ours[0], weights @ mean, atol=1e-9)
    np.testing.assert_allclose(ours[1], np.tile(variance[:, None], (1, C)), atol=1e-9)


def test_pseudo_target_kl_is_that_of_dense_algebra():
    mean, covariance = dense_pseudo_posterior()
    k = rbf(Z, Z)
    log_ratio = np.linalg.slogdet(k)[1] - np.linalg.slogdet(covariance)[1]
    common = np.trace(np.linalg.solve(k, covariance)) - P + log_ratio
    truth = (C * common + np.sum(mean * np.linalg.solve(k, mean))) / 2
    np.testing.assert_allclose(pseudo(array(k), array(TARGET), array(PRECISION))[1], truth, rtol=1e-9)


def test_pseudo_targets_without_precision_are_the_prior():
    law, kl, _ = pseudo(array(rbf(Z, Z)), array(np.zeros((P, C))), array(1e-9 * np.eye(P)))
    mean, variance = moments(law, gram(Z, X))
    assert abs(float(kl)) < 1e-9
    np.testing.assert_allclose(mean, 0, atol=1e-12)
    np.testing.assert_allclose(variance, 1, atol=1e-9)


def test_optimal_pseudo_targets_attain_the_evidence():
    """w = y / s and Lam = I / s at the data: expected log-likelihood minus KL is the log marginal likelihood."""
    root = np.sqrt(NOISE)
    law, kl, _ = pseudo(array(rbf(X, X)), array(Y / root), array(np.eye(N) / root))
    mean, variance = moments(law, gram(X, X))
    expected = np.sum(-np.log(2 * np.pi * NOISE) / 2 - ((Y - mean) ** 2 + variance) / (2 * NOISE))
    log_density, exact_law = exact(array(rbf(X, X)), array(Y), array(NOISE))
    np.testing.assert_allclose(expected - kl, log_density, rtol=1e-8)
    for mine, theirs in zip((mean, variance), moments(exact_law, gram(X, X)), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-8)


LAWS = {
    "exact": lambda d: exact(array(rbf(Z, Z), d), array(Y[:P], d), array(1e-4, d))[1],
    "collapsed": lambda d: collapsed(gram(Z, X, d), array(Y, d), array(1e-4, d))[1],
    "pseudo-targets": lambda d: pseudo(array(rbf(Z, Z), d), array(TARGET, d), array(30 * PRECISION, d))[0],
}


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("name", LAWS)
def test_variance_is_positive_and_at_most_the_priors(name, dtype):
    """At the inducing points, on top of one another, and far away, even in float32."""
    new = np.concatenate([Z, Z + 1e-4, Z[:1] + 100.0])
    mean, variance = moments(LAWS[name](dtype), gram(Z, new, dtype))
    assert mean.shape == variance.shape == (len(new), C)
    assert mean.dtype == variance.dtype == dtype
    assert np.all(variance > 0) and np.all(variance <= 1 + 1e-3)
    np.testing.assert_allclose(variance[-1], 1, rtol=1e-6)


def test_outputs_add_up():
    """Two equal outputs count twice."""
    two, one = (array(np.tile(Y[:, :1], (1, c))) for c in (2, 1))
    np.testing.assert_allclose(
        collapsed(gram(Z, X), two, array(NOISE))[0], 2 * collapsed(gram(Z, X), one, array(NOISE))[0], rtol=1e-12
    )
    np.testing.assert_allclose(
        exact(array(rbf(X, X)), two, array(NOISE))[0], 2 * exact(array(rbf(X, X)), one, array(NOISE))[0], rtol=1e-12
    )


def test_float32_bound_at_small_noise():
    """The quadratic form is a sum of squares: five digits survive at a noise variance of 1e-3."""
    bounds = [collapsed(gram(Z, X, d), array(0.1 * Y, d), array(1e-3, d))[0] for d in (F32, F64)]
    assert bounds[0].dtype == F32
    np.testing.assert_allclose(bounds[0], bounds[1], rtol=2e-3)
