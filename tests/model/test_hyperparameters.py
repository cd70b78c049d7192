"""Hyperparameters: found by name, checked against their shape, resolved to arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import dkp
from dkp import kernels, likelihoods
from dkp.model.hyperparameters import check_hyperparameters, hyperparameters, resolve

D, C = 3, 2


def model(**changes):
    values = {
        "weights": dkp.learn(),
        "lengthscale": dist.LogNormal(0.0, 1.0),
        "delta": dkp.learn(7.0),
        "noise": 0.3,
    }
    values |= changes
    return dkp.DeepKernelProcess(
        layers=[
            kernels.Linear(ard=True, weights=values["weights"]),
            dkp.InverseWishart(delta=values["delta"]),
            kernels.Sum(
                kernels.SquaredExponential(lengthscale=values["lengthscale"], variance=2.0),
                kernels.ArcCosine(1),
            ),
        ],
        likelihood=likelihoods.Gaussian(noise=values["noise"]),
    )


NAMES = {
    "layers.0.weights": (D,),
    "layers.0.bias": (),
    "layers.1.delta": (),
    "layers.2.kernels.0.lengthscale": (),
    "layers.2.kernels.0.variance": (),
    "likelihood.noise": (),
}


def test_names_shapes_and_kinds():
    found = hyperparameters(model(), D, C)
    assert {n: h.shape for n, h in found.items()} == NAMES
    assert [n for n, h in found.items() if h.is_learned] == ["layers.0.weights", "layers.1.delta"]
    assert [n for n, h in found.items() if h.is_inferred] == ["layers.2.kernels.0.lengthscale"]


@pytest.mark.parametrize("dtype", [np.dtype("float32"), np.dtype("float64")], ids=str)
def test_resolved_models_hold_arrays(dtype):
    values = {"layers.0.weights": jnp.ones(D, dtype), "layers.1.delta": jnp.asarray(5.0, dtype)}
    values["layers.2.kernels.0.lengthscale"] = jnp.asarray(0.7, dtype)
    resolved = resolve(model(), values, dtype, D, C)
    assert resolved.layers[2].kernels[0].lengthscale == jnp.asarray(0.7, dtype)
    assert resolved.layers[2].kernels[0].variance == 2.0
    assert resolved.layers[1].delta == 5.0
    for leaf, shape in zip(jax.tree.leaves(resolved), NAMES.values(), strict=True):
        assert leaf.dtype == dtype and leaf.shape == shape


def test_resolving_leaves_the_description_as_it_was():
    described = model()
    resolve(described, {"layers.1.delta": jnp.asarray(5.0)} | _rest(), np.dtype("float64"), D, C)
    assert described.layers[1].delta.init == 7.0


def _rest():
    return {"layers.0.weights": jnp.ones(D), "layers.2.kernels.0.lengthscale": jnp.asarray(1.0)}


def test_starting_values():
    x, y = jnp.asarray(np.random.default_rng(0).normal(size=(20, D))), jnp.ones((20, C))
    found = hyperparameters(model(noise=dkp.learn(), delta=dkp.learn()), D, C)
    assert (
        found["layers.1.delta"].initial(x, y) == dkp.InverseWishart().initial_values(x, y)["delta"]
    )
    assert found["layers.0.weights"].initial(x, y).shape == (D,)
    assert found["likelihood.noise"].initial(x, y) == 0.05
    assert hyperparameters(model(), D, C)["layers.1.delta"].initial(x, y) == 7.0
    given = hyperparameters(model(weights=dkp.learn([1.0, 2.0, 3.0])), D, C)["layers.0.weights"]
    np.testing.assert_array_equal(given.initial(x, y), [1.0, 2.0, 3.0])


def test_a_variance_that_starts_at_nothing_has_a_finite_logarithm():
    described = dkp.DeepKernelProcess(
        layers=[kernels.Linear(bias=dkp.learn(0.0))], likelihood=likelihoods.Gaussian()
    )
    h = hyperparameters(described, D, C)["layers.0.bias"]
    assert np.isfinite(h.unconstrain(h.initial(jnp.zeros((4, D)), jnp.zeros((4, C)))))


PRIORS = [
    (dist.LogNormal(0.0, 1.0), "scalar"),
    (dist.LogNormal(jnp.zeros(D), jnp.ones(D)), "one each"),
    (dist.LogNormal(jnp.zeros(D), jnp.ones(D)).to_event(1), "one event"),
    (dist.Gamma(2.0, 1.0), "gamma"),
    (dist.HalfNormal(1.0), "half-normal"),
    (dist.InverseGamma(3.0, 1.0), "inverse gamma"),
    (dist.Uniform(0.5, 2.0), "interval"),
    (dist.TruncatedNormal(1.0, 1.0, low=0.1), "truncated"),
]


@pytest.mark.parametrize("prior", [p for p, _ in PRIORS], ids=[n for _, n in PRIORS])
def test_priors_have_the_shape_of_the_hyperparameter(prior):
    h = hyperparameters(model(weights=prior), D, C)["layers.0.weights"]
    assert h.prior.shape() == (D,) and h.prior.batch_shape == ()
    sample = h.prior.sample(jax.random.key(0))
    truth = prior.log_prob(sample)
    np.testing.assert_allclose(h.prior.log_prob(sample), jnp.sum(truth), rtol=1e-6)


@pytest.mark.parametrize(
    "weights",
    [
        np.ones(D + 1),
        [1.0, 2.0],
        dkp.learn(np.ones((D, 2))),
        dist.LogNormal(jnp.zeros(D + 1), jnp.ones(D + 1)),
        dist.LogNormal(jnp.zeros((2, D)), jnp.ones((2, D))),
    ],
    ids=["too long", "too short", "a matrix to learn", "a prior too long", "a prior of matrices"],
)
def test_wrong_shapes(weights):
    with pytest.raises(
        ValueError, match=r"Expected layers.0.weights to be a scalar or of shape \(3,\). Got"
    ):
        check_hyperparameters(hyperparameters(model(weights=weights), D, C))


@pytest.mark.parametrize(
    "prior", [dist.Normal(0.0, 1.0), dist.Uniform(-1.0, 1.0), dist.StudentT(3.0)]
)
def test_priors_over_negative_numbers(prior):
    with pytest.raises(
        ValueError, match="Expected a distribution over positive numbers for .*lengthscale. Got"
    ):
        check_hyperparameters(hyperparameters(model(lengthscale=prior), D, C))


class Undeclared(dist.HalfNormal):
    """A law that does not tell NumPyro of its parameter."""

    def __init__(self, factor):
        self.factor = factor
        super().__init__(1.0)


def test_priors_declare_their_parameters():
    with pytest.raises(
        ValueError, match="declare its parameters to NumPyro. Got Undeclared.*factor"
    ):
        check_hyperparameters(hyperparameters(model(lengthscale=Undeclared(2.0)), D, C))
