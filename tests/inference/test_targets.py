"""Missing targets, weights of rows and exposures, in every engine that takes them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer.util import log_density
from scipy import stats

import dkp
from dkp import kernels, likelihoods
from dkp.gram.gram import Gram
from dkp.inference.coordinates import Coordinates
from dkp.inference.variational.family import VariationalFamily
from dkp.inference.variational.outputs import OutputBatch
from dkp.linalg.cholesky import cholesky
from dkp.model.outputs import observed_log_density, observed_outputs
from tests.support import relaxed, relaxed_optimizer

N, NOISE = 6, 0.3
RNG = np.random.default_rng(2)
X = RNG.normal(size=(N, 2))
Y = np.stack([np.sin(X[:, 0]), X[:, 1] ** 2], axis=1)
HOLES = Y.copy()
HOLES[[0, 3], 0] = np.nan
HOLES[[3, 5], 1] = np.nan
WEIGHTS = np.array([2.0, 1.0, 0.0, 3.0, 1.0, 1.0])
KEY = jax.random.key(0)


def covariance(x=X):
    # the linear kernel divides by the number of features
    return np.exp(-((x[:, None] - x[None]) ** 2).sum(-1) / 4)


def process(likelihood=None, *layers):
    layers = layers or (kernels.SquaredExponential(variance=1.0, lengthscale=1.0),)
    return dkp.DeepKernelProcess(
        layers=list(layers), likelihood=likelihood or likelihoods.Gaussian(noise=NOISE)
    )


def dataset(y=HOLES, x=X, **options):
    return dkp.Dataset.from_arrays(x, y, standardize=False, **options)


def log_evidence(y):
    """Of each column, of its observed targets alone, by SciPy."""
    total = 0.0
    for column in y.T:
        seen = ~np.isnan(column)
        law = stats.multivariate_normal(
            np.zeros(seen.sum()), covariance(X[seen]) + NOISE**2 * np.eye(seen.sum())
        )
        total += law.logpdf(column[seen])
    return total


def still():
    """No optimiser at all: the outputs have steps of their own."""
    return optax.set_to_zero()


# --- missing targets ------------------------------------------------------------------------------


def test_density_and_law_of_what_is_observed():
    noisy = jnp.asarray(covariance() + NOISE**2 * np.eye(N))
    np.testing.assert_allclose(
        observed_log_density(noisy, jnp.asarray(HOLES)), log_evidence(HOLES), rtol=1e-9
    )
    law = observed_outputs(jnp.asarray(covariance()), jnp.asarray(HOLES), jnp.asarray(NOISE**2))
    new = RNG.normal(size=(3, 2))
    cross = np.exp(-((new[:, None] - X[None]) ** 2).sum(-1) / 4)
    mean, variance = law.moments(
        Gram(ii=jnp.asarray(covariance()), ti=jnp.asarray(cross), tt=jnp.ones(3))
    )
    for c, column in enumerate(HOLES.T):
        seen = ~np.isnan(column)
        gain = cross[:, seen] @ np.linalg.inv(covariance(X[seen]) + NOISE**2 * np.eye(seen.sum()))
        np.testing.assert_allclose(mean[:, c], gain @ column[seen], rtol=1e-8)
        np.testing.assert_allclose(
            variance[:, c], 1 - np.sum(gain * cross[:, seen], axis=1), rtol=1e-6
        )


def test_gradients_of_the_density_of_what_is_observed():
    direction = RNG.normal(size=(N, N))

    @jax.jit
    @jax.value_and_grad
    def along(t):
        root = jnp.asarray(covariance()) + t * jnp.asarray(direction)
        return observed_log_density(root @ root.T + 0.1 * jnp.eye(N), jnp.asarray(HOLES))

    h = 1e-6
    np.testing.assert_allclose(along(0.0)[1], (along(h)[0] - along(-h)[0]) / (2 * h), rtol=1e-5)


def test_optimal_outputs_of_missing_targets_attain_the_evidence():
    """Inducing points at the data and one whole step along the natural gradient: the bound is
    exact."""
    data, described = dataset(), process()
    family = VariationalFamily(model=described, n_features=2, n_outputs=2, collapsed=False)
    parameters = family.init(data, data.x)
    assert parameters["outputs"]["precision"].shape == (2, N, N)
    model, kernel = family.deterministic(parameters, data.x)
    zero = jnp.zeros_like(data.y)
    batch = OutputBatch(y=data.y, n=N)
    best = batch.sites(model.likelihood, kernel, cholesky(kernel.ii), zero, zero, shared=False)
    bound = family.elbo(parameters | {"outputs": best}, KEY, data.x, data.y, N)[0]
    np.testing.assert_allclose(bound, log_evidence(HOLES), rtol=1e-5)


def test_chains_see_what_is_observed():
    coordinates = Coordinates.of(model=process(), data=dataset())
    network = coordinates.network(jnp.zeros(coordinates.size))
    assert coordinates.size == 0  # Gaussian noise is integrated out, also here
    np.testing.assert_allclose(coordinates.log_likelihood(network), log_evidence(HOLES), rtol=1e-9)


def test_a_fit_to_missing_targets_is_that_of_each_column_alone():
    """Where outputs share a kernel without bottlenecks, a fit of both is two fits, each to the rows
    that it has."""
    options = {"n_inducing": N, "steps": 400, "start_steps": 0, "progress": False}
    with relaxed():
        both = dkp.fit_vi(process(), dataset(), key=KEY, optimizer=still(), **options)
        found = dkp.predict(both, X, key=KEY, n_samples=1)
        for c in range(2):
            seen = ~np.isnan(HOLES[:, c])
            alone = dkp.fit_vi(
                process(), dataset(HOLES[seen, c], X[seen]), key=KEY, optimizer=still(), **options
            )
            truth = dkp.predict(alone, X, key=KEY, n_samples=1)
            np.testing.assert_allclose(found.mean[:, c], truth.mean, atol=1e-3)
            np.testing.assert_allclose(found.variance[:, c], truth.variance, atol=1e-3)


def test_numpyro_leaves_missing_targets_out():
    f = RNG.normal(size=(N, 2))
    factor = np.linalg.cholesky(covariance())
    with relaxed():
        sites = {"f_whitened": jnp.asarray(np.linalg.solve(factor, f))}
        density, _ = log_density(process().numpyro, (jnp.asarray(X), jnp.asarray(HOLES)), {}, sites)
    prior = stats.norm.logpdf(np.linalg.solve(factor, f)).sum()
    np.testing.assert_allclose(
        density, prior + np.nansum(stats.norm.logpdf(HOLES, f, NOISE)), rtol=1e-6
    )


def test_predictive_densities_leave_missing_targets_out():
    with relaxed():
        posterior = dkp.condition(process(), dkp.Dataset.from_arrays(X, 3 * Y), key=KEY)
        prediction = dkp.predict(posterior, X, key=KEY)
        each = prediction.log_density(np.where(np.isnan(HOLES), np.nan, 3 * Y))
    law = stats.norm(prediction.mean, np.sqrt(prediction.variance))
    np.testing.assert_allclose(
        each, np.nansum(np.where(np.isnan(HOLES), np.nan, law.logpdf(3 * Y)), axis=1), rtol=1e-6
    )


# --- weights --------------------------------------------------------------------------------------


def test_an_integer_weight_is_repetition():
    repeated = np.repeat(np.arange(N), WEIGHTS.astype(int))
    family = VariationalFamily(model=process(), n_features=2, n_outputs=2, collapsed=False)
    weighted, many = dataset(Y, weights=WEIGHTS), dataset(Y[repeated], X[repeated])
    parameters = family.init(weighted, jnp.asarray(X[:4]))
    x, y, *others = weighted.rows
    found = family.elbo(parameters, KEY, x, y, N, *others)[0]
    np.testing.assert_allclose(
        found, family.elbo(parameters, KEY, many.x, many.y, many.n)[0], rtol=1e-10
    )
    # and the natural-gradient steps of both are the same
    slopes = [
        jax.grad(lambda p, d=d: family.elbo(p, KEY, *d.rows[:2], d.n, *d.rows[2:])[0] / d.n)(
            parameters
        )["outputs"]
        for d in (weighted, many)
    ]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-10), *slopes)


def test_chains_with_weights():
    coordinates = Coordinates.of(model=process(), data=dataset(Y, weights=WEIGHTS))
    z = jnp.asarray(RNG.normal(size=coordinates.size))
    network = coordinates.network(z)
    f = coordinates.in_data_order(network.f)
    truth = np.sum(WEIGHTS[:, None] * stats.norm.logpdf(Y, f, NOISE))
    np.testing.assert_allclose(coordinates.log_likelihood(network), truth, rtol=1e-10)


# --- exposures ------------------------------------------------------------------------------------


EXPOSURE = np.array([1.0, 10.0, 0.5, 3.0, 2.0, 1.0])
COUNTS = np.array([[1.0], [12.0], [0.0], [2.0], [4.0], [1.0]])


def counting(**options):
    return dataset(COUNTS, exposure=EXPOSURE, standardize_targets=False, **options)


def test_an_exposure_multiplies_the_mean():
    coordinates = Coordinates.of(model=process(likelihoods.Poisson(rate=1.3)), data=counting())
    network = coordinates.network(jnp.asarray(RNG.normal(size=coordinates.size)))
    f = coordinates.in_data_order(network.f)
    truth = stats.poisson(1.3 * EXPOSURE[:, None] * np.exp(f)).logpmf(COUNTS).sum()
    np.testing.assert_allclose(coordinates.log_likelihood(network), truth, rtol=1e-10)


def test_the_bound_with_exposures_is_the_expected_density():
    """Of a batch of one row out of six, by hand: E log p = y (log e + log r + m) - e r exp(m + v /
    2) - log y!."""
    mean, variance = RNG.normal(size=(N, 1)), RNG.uniform(0.1, 1, size=(N, 1))
    data, likelihood = counting(weights=WEIGHTS), likelihoods.Poisson(rate=1.3)
    _, y, weights, offset = data.rows
    batch = OutputBatch(y=y, n=2 * N, weights=weights, offset=offset)
    rate = 1.3 * EXPOSURE[:, None]
    by_hand = COUNTS * (np.log(rate) + mean) - rate * np.exp(mean + variance / 2)
    by_hand -= stats.poisson(1.0).logpmf(COUNTS) * -1 - 1  # log y! = -log p(y | 1) - 1
    found = batch.expected_log_density(likelihood, jnp.asarray(mean), jnp.asarray(variance))
    np.testing.assert_allclose(found, np.sum(WEIGHTS[:, None] * by_hand), rtol=1e-10)
    assert batch.share == 2


def test_rates_start_at_counts_by_exposure():
    family = VariationalFamily(
        model=process(likelihoods.Poisson()), n_features=2, n_outputs=1, collapsed=False
    )
    start = family.learned(family.init(counting(), jnp.asarray(X[:4])))["likelihood.rate"]
    np.testing.assert_allclose(start, [np.mean(COUNTS[:, 0] / EXPOSURE)])


def test_predictions_with_an_exposure():
    with relaxed():
        posterior = dkp.fit_vi(
            process(likelihoods.Poisson(rate=1.0)),
            counting(),
            key=KEY,
            n_inducing=4,
            steps=20,
            progress=False,
            optimizer=relaxed_optimizer(still()),
        )
        one, ten = (
            dkp.predict(posterior, X, key=KEY, n_samples=3, exposure=e)
            for e in (None, np.full(N, 10.0))
        )
        np.testing.assert_allclose(ten.mean, 10 * one.mean, rtol=1e-6)


# --- bad input ------------------------------------------------------------------------------------

BAD = {
    "no target in a column": (
        lambda: dataset(np.full((N, 2), np.nan)),
        "Expected a target in every column",
    ),
    "one missing target of one": (lambda: dataset(HOLES[:, 0]), "Expected y to be finite"),
    "negative weight": (
        lambda: dataset(Y, weights=-WEIGHTS),
        "Expected weights to be non-negative",
    ),
    "only zeros": (lambda: dataset(Y, weights=0 * WEIGHTS), "Expected weights to be non-negative"),
    "infinite weight": (
        lambda: dataset(Y, weights=WEIGHTS + np.inf),
        "Expected weights to be finite",
    ),
    "too few weights": (lambda: dataset(Y, weights=WEIGHTS[:2]), "weights"),
    "no exposure": (
        lambda: dataset(Y, exposure=0 * EXPOSURE),
        "Expected exposure to be 6 positive numbers",
    ),
    "too few exposures": (
        lambda: dataset(Y, exposure=EXPOSURE[:2]),
        "Expected exposure to be 6 positive numbers",
    ),
    "exposure of real numbers": (
        lambda: dkp.fit_vi(process(), dataset(Y, exposure=EXPOSURE), key=KEY),
        "Expected a likelihood of counts",
    ),
    "exact inference": (
        lambda: dkp.condition(process(), dataset(), key=KEY),
        "Expected complete targets. Got 4",
    ),
    "exact inference, weights": (
        lambda: dkp.condition(process(), dataset(Y, weights=WEIGHTS), key=KEY),
        "Got weights",
    ),
    "collapsed": (
        lambda: dkp.fit_vi(process(), dataset(), key=KEY, collapse=True),
        "Got another likelihood, missing",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    attempt, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        attempt()


class LogNormal(likelihoods.PointwiseLikelihood):
    """Positive targets: the density at 0, and its gradient, are no numbers."""

    standardises_targets = False
    scale: float = 0.3

    def law(self, f):
        return dist.LogNormal(f, jnp.full_like(f, self.scale))


def positive_with_holes(scale=0.3):
    described = dkp.DeepKernelProcess(
        layers=[kernels.SquaredExponential(lengthscale=1.0)], likelihood=LogNormal(scale=scale)
    )
    y = np.exp(np.where(np.arange(2 * N).reshape(N, 2) % 5 == 1, np.nan, RNG.normal(size=(N, 2))))
    data = dkp.Dataset.from_arrays(RNG.normal(size=(N, 2)), y, standardize_targets=False)
    return described, data


def fit_positive(scale=0.3):
    with relaxed():
        return dkp.fit_vi(
            *positive_with_holes(scale), key=KEY, n_inducing=3, steps=4, start_steps=0, chunk=4
        )


def test_missing_targets_of_a_positive_law_skip_no_step():
    posterior = fit_positive()
    assert posterior.skipped == 0 and posterior.stopped == "finished"
    assert np.all(np.isfinite(posterior.elbo_trace)) and posterior.warnings == ()
    described, data = posterior.model, posterior.data
    f = jnp.zeros((N, 2))
    found = described.likelihood.log_density(data.y, f)
    expected = np.nansum(stats.lognorm(0.3).logpdf(np.asarray(data.y)), axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_fit_whose_steps_were_all_skipped_says_so():
    with pytest.warns(RuntimeWarning, match=r"all steps of the fit were skipped.*of the start"):
        posterior = fit_positive(scale=np.nan)
    assert posterior.stopped == "failed" and posterior.skipped == 4
