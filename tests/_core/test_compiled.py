"""Compiled functions of an object: traced once for each structure, and never what keeps it
alive."""

import dataclasses
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from sklearn.base import clone

import dkp
from dkp import kernels, likelihoods
from dkp._core.compiled import compiled
from dkp.estimators import DKPRegressor
from tests.support import relaxed


class Owner:
    def __init__(self, factor):
        self.factor = factor


def test_one_program_for_an_owner_and_its_static_arguments():
    traces = []

    @compiled(static_argnums=(1,))
    def power(owner, exponent, x):
        traces.append((owner.factor, exponent))
        return owner.factor * x**exponent

    one, two = Owner(2.0), Owner(3.0)
    found = [power(owner, n, jnp.asarray(2.0)) for owner in (one, two, one) for n in (1, 3, 1)]
    assert [float(a) for a in found] == [4.0, 16.0, 4.0, 6.0, 24.0, 6.0, 4.0, 16.0, 4.0]
    assert traces == [(2.0, 1), (2.0, 3), (3.0, 1), (3.0, 3)]
    # inside of other programs
    assert float(jax.jit(lambda x: power(one, 2, x))(jnp.asarray(3.0))) == 18.0


@dataclasses.dataclass(frozen=True)
class Equal:
    factor: float


def test_equal_owners_share_a_program_and_the_last_ones_are_kept():
    traces = []

    @compiled()
    def scaled(owner, x):
        traces.append(owner.factor)
        return owner.factor * x

    numbers = [float(i) for i in range(33)]
    found = [float(scaled(Equal(n), jnp.asarray(2.0))) for n in (0.0, 0.0, *numbers[1:], 32.0, 0.0)]
    assert found == [0.0, 0.0, *(2 * n for n in numbers[1:]), 64.0, 0.0]
    assert traces == [*numbers, 0.0]  # of 33, the first was forgotten
    traces.clear()
    for n in (*range(1, 34), 33, 1):  # other shapes are other programs
        scaled(Equal(1.0), jnp.ones(n))
    assert len(traces) == 34


def test_programs_within_others_and_their_derivatives():
    @compiled()
    def square(owner, x):
        return owner.factor * x**2

    owner = Equal(3.0)
    assert float(square(owner, jnp.asarray(2.0))) == 12.0
    assert float(jax.jit(lambda: square(owner, jnp.asarray(2.0)))()) == 12.0
    assert float(jax.grad(lambda x: square(owner, x))(jnp.asarray(2.0))) == 12.0
    np.testing.assert_array_equal(
        jax.vmap(lambda x: square(owner, x))(jnp.arange(3.0)), [0.0, 3.0, 12.0]
    )
    np.testing.assert_array_equal(
        jax.lax.map(lambda x: square(owner, x), jnp.arange(3.0)), [0.0, 3.0, 12.0]
    )


def test_fits_of_equal_models_share_their_programs():
    """The folds of a cross-validation: the second fit compiles nothing."""
    x = np.random.default_rng(0).normal(size=(12, 2))
    compiled_programs = []

    def listen(event, _, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled_programs.append(details)

    def once(seed):
        estimator = DKPRegressor(n_inducing=4, steps=3, random_state=seed)
        return clone(estimator).fit(x, np.sin(x[:, 0] + seed)).predict(x)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        with relaxed():
            first = once(0)
            number = len(compiled_programs)
            second = once(1)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not np.array_equal(first, second)
    assert number > 0 and compiled_programs[number:] == []


def test_programs_go_with_their_owner():
    @compiled()
    def scaled(owner, x):
        return jax.lax.map(lambda a: owner.factor * a, x)

    owner = Owner(jnp.asarray(2.0))
    array = weakref.ref(owner.factor)
    scaled(owner, jnp.ones(3))
    del owner
    gc.collect()
    assert array() is None


def sample(model, data):
    return dkp.sample_hmc(
        model, data, key=jax.random.key(0), chains=1, warmup=2, draws=4, method="hmc"
    )


def fit(model, data):
    return dkp.fit_vi(model, data, key=jax.random.key(0), steps=2)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # four draws
@pytest.mark.parametrize("run", [sample, fit])
def test_posteriors_are_freed_with_all_they_used(run):
    """Many fits, one after another, do not add up."""
    x = np.linspace(-1, 1, 5)[:, None]
    model = dkp.DeepKernelProcess(
        layers=[
            kernels.SquaredExponential(1.0, 1.0),
            dkp.InverseWishart(delta=5.0),
            kernels.SquaredExponential(1.0, 1.0),
        ],
        likelihood=likelihoods.Gaussian(noise=dist.LogNormal(-1.0, 0.3)),
    )
    data = dkp.Dataset.from_arrays(x, np.sin(x[:, 0]))
    with relaxed():
        posterior = run(model, data)
    dkp.predict(posterior, x, key=jax.random.key(1))
    used = [weakref.ref(a) for a in (posterior, model, data, data.x)]
    del posterior, model, data
    gc.collect()
    assert [a() is None for a in used] == [True] * len(used)
