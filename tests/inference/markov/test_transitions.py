"""The Markov transitions leave the posterior invariant: Geweke's joint test and simulation-based
calibration.

Both run hundreds of small problems side by side, each with data of its own. Fixed seeds; the
false-alarm rate over seeds is stated at each test."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import dkp
from dkp import kernels, likelihoods
from dkp.gram.gram import Gram, Inputs
from dkp.inference.coordinates import Coordinates
from dkp.inference.draws_posterior import output_law
from dkp.inference.markov.summaries import functionals
from dkp.inference.markov.transitions import METHODS, identity_metric
from dkp.linalg.cholesky import cholesky
from dkp.model.propagate import propagate
from dkp.posterior.draw import Draw, latent_moments
from tests.support import relaxed

N = 4
X = np.random.default_rng(2).normal(size=(N, 2))
X_NEW = jnp.asarray([[0.3, -0.2]])
NOISE = dist.LogNormal(-0.7, 0.5)


def model(*layers):
    return dkp.DeepKernelProcess(layers=list(layers), likelihood=likelihoods.Gaussian(noise=NOISE))


def squared_exponential(lengthscale=1.0):
    return kernels.SquaredExponential(lengthscale=lengthscale, variance=1.0)


MODELS = {
    "one bottleneck, singular": model(
        squared_exponential(), dkp.Wishart(width=2), squared_exponential()
    ),
    "two bottlenecks": model(
        squared_exponential(dist.LogNormal(0.0, 0.4)),
        dkp.InverseWishart(delta=dist.LogNormal(1.5, 0.4)),
        kernels.ArcCosine(order=1),
        dkp.Wishart(width=3),
        squared_exponential(),
    ),
    "real width": model(
        squared_exponential(),
        dkp.Wishart(width=dist.Pareto(N, 2.0)),
        squared_exponential(),
    ),
}


DATA = dkp.Dataset.from_arrays(X, np.zeros(N), standardize=False)


def coordinates(described, y, features=False):
    target = _coordinates(described, features)
    return dataclasses.replace(target, data=dataclasses.replace(target.data, y=y))


@functools.cache
def _coordinates(described, features):
    with jax.ensure_compile_time_eval():  # asked for while a program is traced
        return Coordinates.of(model=described, data=DATA, features=features)


def draw_data(target, z, key):
    """y given the network, and f at a new point."""
    key_extend, key_f, key_noise = jax.random.split(key, 3)
    network = target.network(z)

    def bottleneck(index, layer, kernel):
        factor = layer.extend(
            jax.random.fold_in(key_extend, index), kernel.ii, network.factors[index - 1]
        )
        return Gram(ii=factor @ factor.T)

    points = Inputs(i=jnp.concatenate([target.x, X_NEW]))
    kernel = propagate(network.model.layers, points, bottleneck).ii
    f = cholesky(kernel).tril @ jax.random.normal(key_f, (N + 1, 1))
    y = f[:N] + jnp.sqrt(target.noise_variance(network)) * jax.random.normal(key_noise, (N, 1))
    return target.in_data_order(y), f[N, 0]


def statistics(target, z, key):
    """Numbers that every run compares: functionals of the network, and a draw of f at a new point
    given y."""
    network = target.network(z)
    found = functionals(target, network)
    draw = Draw(values=network.values, inducing=target.x, factors=network.factors)
    draw = dataclasses.replace(draw, outputs=output_law(target, draw))
    key_gram, key_f = jax.random.split(key)
    mean, variance = latent_moments(target.model, draw, key_gram, X_NEW, 1)
    f_new = mean[0, 0] + jnp.sqrt(variance[0, 0]) * jax.random.normal(key_f)
    scalars = {name: a for name, a in found.items() if a.ndim == 0}
    return {**scalars, "f_0": found["f"][0, 0], "f_new": f_new}


def chain(target, method, step_size, z, key, n):
    """n transitions of a method with everything tuned beforehand."""
    metric = identity_metric(target.size, z.dtype)

    def transition(state, key):
        state, info = method.step(target, key, state, jnp.asarray(step_size), metric)
        return state, info.acceptance

    state, acceptance = jax.lax.scan(transition, method.init(target, z), jax.random.split(key, n))
    return state.z, jnp.mean(acceptance)


# --- Geweke's joint test --------------------------------------------------------------------------


GEWEKE = [
    ("nuts", "two bottlenecks", 0.4, 3),
    ("hmc", "one bottleneck, singular", 0.4, 10),
    ("hmc", "real width", 0.4, 10),
    ("ess", "two bottlenecks", 1.0, 20),
    ("pcn", "one bottleneck, singular", 0.4, 30),
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "name", "step_size", "sweeps"), GEWEKE)
def test_gewekes_joint_distribution_test(method, name, step_size, sweeps):
    """Chains that start with the prior and alternate a transition given y with a draw of y given
    the network stay at the prior: 1000 chains against 4000 fresh draws, by Kolmogorov-Smirnov on
    every statistic, p > 1e-4 (false-alarm rate below 1e-3 a case)."""
    n_chains, n_fresh = 1_000, 4_000
    described, sampler = MODELS[name], METHODS[method]()
    features = not sampler.uses_gradient

    def one(key):
        key_z, key_y, key_run, key_end = jax.random.split(key, 4)
        target = coordinates(described, jnp.zeros((N, 1)), features)
        z = target.sample_prior(key_z)
        fresh = z

        def sweep(state, key):
            z, y = state
            key_move, key_data = jax.random.split(key)
            given = coordinates(described, y, features)
            z, acceptance = chain(given, sampler, step_size, z, key_move, 1)
            return (z, draw_data(given, z, key_data)[0]), acceptance

        start = (z, draw_data(target, z, key_y)[0])
        (z, y), acceptance = jax.lax.scan(sweep, start, jax.random.split(key_run, sweeps))
        end = statistics(coordinates(described, y, features), z, key_end)
        return end, fresh, z, jnp.mean(acceptance)

    def prior(key):
        key_z, key_y, key_end = jax.random.split(key, 3)
        target = coordinates(described, jnp.zeros((N, 1)), features)
        z = target.sample_prior(key_z)
        y, _ = draw_data(target, z, key_y)
        return statistics(coordinates(described, y, features), z, key_end)

    with relaxed():
        end, start, z, acceptance = jax.jit(jax.vmap(one))(
            jax.random.split(jax.random.key(0), n_chains)
        )
        truth = jax.jit(jax.vmap(prior))(jax.random.split(jax.random.key(1), n_fresh))
    assert float(acceptance.mean()) > 0.1
    # the chains have moved
    assert np.corrcoef(np.asarray(start)[:, -1], np.asarray(z)[:, -1])[0, 1] < 0.9
    for statistic in truth:
        p = stats.ks_2samp(np.asarray(end[statistic]), np.asarray(truth[statistic])).pvalue
        assert p > 1e-4, (statistic, p)


# --- simulation-based calibration -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "name", "step_size", "burn_in", "thin"),
    [("hmc", "one bottleneck, singular", 0.25, 60, 6), ("hmc", "two bottlenecks", 0.25, 60, 6)],
)
def test_simulation_based_calibration(method, name, step_size, burn_in, thin):
    """The rank of the truth among draws given its data is uniform: 1000 replications, 15 draws from
    a chain that starts at an independent prior draw, chi-squared test over 16 ranks, p > 1e-4 for
    every statistic (false-alarm rate below 1e-3 a case). Source: Talts et al. 2018."""
    replications, n_draws = 1_000, 15
    described, sampler = MODELS[name], METHODS[method]()

    def one(key):
        key_z, key_y, key_start, key_burn, key_run, key_end = jax.random.split(key, 6)
        prior = coordinates(described, jnp.zeros((N, 1)))
        truth = prior.sample_prior(key_z)
        y, f_new = draw_data(prior, truth, key_y)
        target = coordinates(described, y)
        z, _ = chain(target, sampler, step_size, prior.sample_prior(key_start), key_burn, burn_in)

        def draw(z, key):
            key_move, key_stat = jax.random.split(key)
            z, acceptance = chain(target, sampler, step_size, z, key_move, thin)
            return z, (statistics(target, z, key_stat), acceptance)

        _, (drawn, acceptance) = jax.lax.scan(draw, z, jax.random.split(key_run, n_draws))
        true = {**statistics(target, truth, key_end), "f_new": f_new}
        return jax.tree.map(lambda t, d: jnp.sum(d < t), true, drawn), jnp.mean(acceptance)

    with relaxed():
        ranks, acceptance = jax.jit(jax.vmap(one))(
            jax.random.split(jax.random.key(3), replications)
        )
    assert float(acceptance.mean()) > 0.5
    for statistic, values in ranks.items():
        counts = np.bincount(np.asarray(values), minlength=n_draws + 1)
        assert len(counts) == n_draws + 1
        p = stats.chisquare(counts).pvalue
        assert p > 1e-4, (statistic, p, counts)
