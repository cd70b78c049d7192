"""What descriptions say: equal ones are recognised, in this process and in others, and different
ones are not."""

import copy
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import dkp
from dkp import kernels, likelihoods
from dkp._core.identity import fingerprint
from dkp.model.defaults import default_model

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def prior(loc=0.2, scale=1.0):
    return dist.TransformedDistribution(
        dist.LogNormal(0.0, scale), dist.transforms.AffineTransform(loc, 1.0)
    )


class Undeclared(dist.Distribution):
    """A law that does not tell NumPyro of its parameter."""

    def __init__(self, k):
        self.k = k
        super().__init__()


def mixed(smooth):
    transform = dist.transforms.DiscreteCosineTransform(smooth=smooth)
    return dist.TransformedDistribution(dist.Normal(0.0, 1.0).expand([3]), transform)


DESCRIPTIONS = [
    default_model,
    lambda: default_model(kernels.Matern(nu=1.5)),
    lambda: default_model(kernels.Matern(nu=2.5)),
    lambda: kernels.SquaredExponential(lengthscale=1.0),
    lambda: kernels.SquaredExponential(lengthscale=2.0),
    lambda: kernels.SquaredExponential(lengthscale=1),  # of another type: a compiler may see it
    lambda: kernels.SquaredExponential(lengthscale=dkp.learn(1.0)),
    lambda: kernels.SquaredExponential(lengthscale=dkp.learn()),
    lambda: kernels.SquaredExponential(lengthscale=dist.LogNormal(0.0, 1.0)),
    lambda: kernels.SquaredExponential(lengthscale=dist.LogNormal(0.0, 2.0)),
    lambda: kernels.SquaredExponential(lengthscale=dist.HalfNormal(1.0)),
    lambda: kernels.SquaredExponential(lengthscale=prior()),
    lambda: kernels.SquaredExponential(lengthscale=prior(loc=0.3)),
    lambda: kernels.SquaredExponential(lengthscale=prior(scale=2.0)),
    lambda: kernels.SquaredExponential(lengthscale=dist.TruncatedNormal(0.5, 1.0, low=0.1)),
    lambda: kernels.SquaredExponential(lengthscale=Undeclared(1)),
    lambda: kernels.SquaredExponential(lengthscale=Undeclared(2)),
    lambda: kernels.SquaredExponential(lengthscale=dist.HalfNormal(2.0).mask(True)),
    lambda: kernels.Linear(weights=mixed(0.0)),
    lambda: kernels.Linear(weights=mixed(1.0)),
    lambda: kernels.Linear(weights=dist.HalfNormal(1.0).expand([3])),
    lambda: kernels.Linear(weights=dist.HalfNormal(1.0).expand([3]).to_event(1)),
    lambda: kernels.Linear(weights=np.ones(3)),
    lambda: kernels.Linear(weights=np.ones(3, np.float32)),
    lambda: kernels.Linear(weights=np.asarray([1.0, 1.0, 2.0])),
    lambda: dkp.InverseWishart(delta=3.0),
    lambda: dkp.Wishart(width=3),
    likelihoods.Poisson,
    lambda: likelihoods.Categorical(3),
    lambda: likelihoods.Categorical(4),
]


def test_equal_descriptions_and_their_copies_have_one_fingerprint_and_others_another():
    found = [fingerprint(make()) for make in DESCRIPTIONS]
    assert len(set(found)) == len(found)
    for make, known in zip(DESCRIPTIONS, found, strict=True):
        assert fingerprint(make()) == fingerprint(copy.deepcopy(make())) == known


def test_containers_and_numbers_keep_their_type():
    assert len({fingerprint(node) for node in (True, 1, 1.0, "1", (1,), [1], {"1": 1}, None)}) == 8
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1, "b": 2}) != fingerprint({"a": 2, "b": 1})
    assert fingerprint((1, 2), 3) != fingerprint((1,), (2, 3))


def test_what_a_law_computed_once_and_keeps_says_nothing_new():
    law = dist.MultivariateNormal(jnp.zeros(2), scale_tril=jnp.eye(2))
    before = fingerprint(law)
    assert law.covariance_matrix.shape == (2, 2) and "covariance_matrix" in vars(law)
    assert fingerprint(law) == before
    transform = dist.transforms.ExpTransform()
    before = fingerprint(transform)
    assert transform.inv is not None
    assert fingerprint(transform) == before != fingerprint(transform.inv)


def test_fingerprints_see_the_code_of_functions():
    def scaled(factor):
        return lambda u: factor * u

    different = [
        scaled(1.0),
        scaled(2.0),
        lambda u: u + 1,
        lambda u: u + 2,
        lambda u, a=1: a * u,
        lambda u, a=2: a * u,
    ]
    found = [fingerprint(kernels.Activation(f)) for f in different]
    assert len(set(found)) == len(found)
    assert fingerprint(kernels.Activation(scaled(1.0))) == found[0]
    compiled = [fingerprint(kernels.Activation(f)) for f in (jnp.tanh, jnp.sin)]
    assert compiled[0] != compiled[1] and compiled[0] == fingerprint(kernels.Activation(jnp.tanh))


def test_fingerprints_of_functions_that_call_themselves_and_hold_sets():
    def power(n):
        def repeated(u, times=n):
            return u if times == 0 else u * repeated(u, times - 1)

        return repeated

    assert fingerprint(power(2)) == fingerprint(power(2)) != fingerprint(power(3))
    code = (
        "from dkp._core.identity import fingerprint; "
        "print(fingerprint(lambda name: name in {'a', 'b', 'c'}))"
    )
    found = {
        subprocess.check_output(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}
        )
        for seed in "1234"
    }
    assert len(found) == 1 and found != {b""}


def test_fingerprint_sees_model_data_key_and_options():
    data = dkp.Dataset.from_arrays(RNG.normal(size=(5, 2)), RNG.normal(size=5))
    weights = 1 + np.arange(3000.0)
    models = [kernels.Linear(weights=w) for w in (weights, np.where(weights == 1500, 7, weights))]
    calls = [
        fingerprint("fit", models[0], [data], [KEY], {"steps": 1}),
        fingerprint("fit", models[1], [data], [KEY], {"steps": 1}),
        fingerprint(
            "fit", models[0], [dkp.Dataset.from_arrays(data.x, 2 * data.y)], [KEY], {"steps": 1}
        ),
        fingerprint("fit", models[0], [data], [jax.random.key(1)], {"steps": 1}),
        fingerprint("fit", models[0], [data], [KEY], {"steps": 2}),
        fingerprint("chains", models[0], [data], [KEY], {"steps": 1}),
    ]
    assert len(set(calls)) == len(calls)
    assert calls[0] == fingerprint("fit", models[0], [data], [KEY], {"steps": 1})


PRIORS = """
import numpyro.distributions as dist
from dkp import kernels
from dkp._core.identity import fingerprint
affine = dist.transforms.AffineTransform({loc}, 1.0)
prior = dist.TransformedDistribution(dist.LogNormal(0.0, {scale}), affine)
laws = [prior, dist.Gamma(2.0, 3.0), dist.TruncatedNormal(0.5, 1.0, low=0.1)]
layers = [kernels.SquaredExponential(lengthscale=law) for law in laws]
print(fingerprint("fit", layers, [], [], {{}}))
"""


def test_fingerprint_is_that_of_another_process():
    """The order of text in sets, which NumPyro's priors depend on, is another in every process."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PRIORS.format(loc=loc, scale=scale)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
        )
        for loc, scale, seed in (
            (0.2, 1.0, "1"),
            (0.2, 1.0, "2"),
            (0.2, 1.0, "6"),
            (0.3, 1.0, "1"),
            (0.2, 2.0, "1"),
        )
    ]
    first, second, third, *others = [process.communicate()[0] for process in started]
    assert first and first == second == third and len({first, *others}) == 3
