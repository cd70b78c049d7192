"""What every guide obeys: a new bottleneck's guide is one more row of this table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import dkp
from dkp.bottlenecks import Bottleneck
from dkp.distributions import kl_divergence
from dkp.guides import BottleneckGuide, HyperparameterGuide, OutputGuide, guide_of
from dkp.priors import Hyperparameter

P = 3
NEUTRAL = {"log_gamma": -60.0}
"""What is added to a guide's parameters to make it the prior."""
ROWS = [
    # layer, the parameter that makes it the prior and its value
    (dkp.InverseWishart(delta=4.5), NEUTRAL),
    (dkp.InverseWishart(delta=200.0), NEUTRAL),
]
rows = pytest.mark.parametrize(("layer", "neutral"), ROWS, ids=lambda v: repr(v) if isinstance(v, Bottleneck) else "")


@functools.partial(jax.jit, static_argnums=1)
def start(layer, dtype=jnp.float64):
    return guide_of(layer).init(layer, P, dtype)


def perturbed(parameters, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: a + jnp.asarray(0.4 * rng.normal(size=a.shape), a.dtype), parameters)


@jax.jit
def divergence(layer, parameters):
    q, _ = guide_of(layer).posterior(layer, parameters)
    return kl_divergence(q, layer.whitened_prior(P, parameters["mixing"].dtype))


@jax.jit
def log_ratio(layer, parameters, keys):
    q, _ = guide_of(layer).posterior(layer, parameters)
    p = layer.whitened_prior(P, parameters["mixing"].dtype)

    def one(key):
        t = q.sample(key)
        return q.log_prob(t) - p.log_prob(t), t

    return jax.vmap(one)(keys)


@rows
def test_keeps_the_protocol(layer, neutral):
    guide = guide_of(layer)
    assert isinstance(guide, BottleneckGuide)
    parameters = start(layer)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(parameters))
    assert set(neutral) <= set(parameters)


@rows
@pytest.mark.parametrize("seed", [0, 1])
def test_divergence_is_its_monte_carlo_estimate(layer, neutral, seed):
    """|z| < 4 on four rows: a false-alarm rate of 3e-4 over seeds."""
    parameters = perturbed(start(layer), seed)
    samples = np.asarray(log_ratio(layer, parameters, jax.random.split(jax.random.key(seed), 10_000))[0])
    kl = float(divergence(layer, parameters))
    assert kl > 0
    assert abs(samples.mean() - kl) < 4 * samples.std(ddof=1) / np.sqrt(len(samples))


@rows
def test_neutral_parameters_give_the_prior(layer, neutral):
    parameters = perturbed(start(layer)) | {name: jnp.asarray(v) for name, v in neutral.items()}
    np.testing.assert_allclose(divergence(layer, parameters), 0, atol=1e-7)
    ratio, _ = log_ratio(layer, parameters, jax.random.split(jax.random.key(0), 10_000))
    np.testing.assert_allclose(ratio, 0, atol=1e-6)


@rows
def test_starts_centred_on_the_deterministic_network(layer, neutral):
    """The mean of T T^T under the guide is the identity. |z| < 4.5 over 12 numbers: a false-alarm rate of 1e-4."""
    _, t = log_ratio(layer, start(layer), jax.random.split(jax.random.key(0), 10_000))
    g = t @ t.transpose(0, 2, 1)
    z = (g.mean(0) - np.eye(P)) / (g.std(0) / np.sqrt(len(g)))
    assert np.max(np.abs(z)) < 4.5


@rows
def test_gradients_of_the_divergence(layer, neutral):
    """Against finite differences along a random direction, in the parameters."""
    resolved = jax.tree.map(jnp.asarray, layer)
    parameters = perturbed(start(layer))
    direction = perturbed(jax.tree.map(jnp.zeros_like, parameters), 3)

    @jax.jit
    def along(t):
        moved = jax.tree.map(lambda a, d: a + t * d, parameters, direction)
        return divergence(resolved, moved)

    h = 1e-5
    np.testing.assert_allclose(jax.jit(jax.grad(along))(0.0), (along(h) - along(-h)) / (2 * h), rtol=1e-6)


@rows
def test_float32_is_close_to_float64(layer, neutral):
    parameters = perturbed(start(layer))
    low = jax.tree.map(lambda a: a.astype(jnp.float32), parameters)
    value = divergence(layer, low)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, divergence(layer, parameters), rtol=2e-3)


def test_an_unknown_bottleneck():
    class Unknown(Bottleneck):
        pass

    with pytest.raises(ValueError, match="Expected a bottleneck with a variational guide .* Got Unknown"):
        guide_of(Unknown())


def test_output_guide_has_a_triangular_precision_with_positive_diagonal():
    guide = OutputGuide()
    parameters = perturbed(guide.init(P, 2, np.dtype("float64")))
    target, precision = guide.arrays(parameters)
    assert target.shape == (P, 2) and precision.shape == (P, P)
    np.testing.assert_array_equal(np.triu(precision, 1), 0)
    assert np.all(np.diagonal(precision) > 0)


PRIORS = {
    "log-normal": (dist.LogNormal(0.3, 0.5), "positive"),
    "gamma": (dist.Gamma(2.0, 1.0), "positive"),
    "half-Cauchy": (dist.HalfCauchy(1.0), "positive"),  # its mean is infinite
    "interval": (dist.Uniform(0.5, 2.0), "positive"),
    "normal": (dist.Normal(1.0, 2.0), "real"),
}


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("shape", [(), (2,)])
def test_hyperparameter_guide_lives_in_the_support_of_its_prior(name, shape):
    prior, domain = PRIORS[name]
    h = Hyperparameter("h", prior, domain, shape, dkp.kernels.ArcCosine(1))
    guide = HyperparameterGuide()
    parameters = guide.init(h, np.dtype("float64"))
    parameters = parameters | {"log_scale": jnp.ones(shape)}
    law = guide.law(h, parameters)
    assert law.event_shape == shape and law.batch_shape == ()
    draws = jax.vmap(law.sample)(jax.random.split(jax.random.key(0), 500))
    assert draws.shape == (500, *shape) and np.all(np.isfinite(draws))
    assert np.all(prior.support(draws))
    assert np.all(np.isfinite(jax.vmap(law.log_prob)(draws)))
