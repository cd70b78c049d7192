"""Compiled functions: one program for equal structures, in every engine, and nothing kept alive."""

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


def test_one_program_for_equal_structures_and_static_arguments():
    traces = []

    @compiled(static_argnums=(1,))
    def power(owner, exponent, x):
        traces.append(exponent)
        return owner["factor"] * x**exponent

    one, two = {"factor": 2.0}, {"factor": 3.0}
    found = [
        float(power(owner, n, jnp.asarray(2.0))) for owner in (one, two, one) for n in (1, 3, 1)
    ]
    assert found == [4.0, 16.0, 4.0, 6.0, 24.0, 6.0, 4.0, 16.0, 4.0]
    assert traces == [1, 3]
    assert float(jax.jit(lambda x: power(one, 2, x))(jnp.asarray(3.0))) == 18.0  # inside of others


def test_the_last_programs_are_kept():
    traces = []

    @compiled()
    def doubled(x):
        traces.append(x.shape)
        return 2 * x

    for n in (1, 1, *range(2, 34), 33, 1):  # of 33, the first was forgotten
        doubled(jnp.ones(n))
    assert traces == [(n,) for n in (*range(1, 34), 1)]


def test_programs_within_others_and_their_derivatives():
    @compiled()
    def square(factor, x):
        return factor * x**2

    assert float(square(3.0, jnp.asarray(2.0))) == 12.0
    assert float(jax.jit(lambda: square(3.0, jnp.asarray(2.0)))()) == 12.0
    assert float(jax.grad(lambda x: square(3.0, x))(jnp.asarray(2.0))) == 12.0
    assert float(jax.grad(lambda factor: square(factor, jnp.asarray(2.0)))(3.0)) == 4.0
    expected = [0.0, 3.0, 12.0]
    np.testing.assert_array_equal(jax.vmap(lambda x: square(3.0, x))(jnp.arange(3.0)), expected)
    np.testing.assert_array_equal(jax.lax.map(lambda x: square(3.0, x), jnp.arange(3.0)), expected)


class Programs:
    """Counts the programs that XLA compiles, or reads from a file, within a context."""

    def __enter__(self):
        self.names = []
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_):
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event, _, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            self.names.append(details.get("fun_name"))


def problem(seed, *, scale):
    """A model whose priors have other numbers, and data with others, for each seed."""
    x = np.random.default_rng(seed).normal(size=(8, 2))
    prior = dist.LogNormal(0.1 * seed, scale)
    model = dkp.DeepKernelProcess(
        layers=[
            kernels.SquaredExponential(lengthscale=prior, variance=1.0 + seed),
            dkp.InverseWishart(delta=10.0 + seed),
            kernels.SquaredExponential(lengthscale=prior, variance=dist.Gamma(2.0, 1.0 + seed)),
        ],
        likelihood=likelihoods.Gaussian(noise=dist.LogNormal(-1.0, scale)),
    )
    return model, dkp.Dataset.from_arrays(x, np.sin(x[:, 0] + seed))


ENGINES = {
    "fit_vi": lambda model, data, key: dkp.fit_vi(
        model, data, key=key, n_inducing=4, steps=3, start_steps=2, progress=False
    ),
    "sample_hmc": lambda model, data, key: dkp.sample_hmc(
        model, data, key=key, chains=2, warmup=40, draws=4, max_tree_depth=2, progress=False
    ),
    "log_evidence": lambda model, data, key: (
        dkp.log_evidence(
            model, data, key=key, particles=64, runs=2, move="pcn", progress=False
        ).posterior
    ),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # four draws
@pytest.mark.parametrize("engine", ENGINES)
def test_equal_models_with_other_numbers_share_all_programs(engine):
    """In every engine, and in predictions: a second call on another fold, with other numbers in its
    priors and another key, compiles nothing."""

    def once(seed, scale):
        posterior = ENGINES[engine](*problem(seed, scale=scale), jax.random.key(seed))
        return dkp.predict(posterior, np.ones((3, 2)), key=jax.random.key(seed), n_samples=4).mean

    with relaxed():
        with Programs() as first:
            one = once(0, 1.0)
        with Programs() as second:
            two = once(1, 0.7)
    assert not np.array_equal(one, two)
    assert first.names and second.names == []


def test_fits_of_equal_models_share_their_programs():
    """The folds of a cross-validation: the second fit compiles nothing."""
    x = np.random.default_rng(0).normal(size=(12, 2))

    def once(seed):
        estimator = DKPRegressor(n_inducing=4, steps=3, random_state=seed)
        return clone(estimator).fit(x, np.sin(x[:, 0] + seed)).predict(x)

    with relaxed():
        with Programs() as programs:
            first = once(0)
        with Programs() as again:
            second = once(1)
    assert not np.array_equal(first, second)
    assert programs.names and again.names == []


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
