"""The output Gaussian process against dense Gaussian algebra, scipy and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from dkp.gram.gram import Gram
from dkp.linalg.cholesky import cholesky
from dkp.model.outputs import OutputLaw, collapsed_bound, exact_outputs, whitened_posterior

N, P, C, NOISE = 7, 4, 2, 0.15
F32, F64 = np.dtype("float32"), np.dtype("float64")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 2))
Z = RNG.normal(size=(P, 2))
Y = RNG.normal(size=(N, C))
LINEAR = RNG.normal(size=(P, C))
ROOTS = RNG.normal(size=(C, P, P))
PRECISION = ROOTS @ ROOTS.swapaxes(1, 2)


def rbf(a, b):
    return np.exp(-0.5 * ((a[:, None] - b[None]) ** 2).sum(-1))


def gram(z, x, dtype=F64):
    blocks = Gram(ii=jnp.asarray(rbf(z, z)), ti=jnp.asarray(rbf(x, z)), tt=jnp.ones(len(x)))
    return jax.tree.map(lambda a: a.astype(dtype), blocks)


def array(values, dtype=F64):
    return jnp.asarray(values, dtype)


factorise = jax.jit(cholesky)
exact = jax.jit(exact_outputs)
whitened = jax.jit(lambda kernel, *natural: whitened_posterior(cholesky(kernel), *natural))
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
    """q(u) = N(K A^-1 K_iX y / s^2, K A^-1 K) with A = K + K_iX K_Xi / s^2 (Titsias 2009, equation
    10)."""
    kzz, kxz = rbf(Z, Z), rbf(X, Z)
    a = np.linalg.inv(kzz + kxz.T @ kxz / NOISE)
    new = RNG.normal(size=(5, 2))
    ktz = rbf(new, Z)
    mean = ktz @ a @ kxz.T @ Y / NOISE
    variance = 1 - np.diag(ktz @ np.linalg.solve(kzz, ktz.T)) + np.diag(ktz @ a @ ktz.T)
    ours = moments(collapsed(gram(Z, X), array(Y), array(NOISE))[1], gram(Z, new))
    np.testing.assert_allclose(ours[0], mean, atol=1e-7)
    np.testing.assert_allclose(ours[1], np.tile(variance[:, None], (1, C)), atol=1e-7)


def dense_posterior(linear, precision):
    """Mean (P, C) and covariance of u = L v by inversion."""
    root = np.linalg.cholesky(rbf(Z, Z))
    covariance = np.linalg.inv(np.eye(P) + precision)
    return root @ covariance @ linear, root @ covariance @ root.T


def dense_moments(mean, covariance):
    weights = np.linalg.solve(rbf(Z, Z), rbf(Z, X)).T
    return weights @ mean, 1 - np.diag(weights @ rbf(Z, X)) + np.diag(
        weights @ covariance @ weights.T
    )


def dense_kl(mean, covariance):
    """Of q(u) and N(0, K), all columns."""
    k = rbf(Z, Z)
    log_ratio = np.linalg.slogdet(k)[1] - np.linalg.slogdet(covariance)[1]
    common = np.trace(np.linalg.solve(k, covariance)) - P + log_ratio
    return (mean.shape[1] * common + np.sum(mean * np.linalg.solve(k, mean))) / 2


def test_whitened_posterior_is_that_of_dense_algebra():
    law, kl, _ = whitened(array(rbf(Z, Z)), array(LINEAR), array(PRECISION[0]))
    dense = dense_posterior(LINEAR, PRECISION[0])
    mean, variance = dense_moments(*dense)
    ours = moments(law, gram(Z, X))
    np.testing.assert_allclose(ours[0], mean, atol=1e-9)
    np.testing.assert_allclose(ours[1], np.tile(variance[:, None], (1, C)), atol=1e-9)
    np.testing.assert_allclose(kl, dense_kl(*dense), rtol=1e-9)


def test_a_precision_for_each_output_is_one_posterior_an_output():
    law, kl, _ = whitened(array(rbf(Z, Z)), array(LINEAR), array(PRECISION))
    dense = [dense_posterior(LINEAR[:, c : c + 1], PRECISION[c]) for c in range(C)]
    ours = moments(law, gram(Z, X))
    for c in range(C):
        mean, variance = dense_moments(*dense[c])
        np.testing.assert_allclose(ours[0][:, c], mean[:, 0], atol=1e-9)
        np.testing.assert_allclose(ours[1][:, c], variance, atol=1e-9)
    np.testing.assert_allclose(kl, sum(dense_kl(*one) for one in dense), rtol=1e-9)


def test_outputs_that_saw_nothing_are_the_prior():
    law, kl, _ = whitened(array(rbf(Z, Z)), array(np.zeros((P, C))), array(np.zeros((P, P))))
    mean, variance = moments(law, gram(Z, X))
    assert abs(float(kl)) < 1e-12
    np.testing.assert_allclose(mean, 0, atol=1e-12)
    np.testing.assert_allclose(variance, 1, atol=1e-9)


def test_optimal_outputs_attain_the_evidence():
    """b = L^T y / s^2 and H = L^T L / s^2 at the data: expected log-likelihood minus KL is the log
    marginal likelihood."""
    root = np.linalg.cholesky(rbf(X, X))
    law, kl, _ = whitened(array(rbf(X, X)), array(root.T @ Y / NOISE), array(root.T @ root / NOISE))
    mean, variance = moments(law, gram(X, X))
    expected = np.sum(-np.log(2 * np.pi * NOISE) / 2 - ((Y - mean) ** 2 + variance) / (2 * NOISE))
    log_density, exact_law = exact(array(rbf(X, X)), array(Y), array(NOISE))
    np.testing.assert_allclose(expected - kl, log_density, rtol=1e-7)
    for mine, theirs in zip((mean, variance), moments(exact_law, gram(X, X)), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-7)


LAWS = {
    "exact": lambda d: exact(array(rbf(Z, Z), d), array(Y[:P], d), array(1e-4, d))[1],
    "collapsed": lambda d: collapsed(gram(Z, X, d), array(Y, d), array(1e-4, d))[1],
    "whitened": lambda d: whitened(
        array(rbf(Z, Z), d), array(LINEAR, d), array(1e3 * PRECISION[0], d)
    )[0],
    "whitened, one an output": lambda d: whitened(
        array(rbf(Z, Z), d), array(LINEAR, d), array(PRECISION, d)
    )[0],
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
        collapsed(gram(Z, X), two, array(NOISE))[0],
        2 * collapsed(gram(Z, X), one, array(NOISE))[0],
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        exact(array(rbf(X, X)), two, array(NOISE))[0],
        2 * exact(array(rbf(X, X)), one, array(NOISE))[0],
        rtol=1e-12,
    )


def test_float32_bound_at_small_noise():
    """The quadratic form is a sum of squares: five digits survive at a noise variance of 1e-3."""
    bounds = [collapsed(gram(Z, X, d), array(0.1 * Y, d), array(1e-3, d))[0] for d in (F32, F64)]
    assert bounds[0].dtype == F32
    np.testing.assert_allclose(bounds[0], bounds[1], rtol=2e-3)
