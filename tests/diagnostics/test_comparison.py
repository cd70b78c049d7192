"""How far two posteriors are from each other: against closed forms, and posteriors whose distance
is known."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import special, stats

import dkp
from dkp import kernels, likelihoods
from dkp.diagnostics.comparison import compare, energy_distance, pareto_k
from dkp.inference.variational.posterior import VariationalPosterior
from dkp.inference.variational.prepare import prepare
from tests.support import relaxed

RNG = np.random.default_rng(12)
X = RNG.normal(size=(6, 2))
Y = np.sin(2 * X[:, 0]) + 0.2 * RNG.normal(size=6)


def rbf(lengthscale=1.0):
    return kernels.SquaredExponential(lengthscale=lengthscale, variance=1.0)


def process(*layers, noise=0.3):
    return dkp.DeepKernelProcess(layers=list(layers), likelihood=likelihoods.Gaussian(noise=noise))


def unfitted(model, data, n_inducing=3):
    """The variational posterior before any fitting."""
    with relaxed():
        family, parameters, _ = prepare(model, data, key=jax.random.key(0), n_inducing=n_inducing)
    rest = {
        "elbo_trace": np.zeros(1),
        "jitter": 0.0,
        "skipped": 0,
        "stopped": "finished",
        "seconds": 0.0,
    }
    return VariationalPosterior(family=family, parameters=parameters, data=data, **rest)


# --- energy distance ------------------------------------------------------------------------------


def normal_energy(mean, sd):
    """Of N(0, 1) and N(mean, sd^2): E|N(m, s^2)| is the mean of a folded normal law."""
    s = math.hypot(1, sd)
    between = stats.foldnorm.mean(abs(mean) / s, scale=s)
    return 2 * between - 2 * (1 + sd) / math.sqrt(math.pi)


@functools.cache
def replications(mean, sd, n=300, size=120):
    """Estimates and standard errors of n pairs of samples."""
    rng = np.random.default_rng(1)
    pairs = [
        (rng.normal(size=(size, 1)), mean + sd * rng.normal(size=(size + 40, 1))) for _ in range(n)
    ]
    return np.array([energy_distance(a, b) for a, b in pairs]).T


CASES = [(0.0, 1.0), (0.7, 1.0), (0.0, 2.0), (-1.5, 0.5)]


@pytest.mark.parametrize(("mean", "sd"), CASES)
def test_energy_distance_of_normal_laws(mean, sd):
    """The mean of 300 estimates within four standard errors (odds 6e-5 by chance, each): zero for
    equal laws."""
    truth = normal_energy(mean, sd)
    assert truth == pytest.approx(0, abs=1e-12) if (mean, sd) == (0, 1) else truth > 0.05
    estimates, _ = replications(mean, sd)
    assert abs(estimates.mean() - truth) < 4 * estimates.std(ddof=1) / math.sqrt(len(estimates))


@pytest.mark.parametrize(("mean", "sd"), CASES)
def test_its_standard_error(mean, sd):
    """Squared errors are right on average to 30% where laws differ; equal laws, whose estimate has
    no linear term, are not declared different: at most 4 of 300 beyond three standard errors above
    zero."""
    truth = normal_energy(mean, sd)
    estimates, errors = replications(mean, sd)
    ratio = np.mean(errors**2) / estimates.var(ddof=1)
    if (mean, sd) == (0.0, 1.0):
        assert ratio > 0.5
        assert np.sum(estimates > 3 * errors) <= 4
    else:
        assert 0.75 < ratio < 1.3
        assert np.mean(np.abs(estimates - truth) < 2 * errors) > 0.9


def test_energy_distance_by_its_definition():
    """Vectors; means over distinct pairs."""
    a, b = RNG.normal(size=(5, 3)), RNG.normal(size=(4, 3)) + 1
    between = np.mean([np.linalg.norm(u - v) for u in a for v in b])
    inside = [
        np.mean([np.linalg.norm(u - v) for i, u in enumerate(s) for j, v in enumerate(s) if i != j])
        for s in (a, b)
    ]
    found = energy_distance(a, b)
    assert found.mean == pytest.approx(2 * between - sum(inside), rel=1e-10)
    assert found.mean == pytest.approx(energy_distance(b, a).mean, rel=1e-10)
    assert energy_distance(3 * a, 3 * b).mean == pytest.approx(3 * found.mean, rel=1e-10)


# --- importance weights ---------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0.3, 0.6, 0.9])
def test_pareto_k_of_pareto_weights(k):
    """P(w > t) = t^(-1/k): k-hat from the tail of 10,000 weights, of standard error (1 + k) /
    sqrt(300)."""
    weights = k * np.random.default_rng(0).exponential(size=10_000)
    assert pareto_k(weights) == pytest.approx(k, abs=3 * (1 + k) / math.sqrt(300))
    assert pareto_k(weights + 700) == pytest.approx(pareto_k(weights), abs=1e-9)


def test_pareto_k_of_bounded_weights():
    assert pareto_k(np.log(np.random.default_rng(0).uniform(1, 2, size=10_000))) < 0.1


def one_point_evidence(y):
    """Of [IW(delta)], log delta ~ N(1, 1/2), at one point with k = 1.44."""
    log_g, log_delta = np.meshgrid(np.linspace(-6, 12, 901), np.linspace(-2, 4, 301), indexing="ij")
    shape, scale = (np.exp(log_delta) + 2) / 2, np.exp(log_delta) * 1.44 / 2
    prior = np.exp(
        shape * np.log(scale) - special.gammaln(shape) - shape * log_g - scale * np.exp(-log_g)
    )
    prior *= stats.norm.pdf(log_delta, 1.0, 0.5)
    law = stats.norm.logpdf(y, scale=np.sqrt(np.exp(log_g)[..., None] + 0.09)).sum(-1)
    cell = 18 / 900 * 6 / 300
    assert np.sum(prior) * cell == pytest.approx(1, abs=1e-4)
    return np.log(np.sum(prior * np.exp(law)) * cell)


PAIR = np.array([[0.4, -0.3], [1.3, 0.9]])


def pair_evidence(y):
    """Of [SE, IW(3), SE] at two points: their squared distance in G is InvGamma((3 + 2) / 2, 3 (2 -
    2 k) / 2)."""
    k = np.exp(-np.sum((PAIR[0] - PAIR[1]) ** 2) / 4)
    log_square = np.linspace(-8, 14, 4001)
    off = np.exp(-np.exp(log_square) / 2)
    total = np.zeros_like(off)
    for sign in (1, -1):  # the eigenvectors (1, 1) and (1, -1)
        variance, along = 1.09 + sign * off, (y[0] + sign * y[1]) / math.sqrt(2)
        total += stats.norm.logpdf(along[None], scale=np.sqrt(variance)[:, None]).sum(1)
    prior = stats.invgamma.pdf(np.exp(log_square), 2.5, scale=3 * (1 - k)) * np.exp(log_square)
    return np.log(np.sum(np.exp(total) * prior) * (log_square[1] - log_square[0]))


WEIGHTS = {
    "inverse Wishart and its delta": (
        process(dkp.InverseWishart(delta=dist.LogNormal(1.0, 0.5))),
        [[1.2]],
        np.array([[1.2, -0.7, 0.9]]),
        one_point_evidence,
        1,
    ),
    "away from the inducing point": (
        process(rbf(), dkp.InverseWishart(delta=3.0), rbf()),
        PAIR,
        np.array([[0.8, -0.4], [-0.3, 0.9]]),
        pair_evidence,
        1,
    ),
    "at the inducing points": (
        process(rbf(), dkp.InverseWishart(delta=3.0), rbf()),
        PAIR,
        np.array([[0.8, -0.4], [-0.3, 0.9]]),
        pair_evidence,
        2,
    ),
}


def widened(posterior):
    """With a guide that is nobody's optimum and a little narrower than the prior, so that the
    weights are bounded."""
    (guide,) = posterior.parameters["bottlenecks"]
    guide = {
        "mixing": 1.2 * guide["mixing"],
        "log_gamma": jnp.log(jnp.asarray(0.5, guide["mixing"].dtype)),
    }
    inferred = {
        name: {**q, "log_scale": jnp.full_like(q["loc"], -0.5)}
        for name, q in posterior.parameters["inferred"].items()
    }
    return dataclasses.replace(
        posterior,
        parameters={**posterior.parameters, "bottlenecks": (guide,), "inferred": inferred},
    )


@pytest.mark.parametrize("name", WEIGHTS)
def test_mean_weight_is_the_evidence(name):
    """z-score below 4 (odds 6e-5 by chance) with a guide that has not been fitted."""
    model, x, y, evidence, n_inducing = WEIGHTS[name]
    posterior = widened(
        unfitted(model, dkp.Dataset.from_arrays(x, y, standardize=False), n_inducing)
    )
    with relaxed():
        logs = np.asarray(posterior.log_weights(jax.random.key(1), 20_000))
    ratios = np.exp(logs - evidence(y))
    assert pareto_k(logs) < 0.5  # the variance exists, and its estimate means something
    assert abs(ratios.mean() - 1) < 4 * ratios.std(ddof=1) / math.sqrt(len(ratios))
    assert 0.05 < ratios.std() < 3


# --- posteriors -----------------------------------------------------------------------------------


@functools.cache
def posterior(lengthscale=1.0):
    data = dkp.Dataset.from_arrays(X, Y)
    with relaxed():
        return dkp.sample_hmc(
            process(rbf(lengthscale), dkp.InverseWishart(delta=4.0), rbf()),
            data,
            key=jax.random.key(0),
            method="pcn",
            warmup=200,
            draws=300,
            thin=10,
            progress=False,
        )


def compared(a, b, x=X[:3], **options):
    with relaxed():
        return compare(a, b, x, **({"key": jax.random.key(1), "n_samples": 400} | options))


quiet = pytest.mark.filterwarnings(r"ignore:(R-hat|ESS)\b:RuntimeWarning")


@quiet
def test_a_posterior_and_itself():
    """Other draws of the same chains: energy distances within four standard errors of zero (a row
    is 4 such numbers wide, odds 3e-4 by chance), means of 400 draws within 5 sqrt(2 / 400)."""
    found = compared(posterior(), posterior())
    assert len(found.grams) == 2
    for distance in (found.predictive, *found.grams):
        assert abs(distance.energy.mean) < 4 * distance.energy.standard_error
        assert distance.mean_shift <= distance.shift < 0.36
        assert 0.75 < distance.spread < 1.33
    assert found.elbo == found.k_hat == found.importance_evidence == found.gap == (None, None)
    assert len(str(found).splitlines()) == 4


@quiet
def test_posteriors_that_differ():
    """A first kernel of length-scale 5 makes all hidden features alike."""
    found = compared(posterior(5.0), posterior())
    assert found.grams[0].energy.mean > 10 * found.grams[0].energy.standard_error
    assert found.grams[0].shift > 0.3
    assert found.grams[0].energy.mean > 0.05


@quiet
def test_a_variational_posterior_is_audited():
    chains = posterior()
    guide = unfitted(chains.model, chains.data)
    found = compared(guide, chains, n_samples=100, evidence=-5.0)
    elbo, none = found.elbo
    assert none is None and elbo.standard_error > 0
    assert found.gap == (pytest.approx(-5.0 - elbo.mean), None)
    assert np.isfinite(found.k_hat[0]) and found.k_hat[1] is None
    assert found.importance_evidence[0] > elbo.mean  # Jensen
    text = str(found)
    assert text.splitlines()[-1].startswith("a: ELBO") and "evidence - ELBO" in text


@quiet
def test_what_cannot_be_compared():
    chains = posterior()
    other_layers = unfitted(
        process(rbf(), dkp.InverseWishart(delta=4.0), kernels.ReLU()), chains.data
    )
    other_data = unfitted(chains.model, dkp.Dataset.from_arrays(X, 2 * Y + X[:, 0]))
    fewer = unfitted(chains.model, dkp.Dataset.from_arrays(X[:4], Y[:4]))
    with pytest.raises(ValueError, match="two posteriors of one model"):
        compared(other_layers, chains)
    for other in (other_data, fewer):
        with pytest.raises(ValueError, match="conditioned on the same data"):
            compared(other, chains)
    with pytest.raises(ValueError, match="n_samples to be"):
        compared(chains, chains, n_samples=0)
    with pytest.raises(ValueError, match="Expected x to have 2 columns"), relaxed():
        compare(chains, chains, X[:, :1], key=jax.random.key(0))
    counts = np.ones((2, 2))
    with pytest.raises(ValueError, match="Expected three draws of each or more. Got 2 and 5"):
        energy_distance(np.eye(2), np.eye(5)[:, :2])
    with pytest.raises(ValueError, match="Expected b to"):
        energy_distance(counts, np.nan * counts)
