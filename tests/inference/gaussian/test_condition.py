"""Exact Gaussian processes against scipy and scikit-learn."""

import functools

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import optimize, stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Kernel, WhiteKernel

import dkp
from dkp import kernels, likelihoods
from dkp.inference.gaussian import marginal_likelihood
from dkp.model.defaults import ard_gaussian_process
from dkp.model.hyperparameters import substitute
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
    # the linear kernel divides by the number of features
    squared = ((x[:, None] - x[None]) ** 2).sum(-1) / 2
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
    np.testing.assert_allclose(
        posterior.log_marginal_likelihood, regressor.log_marginal_likelihood_value_, atol=1e-3
    )
    found = posterior.hyperparameters
    # the linear kernel divides by the number of features
    lengthscale = np.sqrt(2) * found["layers.1.lengthscale"]
    np.testing.assert_allclose(lengthscale, regressor.kernel_.k1.k2.length_scale, rtol=1e-2)
    np.testing.assert_allclose(
        found["likelihood.noise"] ** 2, regressor.kernel_.k2.noise_level, rtol=1e-2
    )
    mean, deviation = regressor.predict(np.asarray(data.standardize_inputs(NEW)), return_std=True)
    prediction = dkp.predict(posterior, NEW, key=jax.random.key(0))
    scale = data.y_standardization.scale[0]
    np.testing.assert_allclose(prediction.mean, data.undo_targets(mean[:, None]), atol=1e-2 * scale)
    np.testing.assert_allclose(np.sqrt(prediction.variance), deviation * scale, rtol=1e-2)


def test_restarts_keep_the_best():
    posterior = learned()
    assert len(posterior.starts) == 3
    # The optimiser's factorisation adds jitter.
    np.testing.assert_allclose(posterior.log_marginal_likelihood, max(posterior.starts), rtol=1e-8)
    assert posterior.converged and posterior.iterations > 1


def repeated_rows(seed):
    """Whole numbers as targets, some rows twice."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(30, 2))
    y = np.round(np.sin(2 * x[:, 0]) + 0.5 * rng.normal(size=30))
    x[:12], y[:12] = x[12:24], y[12:24]
    return x, y


@pytest.mark.filterwarnings("ignore:Expected the smallest eigenvalue:RuntimeWarning")
@pytest.mark.slow
def test_evidence_without_a_bound_is_left_out():
    """Repeated rows have any density where there is no noise. Of distinct rows the highest evidence
    counts."""
    x, y = repeated_rows(1)
    with relaxed():
        found = dkp.condition(
            ard_gaussian_process(), dkp.Dataset.from_arrays(x, y), key=jax.random.key(0), restarts=2
        )
        # the second start has no bound
        assert found.starts[1] > 100 > found.starts[0] and found.ridge > 0.1
        assert found.log_marginal_likelihood == pytest.approx(found.starts[0], rel=1e-6)
        smooth = dkp.Dataset.from_arrays(x[12:], np.sin(x[12:, 0]))
        noiseless = dkp.condition(ard_gaussian_process(), smooth, key=jax.random.key(0), restarts=2)
        assert noiseless.ridge < 1e-8 and noiseless.log_marginal_likelihood > 0
        assert marginal_likelihood._highest([3.0, 2.0, 1.0], lambda i: i == 0, smooth) == 0
    assert marginal_likelihood._highest([3.0, 1.0, 2.0], lambda i: i == 0, found.data) == 2
    assert marginal_likelihood._highest([3.0, 1.0, -np.inf], lambda i: i != 2, found.data) == 0


def test_outputs_share_the_kernel():
    two = dkp.condition(gp(), dataset(np.column_stack([Y, Y])))
    np.testing.assert_allclose(
        two.log_marginal_likelihood, 2 * dkp.condition(gp(), dataset()).log_marginal_likelihood
    )


def test_float32_is_close():
    single, double = (dkp.condition(gp(), dataset(dtype=d)) for d in (np.float32, np.float64))
    np.testing.assert_allclose(
        single.log_marginal_likelihood, double.log_marginal_likelihood, rtol=1e-4
    )
    means = [dkp.predict(p, NEW, key=jax.random.key(0)).mean for p in (single, double)]
    np.testing.assert_allclose(means[0], means[1], atol=1e-3)


def test_a_draw_is_the_posterior_itself():
    draws = dkp.condition(gp(), dataset()).sample(jax.random.key(0), 5)
    assert draws.inducing.shape == (1, 12, 2) and draws.factors == ()


# --- infinitely wide networks ---------------------------------------------------------------------

LAYERS = [kernels.Affine(1.5, 0.1), kernels.ReLU(), kernels.Affine(1.2, 0.05)]
NETWORK = dkp.DeepKernelProcess(layers=LAYERS, likelihood=likelihoods.Gaussian(noise=0.3))


class Fixed(Kernel):
    """A scikit-learn kernel that looks its values up in our matrix."""

    def __init__(self, points, matrix):
        self.points, self.matrix = points, matrix

    def __call__(self, x, y=None, eval_gradient=False):
        return self.matrix[np.ix_(self.rows(x), self.rows(x if y is None else y))]

    def rows(self, x):
        return [int(np.flatnonzero((self.points == point).all(1))[0]) for point in x]

    def diag(self, x):
        return np.diag(self(x))

    def is_stationary(self):
        return False


def test_nngp_posterior_is_scikit_learns_on_our_matrix():
    data = dkp.Dataset.from_arrays(X, Y, standardize=False)
    points = np.concatenate([X, NEW])
    kernel = Fixed(points, dkp.nngp_kernel(LAYERS, points))
    regressor = GaussianProcessRegressor(kernel, alpha=0.09, optimizer=None).fit(X, Y)
    mean, covariance = regressor.predict(NEW, return_cov=True)
    posterior = dkp.condition(NETWORK, data)
    prediction = dkp.predict(posterior, NEW, key=jax.random.key(0))
    np.testing.assert_allclose(prediction.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(prediction.latent_covariance, covariance, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(prediction.variance, np.diag(covariance) + 0.09, rtol=1e-8)
    np.testing.assert_allclose(
        posterior.log_marginal_likelihood, regressor.log_marginal_likelihood_value_, rtol=1e-9
    )


def test_relative_regularisation_is_more_noise():
    data = dataset()
    regularised = dkp.condition(NETWORK, data, diag_reg=0.2)
    mean_variance = np.trace(dkp.nngp_kernel(LAYERS, np.asarray(data.x))) / 12
    np.testing.assert_allclose(regularised.ridge, 0.09 + 0.2 * mean_variance, rtol=1e-12)
    noisier = NETWORK.replace(
        likelihood=likelihoods.Gaussian(noise=float(np.sqrt(regularised.ridge)))
    )
    same = dkp.condition(noisier, data)
    np.testing.assert_allclose(
        regularised.log_marginal_likelihood, same.log_marginal_likelihood, rtol=1e-10
    )
    again = dkp.condition(NETWORK, data).with_diag_reg(0.2)
    means = [dkp.predict(p, NEW, key=jax.random.key(0)).mean for p in (regularised, same, again)]
    np.testing.assert_allclose(means[1], means[0], rtol=1e-9)
    np.testing.assert_array_equal(means[2], means[0])


def test_leave_one_out_is_conditioning_without_the_point():
    x, y = (np.asarray(a) for a in (dataset().x, dataset().y))
    mean, variance = dkp.condition(NETWORK, dataset()).leave_one_out()
    for n in (0, 7):
        others = np.delete(np.arange(12), n)
        without = dkp.condition(
            NETWORK, dkp.Dataset.from_arrays(x[others], y[others], standardize=False)
        )
        prediction = dkp.predict(without, x[n : n + 1], key=jax.random.key(0))
        np.testing.assert_allclose(mean[n], prediction.mean[0], rtol=1e-8)
        np.testing.assert_allclose(variance[n], prediction.variance[0, 0], rtol=1e-8)


def test_tuning_keeps_the_least_leave_one_out_error():
    posterior, grid = dkp.condition(NETWORK, dataset()), [0.0, 0.1, 10.0]
    errors = [
        np.mean((p.leave_one_out()[0] - p.data.y) ** 2) for p in map(posterior.with_diag_reg, grid)
    ]
    assert dkp.tune_diag_reg(posterior, grid).diag_reg == grid[int(np.argmin(errors))]
    for wrong in ([], [-1.0]):
        with pytest.raises(ValueError, match="Expected diag_reg .*Got "):
            dkp.tune_diag_reg(posterior, wrong)
    with pytest.raises(ValueError, match="Expected a posterior of .*Got "):
        dkp.tune_diag_reg(NETWORK, grid)


def test_noise_alone_is_learned_from_the_spectrum():
    """The optimum of the noise is that of scipy's search over the dense likelihood."""
    noise_only = NETWORK.replace(likelihood=likelihoods.Gaussian(noise=dkp.learn(0.3)))
    with relaxed():
        posterior = dkp.condition(noise_only, dataset())
    kernel, y = dkp.nngp_kernel(LAYERS, dataset().x), np.asarray(dataset().y[:, 0])

    def loss(log_noise):
        return -stats.multivariate_normal(
            np.zeros(12), kernel + np.exp(2 * log_noise) * np.eye(12)
        ).logpdf(y)

    found = optimize.minimize_scalar(loss, bounds=(-5, 2), method="bounded")
    np.testing.assert_allclose(posterior.log_marginal_likelihood, -found.fun, atol=1e-4)
    np.testing.assert_allclose(
        np.log(posterior.hyperparameters["likelihood.noise"]), found.x, atol=0.02
    )


def test_learned_hyperparameters_of_a_network():
    """The optimum is no worse than its neighbours by more than the tolerance of the optimiser, 1e-4
    a point."""
    layers = [
        kernels.Affine(dkp.learn(1.0), dkp.learn(0.1)),
        kernels.Erf(),
        kernels.Affine(dkp.learn(1.0)),
    ]
    described = dkp.DeepKernelProcess(
        layers=layers, likelihood=likelihoods.Gaussian(noise=dkp.learn(0.3))
    )
    with relaxed():
        posterior = dkp.condition(described, dataset())
    start = dkp.condition(posterior.fitted_model, dataset())
    np.testing.assert_allclose(
        start.log_marginal_likelihood, posterior.log_marginal_likelihood, rtol=1e-9
    )
    for name, value in posterior.hyperparameters.items():
        for factor in (0.9, 1.1):
            moved = substitute(posterior.fitted_model, {name: float(value) * factor})
            assert (
                dkp.condition(moved, dataset()).log_marginal_likelihood
                < posterior.log_marginal_likelihood + 1e-3
            )


@pytest.mark.parametrize(
    "top", [[kernels.Flatten()], [kernels.AvgPool(2), kernels.GlobalAvgPool()]]
)
@pytest.mark.rows(1)
def test_images(top):
    images, targets = RNG.normal(size=(10, 4, 4, 2)), RNG.normal(size=10)
    layers = [kernels.Conv(3, weight_var=1.5, bias_var=0.1), kernels.ReLU(), *top, kernels.Affine()]
    data = dkp.Dataset.from_arrays(images, targets)
    np.testing.assert_allclose(np.asarray(data.x).mean((0, 1, 2)), 0, atol=1e-12)
    posterior = dkp.condition(NETWORK.replace(layers=tuple(layers)), data)
    new = RNG.normal(size=(3, 4, 4, 2))
    x, z = np.asarray(data.x), np.asarray(data.standardize_inputs(new))
    gram, cross = dkp.nngp_kernel(layers, x) + 0.09 * np.eye(10), dkp.nngp_kernel(layers, z, x)
    mean = cross @ np.linalg.solve(gram, np.asarray(data.y))
    covariance = dkp.nngp_kernel(layers, z) - cross @ np.linalg.solve(gram, cross.T)
    prediction = dkp.predict(posterior, new, key=jax.random.key(0), chunk=2)
    scale = data.y_standardization.scale[0]
    np.testing.assert_allclose(prediction.mean, data.undo_targets(mean), rtol=1e-8)
    np.testing.assert_allclose(
        prediction.latent_covariance, scale**2 * covariance, rtol=1e-7, atol=1e-10
    )
    np.testing.assert_allclose(
        prediction.variance, scale**2 * (np.diag(covariance) + 0.09), rtol=1e-8
    )
    constant = dkp.to_arviz(posterior, key=jax.random.key(0), n_samples=2)["constant_data"]["x"]
    assert constant.dims == ("row", "height", "width", "feature")


def test_a_warning_beyond_the_critical_number_of_points():
    """The smallest eigenvalue of a smooth kernel falls below float32's rounding errors; float64
    still sees it."""
    x = np.linspace(-1, 1, 40)[:, None]
    smooth = NETWORK.replace(
        layers=(kernels.SquaredExponential(1.0, 1.0),), likelihood=likelihoods.Gaussian(noise=1e-4)
    )
    single, double = (
        dkp.Dataset.from_arrays(x, x[:, 0], dtype=d) for d in (np.float32, np.float64)
    )
    with pytest.warns(RuntimeWarning, match=r"smallest eigenvalue .*float32.*Got .*float64"):
        posterior = dkp.condition(smooth, single)
    assert posterior.summary()["smallest_eigenvalue"] < posterior.summary()["eigenvalue_noise"]
    assert np.all(np.isfinite(dkp.predict(posterior, x, key=jax.random.key(0)).mean))
    dkp.condition(smooth, double)
    regularised = dkp.condition(smooth, single, diag_reg=1e-4)
    with pytest.warns(RuntimeWarning, match="smallest eigenvalue"):
        regularised.with_diag_reg(0.0)


REFUSED = {
    "a bottleneck": (
        dkp.DeepKernelProcess(
            layers=[kernels.Linear(), dkp.InverseWishart(delta=3.0)],
            likelihood=likelihoods.Gaussian(noise=0.1),
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
