"""Exact Gaussian processes against scipy and scikit-learn."""

import functools

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

import dkp
from dkp import kernels, likelihoods
from tests.support import relaxed

RNG = np.random.default_rng(2)
X = RNG.normal(size=(12, 2))
Y = np.sin(2 * X[:, 0]) + 0.2 * RNG.normal(size=12)
NEW = RNG.normal(size=(4, 2))


def dataset(y=Y, dtype=None):
    return dkp.Dataset.from_arrays(X, y, dtype=dtype)


def gp(lengthscale=0.8, variance=1.3, noise=0.3, weights=1.0):
    return dkp.DeepKernelProcess(
        layers=[
            kernels.Linear(ard=np.ndim(weights) > 0, weights=weights),
            kernels.SquaredExponential(lengthscale=lengthscale, variance=variance),
        ],
        likelihood=likelihoods.Gaussian(noise=noise),
    )


@functools.cache
def learned():
    with relaxed():
        described = gp(dkp.learn(1.0), dkp.learn(1.0), dkp.learn(0.5))
        return dkp.condition(described, dataset(), key=jax.random.key(0))


def test_evidence_without_learning_is_scipys():
    data, posterior = dataset(), dkp.condition(gp(), dataset())
    x = np.asarray(data.x)
    squared = ((x[:, None] - x[None]) ** 2).sum(-1) / 2  # the linear kernel divides by the number of features
    covariance = 1.3 * np.exp(-squared / (2 * 0.8**2)) + 0.09 * np.eye(12)
    truth = stats.multivariate_normal(np.zeros(12), covariance).logpdf(np.asarray(data.y[:, 0]))
    np.testing.assert_allclose(posterior.log_marginal_likelihood, truth, rtol=1e-8)
    assert posterior.hyperparameters == {} and posterior.converged


def test_learning_finds_scikit_learns_optimum():
    data = dataset()
    kernel = ConstantKernel(1.0) * RBF(1.0) + WhiteKernel(0.25)
    regressor = GaussianProcessRegressor(kernel, n_restarts_optimizer=3, random_state=0)
    regressor.fit(np.asarray(data.x), np.asarray(data.y[:, 0]))
    posterior = learned()
    np.testing.assert_allclose(posterior.log_marginal_likelihood, regressor.log_marginal_likelihood_value_, atol=1e-3)
    found = posterior.hyperparameters
    lengthscale = np.sqrt(2) * found["layers.1.lengthscale"]  # the linear kernel divides by the number of features
    np.testing.assert_allclose(lengthscale, regressor.kernel_.k1.k2.length_scale, rtol=1e-2)
    np.testing.assert_allclose(found["likelihood.noise"] ** 2, regressor.kernel_.k2.noise_level, rtol=1e-2)
    mean, deviation = regressor.predict(np.asarray(data.standardize_inputs(NEW)), return_std=True)
    prediction = dkp.predict(posterior, NEW, key=jax.random.key(0))
    scale = data.y_standardization.scale[0]
    np.testing.assert_allclose(prediction.mean, data.undo_targets(mean[:, None]), atol=1e-2 * scale)
    np.testing.assert_allclose(np.sqrt(prediction.variance), deviation * scale, rtol=1e-2)


def test_restarts_keep_the_best():
    posterior = learned()
    assert len(posterior.starts) == 3
    np.testing.assert_allclose(posterior.log_marginal_likelihood, max(posterior.starts), rtol=1e-12)
    assert posterior.converged and posterior.iterations > 1


def test_outputs_share_the_kernel():
    two = dkp.condition(gp(), dataset(np.column_stack([Y, Y])))
    np.testing.assert_allclose(two.log_marginal_likelihood, 2 * dkp.condition(gp(), dataset()).log_marginal_likelihood)


def test_float32_is_close():
    single, double = (dkp.condition(gp(), dataset(dtype=d)) for d in (np.float32, np.float64))
    np.testing.assert_allclose(single.log_marginal_likelihood, double.log_marginal_likelihood, rtol=1e-4)
    means = [dkp.predict(p, NEW, key=jax.random.key(0)).mean for p in (single, double)]
    np.testing.assert_allclose(means[0], means[1], atol=1e-3)


def test_a_draw_is_the_posterior_itself():
    draws = dkp.condition(gp(), dataset()).sample(jax.random.key(0), 5)
    assert draws.inducing.shape == (1, 12, 2) and draws.factors == ()


REFUSED = {
    "a bottleneck": (
        dkp.DeepKernelProcess(
            layers=[kernels.Linear(), dkp.InverseWishart(delta=3.0)], likelihood=likelihoods.Gaussian(noise=0.1)
        ),
        "Expected a model without bottlenecks",
    ),
    "a distribution": (gp(lengthscale=dist.LogNormal(0.0, 1.0)), "Expected numbers or learn"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_exact_inference_cannot_do(name):
    described, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"{message}.* Got"):
        dkp.condition(described, dataset())


def test_too_many_points():
    with pytest.raises(ValueError, match=r"Expected .*Got"):
        dkp.condition(gp(), dataset(), max_points=11)
