"""Optimisers of variational inference: equal ones are one, and every parameter has a pace."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dkp
from dkp import kernels, likelihoods
from dkp.guides import GUIDES
from dkp.inference.variational.prepare import prepare
from dkp.inference.variational.rates import default_optimizer, natural_outputs, start_optimizer
from tests.support import relaxed

PACES = {"learned": {"a": "kernel", "b": "concentration"}, "bottlenecks": ({"m": "matrix"},)}


def test_equal_optimizers_are_one():
    def default(steps, rate=0.1, paces=PACES):
        return default_optimizer(steps, paces=paces, rate=rate)

    assert default(10) is default(10)
    assert default(10) is not default(10, rate=0.2)
    assert default(10) is not default(10, paces={**PACES, "inducing": "kernel"})
    assert natural_outputs(default(10), 10) is natural_outputs(default(10), 10)
    assert start_optimizer(10, warmup=1) is start_optimizer(10, warmup=1)


def test_adam_moves_each_parameter_at_the_rate_of_its_pace():
    parameters = jax.tree.map(lambda _: jnp.zeros(2), PACES)
    optimizer = default_optimizer(1000, paces=PACES, rate=0.007)
    with relaxed():
        updates, _ = optimizer.update(
            jax.tree.map(jnp.ones_like, parameters), optimizer.init(parameters), parameters
        )
    steps = {"a": 0.007, "b": 0.03, "m": 0.001}
    found = updates["learned"] | updates["bottlenecks"][0]
    for name, step in steps.items():
        np.testing.assert_allclose(found[name], -step, rtol=1e-5)


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("batch_size", [None, 3])
def test_every_parameter_of_a_family_has_a_pace(guide, batch_size):
    bottleneck = dkp.InverseWishart() if guide == "inverse-wishart" else dkp.Wishart(width=2)
    model = dkp.DeepKernelProcess(
        layers=[kernels.SquaredExponential(), bottleneck, kernels.SquaredExponential()],
        likelihood=likelihoods.Gaussian(),
    )
    data = dkp.Dataset.from_arrays(np.arange(5.0), np.arange(5.0) ** 2)
    family, parameters, _ = prepare(
        model, data, key=jax.random.key(0), n_inducing=4, batch_size=batch_size, guide=guide
    )
    paces = family.paces(parameters)
    without = {name: v for name, v in parameters.items() if name != "outputs"}
    assert jax.tree.structure(paces) == jax.tree.structure(without)
    concentrations = [n for n, pace in paces["learned"].items() if pace == "concentration"]
    assert concentrations == (["layers.1.delta"] if guide == "inverse-wishart" else [])
