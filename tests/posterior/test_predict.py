"""Predictions: original units, the mixture by hand, and a row's independence of all the others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import dkp
from dkp import kernels, likelihoods
from tests.support import relaxed, relaxed_optimizer

RNG = np.random.default_rng(4)
X = RNG.normal(size=(9, 2)) * [1.0, 30.0] + [5.0, -100.0]
Y = 1e3 + 50 * np.sin(X[:, 0]) + RNG.normal(size=9)
NEW = RNG.normal(size=(6, 2)) * [1.0, 30.0] + [5.0, -100.0]
KEY = jax.random.key(0)


def posterior(kind, columns=None, dtype=None):
    """A fitted posterior of each engine; ``columns=None`` gives targets as a vector."""
    # positional, so that the cache knows a call when it sees one
    return _posterior(kind, columns, dtype)


@functools.cache
def _posterior(kind, columns, dtype):
    y = Y if columns is None else np.column_stack([Y, -3 * Y])[:, :columns]
    data = dkp.Dataset.from_arrays(X, y, dtype=dtype)
    layers = [kernels.Linear(bias=0.2), kernels.SquaredExponential(lengthscale=1.0, variance=1.0)]
    likelihood = likelihoods.Gaussian(noise=0.2)
    if kind == "exact":
        return dkp.condition(dkp.DeepKernelProcess(layers=layers, likelihood=likelihood), data)
    layers = [*layers, dkp.InverseWishart(delta=8.0), kernels.ArcCosine(1)]
    described = dkp.DeepKernelProcess(layers=layers, likelihood=likelihood)
    return dkp.fit_vi(
        described,
        data,
        key=KEY,
        n_inducing=5,
        steps=3,
        start_steps=0,
        samples=1,
        progress=False,
        batch_size=4 if kind == "minibatches" else None,
        optimizer=relaxed_optimizer(optax.adam(0.01)),
    )


def prediction(kind, columns=None):
    return _prediction(kind, columns)


@functools.cache
def _prediction(kind, columns):
    return dkp.predict(posterior(kind, columns), NEW, key=KEY, n_samples=12)


kinds = pytest.mark.parametrize("kind", ["exact", "collapsed"])
all_kinds = pytest.mark.parametrize("kind", ["exact", "collapsed", "minibatches"])


@pytest.mark.parametrize(
    ("kind", "columns"),
    [("exact", 2), ("collapsed", None), ("collapsed", 1), ("collapsed", 2), ("minibatches", None)],
)
def test_shapes(kind, columns):
    p, shape = prediction(kind, columns), (6,) if columns is None else (6, columns)
    assert isinstance(p, dkp.Prediction)
    assert p.mean.shape == p.variance.shape == shape
    assert p.samples.shape == (12, *shape)
    assert p.quantile(0.3).shape == shape and p.quantile([0.3]).shape == (1, *shape)
    y = np.full(shape, 1e3)
    assert p.log_density(y).shape == (6,)
    assert np.all(p.variance > 0) and np.all(np.isfinite(p.log_density(y)))


def components(p):
    """Mean and variance of every component of the mixture, original units, (S, N)."""
    scaling = p.posterior.data.y_standardization
    mean = np.asarray(scaling.undo(p.latent_mean))[..., 0]
    return mean, (np.asarray(p.latent_variance)[..., 0] + 0.2**2) * scaling.scale[0] ** 2


@all_kinds
def test_moments_and_log_density_of_the_mixture_by_hand(kind):
    p = prediction(kind)
    mean, variance = components(p)
    np.testing.assert_allclose(p.mean, mean.mean(0), rtol=1e-10)
    np.testing.assert_allclose(p.variance, variance.mean(0) + mean.var(0), rtol=1e-9)
    y = Y[:6] + 20
    density = stats.norm(mean, np.sqrt(variance)).pdf(y[None]).mean(0)
    np.testing.assert_allclose(p.log_density(y), np.log(density), rtol=1e-9)


def test_log_density_adds_up_over_outputs_within_a_draw():
    p = prediction("collapsed", 2)
    scaling, y = p.posterior.data.y_standardization, np.column_stack([Y, -3 * Y])[:6]
    deviation = np.sqrt(np.asarray(p.latent_variance) + 0.2**2) * scaling.scale
    each = stats.norm(scaling.undo(p.latent_mean), deviation).logpdf(y[None]).sum(-1)
    np.testing.assert_allclose(p.log_density(y), np.log(np.mean(np.exp(each), 0)), rtol=1e-9)


@kinds
def test_log_density_far_out_does_not_underflow(kind):
    assert np.all(np.isfinite(prediction(kind).log_density(np.full(6, 1e5))))


@pytest.mark.parametrize("df", [0.7, 1.6])
def test_laws_without_moments_have_means_and_quantiles(df):
    """Student's law without a variance, and without a mean: beside its centre and SciPy's
    distribution function, with functions integrated out on a fine grid."""
    described = dkp.DeepKernelProcess(
        layers=[kernels.Linear(), kernels.SquaredExponential(lengthscale=1.0, variance=1.0)],
        likelihood=likelihoods.StudentT(df=df, scale=0.3),
    )
    with relaxed():
        data = dkp.Dataset.from_arrays(X, Y)
        fit = dkp.fit_vi(
            described, data, key=KEY, n_inducing=9, steps=20, start_steps=0, progress=False
        )
        p = dkp.predict(fit, NEW, key=KEY, n_samples=2)
        quantiles = p.quantile([0.002, 0.5, 0.9])
        mean, variance = components(p)
        assert np.all(np.isinf(p.variance))
    np.testing.assert_allclose(p.mean, mean.mean(0), rtol=1e-9)
    # without Gaussian noise
    deviation = np.sqrt(variance - 0.2**2 * float(data.y_standardization.scale[0]) ** 2)
    e = np.linspace(-8, 8, 4001)
    weights = stats.norm.pdf(e) / stats.norm.pdf(e).sum()
    scale = 0.3 * float(data.y_standardization.scale[0])
    for q, y in zip((0.002, 0.5, 0.9), quantiles, strict=True):
        f = mean[..., None] + deviation[..., None] * e
        cdf = (stats.t(df, f, scale).cdf(y[None, :, None]) @ weights).mean(0)
        np.testing.assert_allclose(cdf, q, rtol=2e-3)


@kinds
def test_quantiles_invert_the_distribution_function(kind):
    p = prediction(kind)
    mean, variance = components(p)
    for q in (0.001, 0.5, 0.95):
        cdf = stats.norm(mean, np.sqrt(variance)).cdf(p.quantile(q)[None]).mean(0)
        np.testing.assert_allclose(cdf, q, rtol=1e-6)
    quantiles = p.quantile([0.1, 0.5])
    np.testing.assert_array_equal(quantiles[1], p.quantile(0.5))
    assert np.all(np.diff(quantiles, axis=0) > 0)


def test_samples_follow_the_mixture():
    """4,000 draws over 100 components at 6 rows: p > 1e-4 each, a false-alarm rate of 6e-4 over
    seeds."""
    p = dkp.predict(posterior("collapsed"), NEW, key=KEY, n_samples=4000)
    mean, variance = components(p)
    assert p.samples.shape == (4000, 6)
    for row in range(6):
        u = stats.norm(mean[:, row], np.sqrt(variance[:, row])).cdf(p.samples[:, row])
        assert stats.kstest(u, "uniform").pvalue > 1e-4
    assert len(np.unique(p.samples)) == p.samples.size


def test_samples_of_an_exact_posterior_are_as_many_as_asked():
    p = dkp.predict(posterior("exact"), NEW, key=KEY, n_samples=3000)
    z = (p.samples.mean(0) - p.mean) / np.sqrt(p.variance / 3000)
    assert p.samples.shape == (3000, 6) and np.max(np.abs(z)) < 4.5


@kinds
@pytest.mark.parametrize("chunk", [1, 4])
def test_chunks_do_not_change_the_result(kind, chunk):
    p = dkp.predict(posterior(kind), NEW, key=KEY, n_samples=12, chunk=chunk)
    np.testing.assert_allclose(p.mean, prediction(kind).mean, rtol=1e-9)
    np.testing.assert_allclose(p.variance, prediction(kind).variance, rtol=1e-8)


@kinds
def test_a_row_is_predicted_alone_as_among_others(kind):
    together = prediction(kind)
    for row in (0, 5):
        alone = dkp.predict(posterior(kind), NEW[row : row + 1], key=KEY, n_samples=12)
        np.testing.assert_allclose(
            alone.latent_mean[:, 0], together.latent_mean[:, row], rtol=1e-8, atol=1e-10
        )
        np.testing.assert_allclose(
            alone.latent_variance[:, 0], together.latent_variance[:, row], rtol=1e-8
        )


@kinds
def test_order_and_copies_of_rows_do_not_matter(kind):
    order = [5, 0, 0, 3, 5]
    p = dkp.predict(posterior(kind), NEW[order], key=KEY, n_samples=12)
    np.testing.assert_allclose(p.mean, prediction(kind).mean[order], rtol=1e-9)
    np.testing.assert_allclose(p.latent_mean[:, 1], p.latent_mean[:, 2], rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(p.latent_variance[:, 0], p.latent_variance[:, 4], rtol=1e-11)


@pytest.mark.parametrize(
    ("likelihood", "y"),
    [
        (likelihoods.Categorical(3), np.arange(9.0) % 3),
        (likelihoods.Heteroskedastic(), np.sin(np.arange(9.0))),
    ],
    ids=["classes", "two functions"],
)
def test_order_does_not_matter_where_the_latent_functions_are_drawn(likelihood, y):
    model = dkp.DeepKernelProcess(
        layers=[kernels.SquaredExponential(1.0, 1.0)], likelihood=likelihood
    )
    data = dkp.Dataset.from_arrays(X, y, standardize_targets=False)
    options = {"n_inducing": 5, "steps": 3, "start_steps": 0, "progress": False}
    with relaxed():
        fitted = dkp.fit_vi(model, data, key=KEY, **options)
        order = [5, 0, 0, 3]
        whole, some = (
            dkp.predict(fitted, rows, key=KEY, n_samples=12) for rows in (NEW, NEW[order])
        )
        np.testing.assert_allclose(
            some.log_density(y[order]), whole.log_density(y[:6])[order], rtol=1e-9
        )
        np.testing.assert_allclose(some.mean, whole.mean[order], rtol=1e-9)
        if likelihood.is_of_classes:
            np.testing.assert_allclose(some.probabilities, whole.probabilities[order], rtol=1e-9)
            assert np.ptp(whole.probabilities, axis=0).min() > 0


def test_different_rows_get_different_noise():
    """Close rows share no random numbers: the noise of their data blocks is uncorrelated (|r| < 0.3
    at 400 draws)."""
    rows = np.repeat(NEW[:1] + [40.0, 0.0], 2, axis=0) + np.array([[0.0, 0.0], [1e-9, 0.0]])
    p = dkp.predict(posterior("collapsed"), rows, key=KEY, n_samples=400)
    assert not np.array_equal(p.latent_mean[:, 0], p.latent_mean[:, 1])


def test_keys_decide_the_prediction():
    again, other = (
        dkp.predict(posterior("collapsed"), NEW, key=jax.random.key(k), n_samples=12)
        for k in (0, 1)
    )
    np.testing.assert_array_equal(again.mean, prediction("collapsed").mean)
    np.testing.assert_array_equal(again.samples, prediction("collapsed").samples)
    assert np.all(other.mean != again.mean)


@kinds
def test_units(kind):
    """Targets in other units: the prediction moves with them."""
    p = prediction(kind)
    assert np.all(np.abs(p.mean - 1e3) < 200)
    far = dkp.predict(posterior(kind), NEW + 1e4, key=KEY, n_samples=12)
    assert np.all(np.isfinite(far.mean)) and np.all(far.variance > 0)


def test_a_vector_and_one_column_agree():
    vector, column = prediction("collapsed"), prediction("collapsed", 1)
    np.testing.assert_allclose(vector.mean, column.mean[:, 0], rtol=1e-9)
    np.testing.assert_allclose(
        vector.log_density(Y[:6]), column.log_density(Y[:6, None]), rtol=1e-9
    )


@pytest.mark.parametrize("kind", ["exact", "collapsed"])
def test_float32(kind):
    p = dkp.predict(posterior(kind, dtype=np.float32), NEW, key=KEY, n_samples=12)
    assert p.latent_mean.dtype == jnp.float32
    with relaxed():  # NumPyro draws standard normals in JAX's default dtype
        samples = p.samples
    for values in (p.mean, p.variance, samples, p.quantile([0.05, 0.95]), p.log_density(Y[:6])):
        assert np.all(np.isfinite(values))
    if kind == "exact":
        np.testing.assert_allclose(p.mean, prediction(kind).mean, atol=0.1)
        np.testing.assert_allclose(p.quantile(0.9), prediction(kind).quantile(0.9), atol=0.1)
