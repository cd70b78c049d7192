"""Ensembles of networks under gradient flow: matrix exponentials, ordinary differential equations,
finite networks."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import linalg

import dkp
from dkp import kernels, likelihoods

RNG = np.random.default_rng(1)
X, NEW = RNG.normal(size=(9, 3)), RNG.normal(size=(4, 3))
Y = np.sin(X[:, 0])
LAYERS = [kernels.Affine(1.5, 0.1), kernels.Erf(), kernels.Affine(1.2, 0.05)]
KEY = jax.random.key(0)


def model(layers=LAYERS, noise=0.1):
    return dkp.DeepKernelProcess(layers=layers, likelihood=likelihoods.Gaussian(noise=noise))


def raw(x=X, y=Y, dtype=None):
    return dkp.Dataset.from_arrays(x, y, standardize=False, dtype=dtype)


@functools.cache
def matrices():
    """K and Theta: among the data, new against data, among the new."""
    return [
        [np.asarray(kernel(LAYERS, *points)) for points in ((X,), (NEW, X), (NEW,))]
        for kernel in (dkp.nngp_kernel, dkp.ntk_kernel)
    ]


def by_matrix_exponential(time, diag_reg):
    (k, k_new, k_own), (theta, theta_new, _) = matrices()
    theta = theta + diag_reg * np.trace(theta) / 9 * np.eye(9)
    decay = np.zeros((9, 9)) if time == math.inf else linalg.expm(-theta * time)
    f = theta_new @ np.linalg.inv(theta) @ (np.eye(9) - decay)
    return f @ Y, k_own + f @ k @ f.T - f @ k_new.T - k_new @ f.T


@pytest.mark.parametrize("time", [1e-3, 1.0, 30.0, math.inf])
@pytest.mark.parametrize("diag_reg", [0.0, 0.1])
@pytest.mark.rows(2)
def test_moments_are_those_of_the_matrix_exponential(time, diag_reg):
    mean, covariance = by_matrix_exponential(time, diag_reg)
    prediction = dkp.predict(
        dkp.gradient_flow(model(), raw(), time=time, diag_reg=diag_reg), NEW, key=KEY
    )
    np.testing.assert_allclose(prediction.mean, mean, rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(prediction.latent_covariance, covariance, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(prediction.variance, np.diag(covariance) + 0.1**2, rtol=1e-7)


def test_it_starts_at_the_prior_and_ends_at_the_data():
    (k, _, k_own), _ = matrices()
    start = dkp.predict(dkp.gradient_flow(model(), raw(), time=1e-9), NEW, key=KEY)
    np.testing.assert_allclose(start.mean, 0, atol=1e-7)
    np.testing.assert_allclose(start.latent_covariance, k_own, rtol=1e-6)
    end = dkp.predict(dkp.gradient_flow(model(), raw()), X, key=KEY)
    np.testing.assert_allclose(end.mean, Y, atol=1e-9)
    np.testing.assert_allclose(end.latent_covariance, 0, atol=1e-9 * np.max(k))


@pytest.mark.slow
def test_wide_networks_trained_by_gradient_descent():
    """200 networks of width 512, 400 steps: means within 4.5 standard errors and 1/sqrt(width) of
    the ensemble's at 4 points, standard deviations within 20% (2.8 standard errors of a standard
    deviation, and the width's error)."""
    width, rate, steps = 512, 0.05, 400

    def network(parameters, x):
        (w1, b1), (w2, b2) = parameters
        hidden = jax.scipy.special.erf(jnp.sqrt(1.5 / 3) * x @ w1 + jnp.sqrt(0.1) * b1)
        return jnp.sqrt(1.2 / width) * hidden @ w2 + jnp.sqrt(0.05) * b2

    def trained(key):
        keys = jax.random.split(key, 4)
        shapes = ((3, width), (1, width)), ((width,), (1,))
        start = jax.tree.unflatten(
            jax.tree.structure(((0, 0), (0, 0))),
            [jax.random.normal(k, s) for k, s in zip(keys, [*shapes[0], *shapes[1]], strict=True)],
        )
        gradient = jax.grad(lambda p: jnp.sum((network(p, jnp.asarray(X)) - Y) ** 2) / 2)

        def step(_, p):
            return jax.tree.map(lambda a, g: a - rate * g, p, gradient(p))

        return network(jax.lax.fori_loop(0, steps, step, start), jnp.asarray(NEW))

    outputs = np.asarray(
        jax.jit(lambda keys: jax.lax.map(trained, keys))(jax.random.split(KEY, 200))
    )
    mean, covariance = by_matrix_exponential(rate * steps, 0.0)
    deviation = np.sqrt(np.diag(covariance))
    assert np.all(
        np.abs(outputs.mean(0) - mean) < deviation * (4.5 / np.sqrt(200) + 1 / np.sqrt(width))
    )
    np.testing.assert_allclose(outputs.std(0, ddof=1), deviation, rtol=0.2)


def test_one_decomposition_for_all_times_and_ridges():
    flow = dkp.gradient_flow(model(), raw())
    for changed, kwargs in (
        (flow.at(2.0), {"time": 2.0}),
        (flow.with_diag_reg(0.3).at(5.0), {"time": 5.0, "diag_reg": 0.3}),
    ):
        anew = dkp.gradient_flow(model(), raw(), **kwargs)
        assert (
            changed.tangent is flow.tangent
            and anew.time == changed.time
            and anew.diag_reg == changed.diag_reg
        )
        a, b = (dkp.predict(p, NEW, key=KEY).mean for p in (changed, anew))
        np.testing.assert_array_equal(a, b)


def test_the_ridge_that_acts_like_early_stopping():
    """To first order in small eigenvalues the two filters agree; at lambda = 1/t they are 1 - 1/e
    and 1/2."""
    theta = matrices()[1][0]
    time = 1e-4
    diag_reg = dkp.diag_reg_of_time(time, theta)
    assert dkp.time_of_diag_reg(diag_reg, theta) == pytest.approx(time)
    assert (
        dkp.time_of_diag_reg(0.0, theta) == math.inf and dkp.diag_reg_of_time(math.inf, theta) == 0
    )
    flow, theta_new = dkp.gradient_flow(model(), raw(), time=time), matrices()[1][1]
    ridge = diag_reg * np.trace(theta) / 9
    ridge_mean = theta_new @ np.linalg.solve(theta + ridge * np.eye(9), Y)
    np.testing.assert_allclose(dkp.predict(flow, NEW, key=KEY).mean, ridge_mean, rtol=2e-3)


@pytest.mark.parametrize("time", [0.01, 1.0, 100.0, 1e4, math.inf])
@pytest.mark.parametrize("diag_reg", [0.0, 0.05])
def test_leave_one_out_is_training_without_the_point(time, diag_reg):
    mean = dkp.gradient_flow(model(), raw(), time=time).leave_one_out_mean(diag_reg)
    theta = matrices()[1][0]
    theta = theta + diag_reg * np.trace(theta) / 9 * np.eye(9)
    for n in (0, 5):
        others = np.delete(np.arange(9), n)
        rest = theta[np.ix_(others, others)]
        decay = np.zeros((8, 8)) if time == math.inf else linalg.expm(-rest * time)
        expected = theta[n, others] @ np.linalg.solve(rest, (np.eye(8) - decay) @ Y[others])
        np.testing.assert_allclose(mean[n, 0], expected, rtol=1e-6, atol=1e-8)


def test_the_mean_without_variances_is_the_mean():
    flow = dkp.gradient_flow(model(), raw(), time=3.0)
    new = flow.data.standardize_inputs(NEW)
    mean = dkp.predict(flow, NEW, key=KEY).mean
    np.testing.assert_allclose(flow.latent_mean(new, 3)[:, 0], mean, rtol=1e-9)


def test_units_outputs_and_dtypes():
    two = np.column_stack([5 + 100 * Y, Y])
    prediction = dkp.predict(
        dkp.gradient_flow(model(), dkp.Dataset.from_arrays(X, two), time=10.0), NEW, key=KEY
    )
    assert prediction.mean.shape == (4, 2) and prediction.latent_covariance.shape == (2, 4, 4)
    np.testing.assert_allclose(prediction.mean[:, 0], 5 + 100 * prediction.mean[:, 1], rtol=1e-9)
    np.testing.assert_allclose(
        prediction.latent_covariance[0], 1e4 * prediction.latent_covariance[1], rtol=1e-9
    )
    single = dkp.predict(dkp.gradient_flow(model(), raw(dtype=np.float32), time=10.0), NEW, key=KEY)
    assert single.latent_mean.dtype == jnp.float32
    mean, covariance = by_matrix_exponential(10.0, 0.0)
    np.testing.assert_allclose(single.mean, mean, atol=1e-3)
    np.testing.assert_allclose(single.latent_covariance, covariance, atol=1e-3)


def test_hyperparameters_to_be_learned_stand_at_their_start():
    layers = [kernels.Affine(dkp.learn(1.5), 0.1), *LAYERS[1:]]
    a, b = (
        dkp.predict(dkp.gradient_flow(model(each), raw()), NEW, key=KEY).mean
        for each in (layers, LAYERS)
    )
    np.testing.assert_array_equal(a, b)


def test_arviz_and_summary():
    flow = dkp.gradient_flow(model(), raw(), time=3.0)
    assert isinstance(flow, dkp.GradientFlowEnsemble)
    assert flow.summary()["smallest_eigenvalue"] > 0 and flow.summary()["time"] == 3.0
    data = dkp.to_arviz(flow, key=KEY, n_samples=5)
    assert data["posterior_predictive"]["y"].shape == (1, 5, 9)


def test_a_warning_where_rounding_hides_the_smallest_eigenvalue():
    twice = dkp.Dataset.from_arrays(np.repeat(X, 2, axis=0), np.repeat(Y, 2), standardize=False)
    with pytest.warns(RuntimeWarning, match=r"smallest eigenvalue .*Use a diag_reg above"):
        dkp.gradient_flow(model(), twice)
    dkp.gradient_flow(model(), twice, diag_reg=1e-8)  # no warning
    early = dkp.gradient_flow(model(), twice, time=100.0)
    with pytest.warns(RuntimeWarning, match="smallest eigenvalue"):
        early.at(math.inf)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time": 0.0}, "time"),
        ({"time": math.nan}, "time"),
        ({"diag_reg": -1.0}, "diag_reg"),
        ({"max_points": 8}, "max_points"),
        ({"model": model([kernels.SquaredExponential(1.0, 1.0)])}, "weights to train"),
        ({"model": model([*LAYERS, dkp.InverseWishart()])}, "without bottlenecks"),
        ({"model": model([kernels.Affine(dist.LogNormal(0.0, 1.0))])}, "numbers or learn"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match="Expected .*Got ") as caught:
        dkp.gradient_flow(**{"model": model(), "data": raw(), **change})
    assert message in str(caught.value)


def test_bad_matrices_for_the_map():
    for matrix in (np.ones((2, 3)), -np.eye(2)):
        with pytest.raises(
            ValueError, match="Expected kernel to be a square matrix.* Got shape .* and trace"
        ):
            dkp.diag_reg_of_time(1.0, matrix)
