"""Chains that start from a variational posterior: its draws are extended to the data by the
conditional prior."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import dkp
from dkp import kernels, likelihoods
from dkp.inference.coordinates import Coordinates
from dkp.inference.draws_posterior import networks_of
from dkp.inference.markov.initial import _extend
from tests.support import relaxed

RNG = np.random.default_rng(9)
X = RNG.normal(size=(5, 2))
INDUCING = RNG.normal(size=(3, 2))


def rbf(lengthscale=1.0):
    return kernels.SquaredExponential(lengthscale=lengthscale, variance=1.0)


MODELS = {
    "factors": [
        rbf(dist.LogNormal(0.0, 0.4)),
        dkp.InverseWishart(delta=dist.LogNormal(1.0, 0.4)),
        rbf(),
        dkp.Wishart(width=10.5),
    ],
    "features": [rbf(), dkp.Wishart(width=2), rbf(), dkp.InverseWishart(delta=4.0)],
}


@pytest.mark.parametrize("name", MODELS)
def test_a_prior_draw_at_inducing_points_becomes_a_prior_draw_at_the_data(name):
    """Kolmogorov-Smirnov on every entry of every Gram matrix at the data, and on the
    hyperparameters: 2000 draws each, p > 1e-5 (at most 32 numbers: odds 3e-4 by chance)."""
    model = dkp.DeepKernelProcess(layers=MODELS[name], likelihood=likelihoods.Gaussian(noise=0.3))
    there, here = (
        Coordinates.of(
            model=model,
            data=dkp.Dataset.from_arrays(x, x[:, 0], standardize=False),
            features=name == "features",
        )
        for x in (INDUCING, X)
    )

    def numbers(z):
        network = here.network(z)
        entries = [(s @ s.T)[np.tril_indices(5)] for s in network.factors]
        return jnp.concatenate([*(v.reshape(-1) for v in network.values.values()), *entries])

    def extended(key):
        key_there, key_here = jax.random.split(key)
        draw = jax.tree.map(lambda a: a[0], networks_of(there, there.sample_prior(key_there)[None]))
        return numbers(_extend(here, key_here, draw))

    with relaxed():
        keys = jax.random.split(jax.random.key(0), 4_000)
        found = np.asarray(jax.jit(jax.vmap(extended))(keys[:2_000]))
        truth = np.asarray(
            jax.jit(jax.vmap(lambda key: numbers(here.sample_prior(key))))(keys[2_000:])
        )
    for a, b in zip(found.T, truth.T, strict=True):
        assert stats.ks_2samp(a, b).pvalue > 1e-5


def test_inducing_points_at_the_data_keep_their_gram_matrices():
    """Where inducing points and data coincide, nothing is left to draw (but for the jitter)."""
    model = dkp.DeepKernelProcess(
        layers=MODELS["factors"], likelihood=likelihoods.Gaussian(noise=0.3)
    )
    target = Coordinates.of(
        model=model, data=dkp.Dataset.from_arrays(X, X[:, 0], standardize=False)
    )

    def both(key):
        z = target.sample_prior(key)
        draw = jax.tree.map(lambda a: a[0], networks_of(target, z[None]))
        return target.network(z), target.network(_extend(target, key, draw))

    with relaxed():
        before, after = jax.jit(both)(jax.random.key(3))
    for name, value in before.values.items():
        np.testing.assert_allclose(after.values[name], value, rtol=1e-10)
    for a, b in zip(before.factors, after.factors, strict=True):
        np.testing.assert_allclose(b @ b.T, a @ a.T, atol=1e-3)
