"""Draws of Markov chains against exact posteriors: by quadrature, the matrix generalised inverse
Gaussian law, Gaussian processes, and NumPyro's sampler on the same network written with explicit
features."""

import functools
import warnings

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS
from scipy import special, stats

import dkp
from dkp import kernels, likelihoods
from dkp.inference.checks import Problem
from dkp.inference.coordinates import Coordinates
from dkp.inference.markov.chains import Chains
from dkp.inference.markov.initial import initial_points
from dkp.inference.markov.sample import with_priors
from dkp.inference.markov.transitions import PCN, identity_metric
from dkp.inference.variational.posterior import VariationalPosterior
from dkp.inference.variational.prepare import prepare
from dkp.likelihoods.base import PointwiseLikelihood
from tests.support import relaxed

RNG = np.random.default_rng(10)
# Short chains say that they are, and diverge now and then.
pytestmark = pytest.mark.filterwarnings(r"ignore:(R-hat|ESS|\d+ divergent)\b:RuntimeWarning")


def rbf(lengthscale=1.0):
    return kernels.SquaredExponential(lengthscale=lengthscale, variance=1.0)


def process(*layers, noise=0.3, likelihood=None):
    likelihood = likelihoods.Gaussian(noise=noise) if likelihood is None else likelihood
    return dkp.DeepKernelProcess(layers=list(layers), likelihood=likelihood)


def dataset(x, y):
    return dkp.Dataset.from_arrays(x, y, standardize=False)


def sample(model, data, seed=0, **options):
    options = {"warmup": 300, "draws": 1000, "progress": False} | options
    with relaxed():
        return dkp.sample_hmc(model, data, key=jax.random.key(seed), **options)


def standard_error(values):
    """Of the mean of (chains, draws)."""
    effective = min(float(az.ess(np.asarray(values, float), method="mean")), values.size)
    return float(np.std(values) / np.sqrt(effective))


def z_score(values, truth, truth_error=0.0):
    """Of the mean of (chains, draws) against a number."""
    return (np.mean(values) - truth) / np.hypot(standard_error(values), truth_error)


def check(found, truth, factor=4.0):
    """Every mean of draws within four standard errors: odds 6e-5 by chance, each."""
    scores = {name: z_score(found[name], value) for name, value in truth.items()}
    assert max(map(abs, scores.values())) < factor, scores


def expectations(log_density, grids, numbers):
    """Means of functions under an unnormalised density on a product of grids (the trapezoidal
    rule)."""
    points = np.meshgrid(*grids, indexing="ij")
    logs = log_density(*points)
    weights = np.exp(logs - logs.max())
    for axis in range(len(grids)):  # negligible at the edges, or the grid is too small
        edges = np.take(weights, [0, -1], axis=axis).sum()
        assert edges < 1e-4 * weights.sum()
    return {
        name: float(np.sum(weights * f(*points)) / weights.sum()) for name, f in numbers.items()
    }


def gaussian_log_density(k11, k12, k22, y):
    """sum_c log N(y_c; 0, [[k11, k12], [k12, k22]]) on arrays of matrices."""
    det = k11 * k22 - k12**2
    a, b, c = np.sum(y[0] ** 2), np.sum(y[0] * y[1]), np.sum(y[1] ** 2)
    return -(y.shape[1] * np.log(det) + (k22 * a - 2 * k12 * b + k11 * c) / det) / 2


# --- one and two points, by quadrature ------------------------------------------------------------


PAIR = np.array([[0.4, -0.3], [1.3, 0.9]])
PAIR_Y = np.array([[0.9, -0.3], [0.2, 0.5]])


def pair_kernel():
    """Off-diagonal entry of the first kernel: squared distances are divided by the number of
    features."""
    return float(np.exp(-np.sum((PAIR[0] - PAIR[1]) ** 2) / 2 / 2))


def hidden_difference(log_likelihood):
    """Density of the difference d of the one hidden feature at two points, and of the log of a
    lengthscale."""
    k = pair_kernel()

    def log_density(d, log_scale):
        prior = stats.norm.logpdf(d, scale=np.sqrt(2 - 2 * k)) + stats.norm.logpdf(
            log_scale, 0.0, 0.7
        )
        return prior + log_likelihood(np.exp(-(d**2) / (2 * np.exp(2 * log_scale))))

    return log_density


METHODS = {
    "nuts": {"chain_method": "parallel"},
    "hmc": {"chain_method": "vectorized"},
    "ess": {"chain_method": "sequential", "draws": 3000},
    "pcn": {"chain_method": "vectorized", "draws": 2000, "thin": 5},
}


@functools.cache
def pair_posterior(method):
    model = process(rbf(), dkp.Wishart(width=1), rbf(dist.LogNormal(0.0, 0.7)))
    return sample(model, dataset(PAIR, PAIR_Y), method=method, **METHODS[method])


@functools.cache
def pair_truth():
    def log_likelihood(off):
        return gaussian_log_density(1.09, off, 1.09, PAIR_Y)

    def latent(d, log_scale):
        """f of the first output at the first point, given y: y - s^2 (K + s^2 I)^-1 y."""
        off = np.exp(-(d**2) / (2 * np.exp(2 * log_scale)))
        return PAIR_Y[0, 0] - 0.09 * (1.09 * PAIR_Y[0, 0] - off * PAIR_Y[1, 0]) / (1.09**2 - off**2)

    grids = np.linspace(-9, 9, 1801), np.linspace(-5, 5, 401)
    numbers = {
        "trace": lambda d, log_scale: (
            (d**2 + 2 * (1 + pair_kernel())) / 2
        ),  # the sum of the features stays at the prior
        "lengthscale": lambda d, log_scale: np.minimum(np.exp(log_scale), 5),
        "log lengthscale": lambda d, log_scale: log_scale,
        "f": latent,
        "log_likelihood": lambda d, s: (
            log_likelihood(np.exp(-(d**2) / (2 * np.exp(2 * s)))) - 2 * np.log(2 * np.pi)
        ),
    }
    return expectations(hidden_difference(log_likelihood), grids, numbers)


@pytest.mark.parametrize(
    "method", [*METHODS][:1] + [pytest.param("hmc", marks=pytest.mark.slow)] + [*METHODS][2:]
)
def test_every_method_finds_the_posterior_of_a_singular_wishart(method):
    posterior = pair_posterior(method)
    draws = posterior.functionals
    scale = draws["layers.2.lengthscale"]
    check(
        {
            "trace": draws["gram_1_trace"],
            "lengthscale": np.minimum(scale, 5),
            "log lengthscale": np.log(scale),
            "f": draws["f"][..., 0, 0],
            "log_likelihood": draws["log_likelihood"],
        },
        pair_truth(),
    )
    assert posterior.summary()["ess_bulk"] > 200
    assert posterior.stopped == "finished" and posterior.stuck == ()
    assert posterior.divergences == posterior.stats["diverging"].sum() < 0.02 * scale.size
    assert posterior.z.shape[:2] == scale.shape == (4, METHODS[method].get("draws", 1000))
    assert {name: a.shape for name, a in posterior.stats.items()} == dict.fromkeys(
        posterior.stats, scale.shape
    )
    assert (
        posterior.summary()["acceptance_rate"]
        > {"nuts": 0.65, "hmc": 0.65, "pcn": 0.15, "ess": 0.99}[method]
    )


def test_inverse_wishart_and_hyperparameters_at_one_point():
    """G ~ InvGamma((delta + 2) / 2, delta k / 2), y_c ~ N(0, G + s^2)."""
    y = np.array([[1.5, -0.7, 2.2]])
    model = process(
        dkp.InverseWishart(delta=dist.LogNormal(1.0, 0.5)), noise=dist.LogNormal(-1.0, 0.5)
    )
    draws = sample(model, dataset([[1.2]], y), method="ess", draws=4000).functionals

    def log_density(log_g, log_delta, log_noise):
        g, delta = np.exp(log_g), np.exp(log_delta)
        shape, scale = (delta + 2) / 2, delta * 1.44 / 2
        prior = shape * np.log(scale) - special.gammaln(shape) - shape * log_g - scale / g
        hyper = stats.norm.logpdf(log_delta, 1.0, 0.5) + stats.norm.logpdf(log_noise, -1.0, 0.5)
        variance = g + np.exp(2 * log_noise)
        return prior + hyper - (3 * np.log(variance) + np.sum(y**2) / variance) / 2

    truth = expectations(
        log_density,
        (np.linspace(-3, 7, 201), np.linspace(-2, 4, 121), np.linspace(-4, 2, 121)),
        {
            "log_det": lambda g, delta, noise: g,
            "trace": lambda g, delta, noise: np.minimum(np.exp(g), 50),
            "delta": lambda g, delta, noise: np.exp(delta),
            "noise": lambda g, delta, noise: np.exp(noise),
        },
    )
    found = {
        "log_det": draws["gram_1_log_det"],
        "trace": np.minimum(draws["gram_1_trace"], 50),
        "delta": draws["layers.0.delta"],
        "noise": draws["likelihood.noise"],
    }
    check(found, truth)


# --- deep linear networks -------------------------------------------------------------------------


def test_one_point_is_generalised_inverse_gaussian():
    """p(K_1 | Y) is GIG((N_1 - N_2) / 2, N_1 / K_0, sum y^2) without noise; noise of 0.01 changes
    K_1 by 1e-4 of itself. Kolmogorov-Smirnov on draws thinned to independence, p > 1e-3."""
    x, y = np.array([[1.3]]), RNG.normal(size=(1, 4))
    posterior = sample(
        process(dkp.Wishart(width=3), noise=0.01), dataset(x, y), method="ess", draws=4000
    )
    a, b = 3 / 1.69, np.sum(y**2)
    law = stats.geninvgauss(-0.5, np.sqrt(a * b), scale=np.sqrt(b / a))
    trace = posterior.functionals["gram_1_trace"]
    check({"trace": trace, "log": np.log(trace)}, {"trace": law.mean(), "log": law.expect(np.log)})
    lag = int(np.ceil(3 * trace.size / float(az.ess(trace, method="mean"))))
    assert stats.kstest(trace[:, ::lag].reshape(-1), law.cdf).pvalue > 1e-3


def test_two_points_are_matrix_generalised_inverse_gaussian():
    """p(K | Y) of a width N_1 = 8 by quadrature over K = [[e^a, .], [., .]] in Cholesky
    coordinates; noise included."""
    x, y = np.array([[1.0, 0.2], [-0.3, 1.4]]), 1.3 * RNG.normal(size=(2, 5))
    noise, width = 0.3, 8
    posterior = sample(
        process(dkp.Wishart(width=width), noise=noise), dataset(x, y), method="ess", draws=4000
    )
    k0 = x @ x.T / 2
    inverse = np.linalg.inv(k0)

    def entries(p, q, r):
        return np.exp(2 * p), np.exp(p) * q, q**2 + np.exp(2 * r)

    def log_density(p, q, r):
        k11, k12, k22 = entries(p, q, r)
        prior = (width - 3) * (p + r) - width / 2 * (
            inverse[0, 0] * k11 + 2 * inverse[0, 1] * k12 + inverse[1, 1] * k22
        )
        jacobian = 3 * p + 2 * r  # dK / d(p, q, r) = 4 e^(3 p) e^(2 r), up to a constant
        return prior + jacobian + gaussian_log_density(k11 + noise**2, k12, k22 + noise**2, y)

    truth = expectations(
        log_density,
        (np.linspace(-3, 1.5, 121), np.linspace(-3, 3, 121), np.linspace(-3, 1.5, 121)),
        {
            "11": lambda *z: entries(*z)[0],
            "12": lambda *z: entries(*z)[1],
            "22": lambda *z: entries(*z)[2],
            "squared": lambda *z: entries(*z)[1] ** 2,
        },
    )
    gram = in_chains(grams_by_hand(posterior))
    found = {
        "11": gram[..., 0, 0],
        "12": gram[..., 0, 1],
        "22": gram[..., 1, 1],
        "squared": gram[..., 0, 1] ** 2,
    }
    check(found, truth)


def grams_by_hand(posterior):
    """The Gram matrices of the first bottleneck at the data rows, one draw after another."""
    factors = np.asarray(posterior.chains().factors[0])[:, np.argsort(posterior.coordinates.order)]
    return factors @ factors.transpose(0, 2, 1)


def in_chains(stack, chains=4):
    return stack.reshape(chains, -1, *stack.shape[1:])


@pytest.mark.slow
def test_wide_linear_networks_interpolate_geometrically():
    """Equal widths, outputs included: the posterior mean of K_1 tends to K_0 (K_0^-1 K_2)^(1/2),
    with an error of about 1.4 / N (Aitchison 2020)."""
    width = 400
    x = np.array([[1.0, 0.2], [-0.3, 1.4]])
    y = np.linalg.cholesky(np.array([[2.0, 0.8], [0.8, 0.9]])) @ RNG.normal(size=(2, width))
    mean = grams_by_hand(sample(process(dkp.Wishart(width=width), noise=0.01), dataset(x, y))).mean(
        axis=0
    )
    k0, k2 = x @ x.T / 2, y @ y.T / width
    eigenvalues, vectors = np.linalg.eig(np.linalg.solve(k0, k2))
    geometric = k0 @ (vectors * np.sqrt(eigenvalues)) @ np.linalg.inv(vectors)
    assert np.linalg.norm(mean - geometric) / np.linalg.norm(geometric) < 3 / width
    assert np.linalg.norm(mean - k0) / np.linalg.norm(k0) > 0.1  # and it did move


# --- the limits of wide bottlenecks ---------------------------------------------------------------


N = 6
X = RNG.normal(size=(N, 2))
Y = np.sin(2 * X[:, 0]) + 0.3 * RNG.normal(size=N)
NEW = RNG.normal(size=(2, 2))


def test_without_randomness_it_is_the_gaussian_process():
    """Entries of Gram matrices vary by sqrt(2e-6), predictions by a few times that. (Wishart:
    tests/diagnostics.)"""
    data = dkp.Dataset.from_arrays(X, 100 * Y + 7)
    posterior = sample(
        process(rbf(), dkp.InverseWishart(delta=1e6), kernels.ReLU()),
        data,
        method="ess",
        warmup=50,
        draws=100,
    )
    limit = dkp.condition(process(rbf(), kernels.ReLU()), data)
    found, truth = (
        dkp.predict(p, NEW, key=jax.random.key(1), n_samples=100) for p in (posterior, limit)
    )
    scale = 100 * np.std(Y)
    np.testing.assert_allclose(found.mean, truth.mean, atol=0.005 * scale)
    np.testing.assert_allclose(found.variance, truth.variance, rtol=0.01)
    likelihood = posterior.functionals["log_likelihood"]
    assert np.abs(likelihood - limit.log_marginal_likelihood).max() < 0.05


# --- the same network with explicit features ------------------------------------------------------


@functools.cache
def deep():
    """Six points, width 2, an inferred lengthscale; standardised."""
    model = process(rbf(), dkp.Wishart(width=2), rbf(dist.LogNormal(0.0, 0.5)), noise=0.2)
    return sample(model, dkp.Dataset.from_arrays(X, 100 * Y + 7), draws=1500)


def squared_exponential(gram, lengthscale=1.0):
    diagonal = np.diagonal(gram, axis1=-2, axis2=-1)
    squares = diagonal[..., :, None] + diagonal[..., None, :] - 2 * gram
    return np.exp(-squares / (2 * lengthscale**2))


@pytest.mark.slow
def test_same_posterior_as_a_deep_gaussian_process_of_explicit_features():
    """NumPyro's NUTS on features F = L E at the data and at new points, K_2 from F F^T / 2: means
    and second moments of f at new points, and the lengthscale; 5 z-scores below 4 (odds 3e-4 by
    chance)."""
    posterior = deep()
    data = posterior.data
    x = np.concatenate([np.asarray(data.x), data.x_standardization.apply(NEW)])
    tril = jnp.asarray(np.linalg.cholesky(squared_exponential(x @ x.T / 2) + 1e-9 * np.eye(len(x))))
    y, n = data.y[:, 0], data.n

    def explicit():
        features = tril @ numpyro.sample("e", dist.Normal(jnp.zeros((len(x), 2)), 1).to_event(2))
        lengthscale = numpyro.sample("lengthscale", dist.LogNormal(0.0, 0.5))
        squares = jnp.sum((features[:, None] - features[None]) ** 2, axis=-1) / 2
        kernel = jnp.exp(-squares / (2 * lengthscale**2))
        tril_y = jnp.linalg.cholesky(kernel[:n, :n] + 0.04 * jnp.eye(n))
        numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(n), scale_tril=tril_y), obs=y)
        whitened = jax.scipy.linalg.solve_triangular(tril_y, kernel[:n, n:], lower=True)
        mean = whitened.T @ jax.scipy.linalg.solve_triangular(tril_y, y, lower=True)
        numpyro.deterministic("mean", mean)
        numpyro.deterministic("square", mean**2 + 1 - jnp.sum(whitened**2, axis=0))

    with relaxed():
        chains = MCMC(
            NUTS(explicit),
            num_warmup=500,
            num_samples=1500,
            num_chains=2,
            chain_method="vectorized",
            progress_bar=False,
        )
        chains.run(jax.random.key(2))
        truth = {name: np.asarray(a) for name, a in chains.get_samples(group_by_chain=True).items()}
        draws = posterior.chains()
        mean, variance = posterior.latent_moments(
            draws, jax.random.key(3), data.standardize_inputs(NEW), 1000
        )
    mean, square = (
        in_chains(np.asarray(mean)[..., 0]),
        in_chains(np.asarray(mean**2 + variance)[..., 0]),
    )
    pairs = [(posterior.functionals["layers.2.lengthscale"], truth["lengthscale"])]
    for i in range(len(NEW)):
        pairs += [(mean[..., i], truth["mean"][..., i]), (square[..., i], truth["square"][..., i])]
    scores = [z_score(a, b.mean(), standard_error(b)) for a, b in pairs]
    assert np.abs(scores).max() < 4, scores


def kernels_by_hand(posterior):
    """K of the outputs at the data rows, for every draw of `deep`."""
    lengthscale = np.asarray(posterior.chains().values["layers.2.lengthscale"])[:, None, None]
    return squared_exponential(grams_by_hand(posterior), lengthscale)


@pytest.mark.slow
def test_predictions_are_averages_of_gaussian_processes():
    """At the data, where the Gram matrices of the draws are known (new points: in the test
    above)."""
    posterior = deep()
    kernel = kernels_by_hand(posterior)
    y = (Y - Y.mean()) / Y.std(ddof=1)
    gain = np.linalg.solve(kernel + 0.04 * np.eye(N), kernel)
    mean, variance = gain.transpose(0, 2, 1) @ y, 1 - np.einsum("sij,sji->si", kernel, gain) + 0.04
    scale = 100 * Y.std(ddof=1)
    prediction = dkp.predict(
        posterior, X, key=jax.random.key(0), draws=posterior.chains(), n_samples=6000
    )
    np.testing.assert_allclose(
        prediction.mean, 7 + 100 * Y.mean() + scale * mean.mean(0), rtol=1e-4
    )
    np.testing.assert_allclose(
        prediction.variance, scale**2 * (variance.mean(0) + mean.var(0)), rtol=1e-4
    )


@pytest.mark.slow
def test_leave_one_out_of_a_draw():
    """log p(y_n | the others, network), by conditioning a normal law on the other rows."""
    posterior = deep()
    draws = jax.tree.map(lambda a: a[:2], posterior.chains())
    found = np.asarray(posterior.leave_one_out(draws))
    y = (Y - Y.mean()) / Y.std(ddof=1)
    for s, kernel in enumerate(kernels_by_hand(posterior)[:2]):
        covariance = kernel + 0.04 * np.eye(N)
        for n in range(N):
            others = np.delete(np.arange(N), n)
            weights = np.linalg.solve(covariance[np.ix_(others, others)], covariance[others, n])
            variance = covariance[n, n] - weights @ covariance[others, n]
            truth = stats.norm.logpdf(y[n], weights @ y[others], np.sqrt(variance))
            assert found[s, n] == pytest.approx(truth, rel=1e-6)


# --- other likelihoods ----------------------------------------------------------------------------


class Counts(PointwiseLikelihood):
    """Poisson counts of mean exp(f)."""

    standardises_targets = False

    def law(self, f):
        return dist.Poisson(jnp.exp(f))


def test_counts_at_two_points():
    """Quadrature over the difference of the hidden features and over f at both points; predictions
    at the data are the posterior mean of exp(f)."""
    counts, k = np.array([[5.0], [0.0]]), pair_kernel()
    posterior = sample(
        process(rbf(), dkp.Wishart(width=1), rbf(), likelihood=Counts()),
        dataset(PAIR, counts),
        draws=2000,
    )

    def log_density(d, f, g):
        off = np.exp(-(d**2) / 2)
        law = -np.log1p(-(off**2)) / 2 - (f**2 - 2 * off * f * g + g**2) / (2 * (1 - off**2))
        return stats.norm.logpdf(d, scale=np.sqrt(2 - 2 * k)) + law + 5 * f - np.exp(f) - np.exp(g)

    # an even number of points: none at 0, where both points coincide
    half = np.linspace(-8, 8, 400)
    truth = expectations(
        log_density,
        (half, np.linspace(-3, 4.5, 151), np.linspace(-6, 4, 151)),
        {
            "trace": lambda d, f, g: (d**2 + 2 * (1 + k)) / 2,
            "f": lambda d, f, g: f,
            "g": lambda d, f, g: g,
            "rate": lambda d, f, g: np.exp(f),
            "square": lambda d, f, g: g**2,
        },
    )
    draws = posterior.functionals
    f, g = draws["f"][..., 0, 0], draws["f"][..., 1, 0]
    check(
        {"trace": draws["gram_1_trace"], "f": f, "g": g, "rate": np.exp(f), "square": g**2}, truth
    )
    with relaxed():
        prediction = dkp.predict(posterior, PAIR, key=jax.random.key(0), draws=posterior.chains())
        np.testing.assert_allclose(prediction.mean[0, 0], np.exp(f).mean(), rtol=1e-3)
    with pytest.raises(ValueError, match="Expected a Gaussian likelihood"):
        posterior.leave_one_out(posterior.chains())


# --- hyperparameters and starts -------------------------------------------------------------------


def learned():
    return process(
        kernels.Linear(ard=True), dkp.InverseWishart(), kernels.ReLU(), noise=dkp.learn()
    )


def test_a_prior_for_what_has_none():
    data = dkp.Dataset.from_arrays(X, Y)
    with pytest.warns(
        RuntimeWarning,
        match=r"layers\.0\.weights, layers\.1\.delta, likelihood\.noise are learn\(\)",
    ):
        model = with_priors(Problem.of(learned(), data), None)
    assert type(model.layers[1].delta) is type(model.likelihood.noise) is dist.LogNormal
    assert float(model.layers[1].delta.loc) == pytest.approx(np.log(1000))
    assert model.layers[0].weights.shape() == (2,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert repr(with_priors(Problem.of(process(rbf()), data), None)) == repr(process(rbf()))


def test_chains_that_start_from_a_variational_posterior():
    """Learned values stand where it has them, and the chains begin where the posterior is: far
    above prior draws."""
    data = dkp.Dataset.from_arrays(X, 100 * Y + 7)
    with relaxed():
        family, parameters, _ = prepare(learned(), data, key=jax.random.key(0), n_inducing=4)
    rest = {
        "elbo_trace": np.zeros(1),
        "jitter": 0.0,
        "skipped": 0,
        "stopped": "finished",
        "seconds": 0.0,
    }
    init = VariationalPosterior(family=family, parameters=parameters, data=data, **rest)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="learn")
        posterior = sample(learned(), data, init=init, method="ess", warmup=50, draws=100)
    assert posterior.coordinates.hyperparameters == {}
    model = posterior.coordinates.model
    for name, value in (
        ("layers.0.weights", model.layers[0].weights),
        ("likelihood.noise", model.likelihood.noise),
    ):
        np.testing.assert_array_equal(value, init.hyperparameters[name])
    with relaxed():
        target = posterior.coordinates
        points = initial_points(target, jax.random.key(1), 20, init)
        density = jax.jit(jax.vmap(lambda z: target.log_densities(z)[1]))
        assert (
            float(jnp.mean(density(points))) > posterior.functionals["log_likelihood"].mean() - 10
        )
        prediction = dkp.predict(posterior, X, key=jax.random.key(2))
    assert np.corrcoef(prediction.mean, Y)[0, 1] > 0.5


# --- running chains -------------------------------------------------------------------------------


SHORT = process(rbf(), dkp.Wishart(width=2), rbf())


@functools.cache
def short_coordinates():
    return Coordinates.of(model=SHORT, data=dataset(X, Y), features=True)


def short(seed=3, **options):
    options = {"method": "ess", "chains": 2, "warmup": 30, "draws": 12} | options
    return sample(SHORT, short_coordinates().data, seed, **options)


@pytest.fixture
def every_draw():
    return short(draws=36)


def test_the_same_key_gives_the_same_draws_and_thinning_leaves_some_out(every_draw):
    every, third = every_draw, short(thin=3)
    np.testing.assert_array_equal(third.z, every.z[:, 2::3])
    for name, values in every.stats.items():
        np.testing.assert_array_equal(third.stats[name], values[:, 2::3])
    assert not np.array_equal(short(seed=4).z, third.z)


def test_sampling_that_is_interrupted_keeps_its_draws(monkeypatch, every_draw):
    """Ctrl-C after 25 of 36 draws; in warm-up, or before the first draw, there is nothing to
    keep."""
    every, run, calls = every_draw, Chains.run, []

    def interrupt_at(n):
        def interrupted(self, total, *, adapting):
            for chunk in run(self, total, adapting=adapting):
                calls.append(adapting)
                if len(calls) == n:
                    raise KeyboardInterrupt
                yield chunk

        calls.clear()
        monkeypatch.setattr(Chains, "run", interrupted)

    interrupt_at(10**6)
    short(draws=36)
    in_warmup = sum(calls)
    assert calls == [True] * in_warmup + [False] * 2
    interrupt_at(in_warmup + 2)
    posterior = short(draws=36)
    assert posterior.stopped == posterior.summary()["stopped"] == "interrupted"
    np.testing.assert_array_equal(posterior.z, every.z[:, :25])
    assert np.isfinite(dkp.predict(posterior, NEW, key=jax.random.key(0)).mean).all()
    for n in (in_warmup, in_warmup + 1):
        interrupt_at(n)
        with pytest.raises(KeyboardInterrupt):
            short(draws=36)


@pytest.mark.parametrize("chains", [1, 2, 3])
def test_an_error_of_a_chain_is_raised_and_ends_the_others(monkeypatch, chains):
    run, calls = Chains._run, []

    def failing(self, chain, n, adapting):
        calls.append(n)
        if len(calls) == chains + 1:
            raise RuntimeError("a chain broke")
        return run(self, chain, n, adapting)

    monkeypatch.setattr(Chains, "_run", failing)
    with pytest.raises(RuntimeError, match="a chain broke"):
        short(chains=chains, draws=1000)
    assert len(calls) < 10 * chains


def test_chains_that_do_not_wait_for_one_another_are_those_that_do():
    """With one worker, or with several: random numbers belong to a chain and a transition."""
    one, several = (short(chains=3, draws=60, chain_method=m) for m in ("sequential", "parallel"))
    np.testing.assert_array_equal(several.z, one.z)


def test_trajectories_are_as_long_as_wished():
    """Time of integration, steps * step size, is uniform between 0 and 2, rounded up to steps: a
    mean of 200 within 4.5 standard errors, a false alarm in 1e5."""
    stats = short(method="hmc", trajectory_length=1.0, draws=100).stats
    steps, size = stats["n_steps"], stats["step_size"]
    time = steps * size
    assert np.all(time < 2 + size) and np.ptp(steps) > 0
    assert abs(np.mean(time - size / 2) - 1.0) < 4.5 * np.sqrt(
        (4 / 12 + np.max(size) ** 2 / 12) / steps.size
    )


@pytest.mark.parametrize("step_size", [1e2, 1e200])
def test_crank_nicolson_proposes_from_the_prior_at_the_largest_step_sizes(step_size):
    """Where every proposal is good, the tuned step size grows without bound; its square is more
    than a float holds."""
    target, method = short_coordinates(), PCN()
    metric = identity_metric(target.size, target.dtype)

    def transition(state, key):
        state, info = method.step(target, key, state, jnp.asarray(step_size), metric)
        return state, (state.z, info.acceptance)

    def run(key):
        return jax.lax.scan(
            transition, method.init(target, jnp.zeros(target.size)), jax.random.split(key, 2_000)
        )[1]

    z, acceptance = jax.jit(run)(jax.random.key(0))
    assert 0.01 < acceptance.mean() < 1
    values = np.unique(np.asarray(z), axis=0)
    assert len(values) > 20 and 0.5 < values.std() < 1.5


def test_draws_are_chosen_without_repetition_as_long_as_there_are_enough(every_draw):
    posterior = every_draw
    factors = np.asarray(posterior.chains().factors[0])
    for n, times in ((72, [1] * 72), (144, [2] * 72), (40, [0] * 32 + [1] * 40)):
        chosen = np.asarray(posterior.sample(jax.random.key(0), n).factors[0])
        same = np.all(np.isclose(chosen[:, None], factors[None], rtol=1e-10), axis=(2, 3))
        assert sorted(same.sum(axis=0)) == times
    assert posterior.chains(thin=5).factors[0].shape[0] == 2 * 8
