"""What sample_hmc refuses before anything runs, and what it says about chains that are not to be
trusted."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import dkp
from dkp import kernels, likelihoods
from dkp._core import machine
from dkp.bottlenecks.base import Bottleneck
from dkp.inference.coordinates import Coordinates
from dkp.inference.markov import sample as hmc
from dkp.inference.markov import session as sampling
from dkp.inference.markov.chains import Chains
from dkp.inference.markov.initial import initial_points
from dkp.inference.markov.posterior import MCMCPosterior
from dkp.inference.markov.transitions import HMC, identity_metric
from dkp.inference.variational.posterior import VariationalPosterior
from dkp.inference.variational.prepare import prepare
from tests.support import relaxed

KEY = jax.random.key(0)
RNG = np.random.default_rng(6)
X = RNG.normal(size=(7, 2))
Y = X[:, 0] + 0.1 * RNG.normal(size=7)


def model(*layers, noise=0.2):
    layers = layers or (dkp.InverseWishart(delta=3.0), kernels.ArcCosine(1))
    return dkp.DeepKernelProcess(layers=list(layers), likelihood=likelihoods.Gaussian(noise=noise))


def data(n=7, **options):
    return dkp.Dataset.from_arrays(np.resize(X, (n, 2)), np.resize(Y, n), **options)


def sample(described=None, given=None, **options):
    options = {"key": KEY, "warmup": 2, "draws": 2, "chains": 2, "progress": False} | options
    return dkp.sample_hmc(
        model() if described is None else described, data() if given is None else given, **options
    )


def variational(described):
    """The variational posterior before any fitting."""
    given = data()
    with relaxed():
        family, parameters, _ = prepare(described, given, key=KEY, n_inducing=4)
    rest = {
        "elbo_trace": np.zeros(1),
        "jitter": 0.0,
        "skipped": 0,
        "stopped": "finished",
        "seconds": 0.0,
    }
    return VariationalPosterior(family=family, parameters=parameters, data=given, **rest)


class Scaled(Bottleneck):
    """A bottleneck that is not made of Bartlett factors."""

    whiten = draw_data = mean_data = lambda self, *_: None

    def prior(self, scale):
        return dist.Normal(jnp.zeros_like(scale.tril), 1.0).to_event(2)


class StartedError(Exception):
    """Chains would run now."""


@pytest.fixture
def nothing_runs(monkeypatch):
    def start(*_, **__):
        raise StartedError

    monkeypatch.setattr(hmc, "Chains", start)


# --- refused --------------------------------------------------------------------------------------


REFUSED = {
    "a model that is none": (
        lambda: sample([kernels.ReLU()]),
        "model to be a dkp.DeepKernelProcess",
    ),
    "arrays": (lambda: sample(given=(X, Y)), "data to be a dkp.Dataset"),
    "a number for the key": (lambda: sample(key=0), "key to be a random key"),
    "nothing to sample": (
        lambda: sample(model(kernels.SquaredExponential(1.0, 1.0))),
        "a model with something to sample",
    ),
    "an unknown method": (
        lambda: sample(method="gibbs"),
        "method to be one of 'nuts', 'hmc', 'ess', 'pcn'",
    ),
    "an unknown chain method": (
        lambda: sample(chain_method="gpu"),
        "chain_method to be one of 'auto', 'parallel'",
    ),
    "no chains": (lambda: sample(chains=0), "chains to be"),
    "no warm-up": (lambda: sample(warmup=0), "warmup to be"),
    "no draws": (lambda: sample(draws=0), "draws to be"),
    "no thinning": (lambda: sample(thin=0), "thin to be"),
    "half a chain": (lambda: sample(chains=1.5), "chains to be"),
    "negative acceptance": (lambda: sample(target_acceptance=-0.5), "target_acceptance to be"),
    "no acceptance": (lambda: sample(target_acceptance=0.0), "target_acceptance to be"),
    "certain acceptance": (
        lambda: sample(target_acceptance=1.0),
        "target_acceptance to lie between 0 and 1",
    ),
    "acceptance in percent": (
        lambda: sample(target_acceptance=80),
        "target_acceptance to lie between 0 and 1",
    ),
    "acceptance where all is accepted": (
        lambda: sample(method="ess", target_acceptance=0.5),
        "no target_acceptance with method='ess', which has no step size",
    ),
    "a tree without doublings": (lambda: sample(max_tree_depth=0), "max_tree_depth to be"),
    "trees of hmc": (
        lambda: sample(method="hmc", max_tree_depth=5),
        "max_tree_depth=None with method='hmc'",
    ),
    "no trajectory": (
        lambda: sample(method="hmc", trajectory_length=0.0),
        "trajectory_length to be",
    ),
    "trajectories of nuts": (
        lambda: sample(trajectory_length=1.0),
        "trajectory_length=None with method='nuts'",
    ),
    "negative memory": (lambda: sample(max_memory=-1.0), "max_memory to be"),
    "another bottleneck": (
        lambda: sample(model(dkp.Wishart(width=2), Scaled())),
        r"Got Scaled\(\) \(bottleneck 2\)",
    ),
    "a real width below the number of points": (
        lambda: sample(model(dkp.Wishart(width=dist.LogNormal(2.0, 0.1)))),
        "at least the number of points, 7",
    ),
    "a discrete width": (
        lambda: sample(model(dkp.Wishart(width=dist.DiscreteUniform(20, 50)))),
        r"continuous distribution for layers\.0\.width.*dkp\.compare_widths",
    ),
    "a start that is no posterior": (
        lambda: sample(init=KEY),
        "init to be a posterior of dkp.fit_vi",
    ),
    "an exact posterior as a start": (
        lambda: sample(init=dkp.condition(model(kernels.ReLU()), data())),
        "init to be a posterior of dkp.fit_vi.*ExactPosterior",
    ),
}


@pytest.mark.usefixtures("_unchecked", "nothing_runs")
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, words = REFUSED[name]
    with pytest.raises(ValueError, match=rf"(?s)Expected .*{words}"):
        call()


@pytest.mark.usefixtures("nothing_runs")
def test_too_many_points():
    with pytest.raises(
        ValueError,
        match=r"(?s)at most 1000 data points.*Got 1001: take a subset, or use dkp\.fit_vi",
    ):
        sample(given=data(1001))
    with pytest.raises(StartedError), relaxed():
        sample(model(kernels.ReLU(), noise=dist.LogNormal(-1.0, 0.5)), data(1000))


@pytest.mark.usefixtures("nothing_runs")
def test_draws_that_do_not_fit_into_memory(monkeypatch):
    """7 x 8 / 2 = 28 coordinates of 8 bytes: 2 x 100 x 28 x 8 = 44.8 kB."""
    with pytest.raises(
        ValueError, match=r"fit into 4e-05 GB. Got .* of 4\.48e-05 GB: keep fewer draws \(thin="
    ):
        sample(draws=100, max_memory=40_000.0)
    with pytest.raises(StartedError):
        sample(draws=100, max_memory=44_800.0)
    monkeypatch.setattr(machine, "free_memory", lambda device: 80_000.0)  # half of it may be used
    with pytest.raises(ValueError, match="fit into 4e-05 GB"):
        sample(draws=100)


@pytest.mark.usefixtures("nothing_runs")
def test_single_precision_is_warned_about():
    with (
        pytest.warns(RuntimeWarning, match="float32.*jax_enable_x64"),
        pytest.raises(StartedError),
        relaxed(),
    ):
        sample(given=data(dtype=np.float32))


@pytest.mark.usefixtures("nothing_runs")
def test_learned_hyperparameters_are_warned_about():
    with (
        pytest.warns(RuntimeWarning, match=r"layers\.0\.delta are learn\(\)"),
        pytest.raises(StartedError),
        relaxed(),
    ):
        sample(model(dkp.InverseWishart()))


@pytest.fixture(scope="module")
def fitted():
    return variational(model(dkp.InverseWishart(), kernels.ArcCosine(1)))


@pytest.mark.usefixtures("_unchecked", "nothing_runs")
@pytest.mark.parametrize(
    ("layers", "features"),
    [
        ((dkp.Wishart(width=3), kernels.ArcCosine(1)), X),
        ((dkp.InverseWishart(delta=3.0), kernels.ArcCosine(1)), X[:, :1]),
    ],
    ids=["layers", "features"],
)
def test_a_start_from_a_posterior_of_something_else(fitted, layers, features):
    with pytest.raises(ValueError, match="init to be fitted to the same layers and features"):
        sample(model(*layers), dkp.Dataset.from_arrays(features, Y), init=fitted)


@pytest.mark.usefixtures("_unchecked", "nothing_runs")
@pytest.mark.parametrize("init", [KEY, "post"], ids=["key", "name"])
def test_a_start_that_is_no_posterior_where_hyperparameters_are_learned(init):
    with pytest.raises(ValueError, match="init to be a posterior of dkp.fit_vi"):
        sample(model(dkp.InverseWishart(), kernels.ArcCosine(1)), init=init)


@pytest.mark.usefixtures("nothing_runs")
def test_a_start_whose_hyperparameters_were_treated_otherwise(fitted):
    """`fitted` learned delta and was given the noise."""
    with pytest.raises(ValueError, match="init"):
        sample(model(dkp.InverseWishart(), kernels.ArcCosine(1), noise=dkp.learn()), init=fitted)
    with pytest.raises(ValueError, match="init"):
        sample(
            model(dkp.InverseWishart(), kernels.ArcCosine(1), noise=dist.LogNormal(-1.0, 1.0)),
            init=fitted,
        )


@pytest.mark.usefixtures("nothing_runs")
def test_a_start_without_one_of_the_hyperparameters():
    described = model(dkp.InverseWishart(), kernels.Sum(kernels.ArcCosine(1), kernels.ReLU()))
    three = kernels.Sum(
        kernels.ArcCosine(1), kernels.ReLU(), kernels.SquaredExponential(lengthscale=dkp.learn())
    )
    with pytest.raises(
        ValueError, match=r"Expected init to have a value of layers\.1\..*lengthscale"
    ):
        sample(model(dkp.InverseWishart(), three), init=variational(described))


@pytest.mark.usefixtures("nothing_runs")
def test_a_start_outside_of_the_prior(fitted):
    """`fitted` learned delta, and stands at its start."""
    start = float(fitted.hyperparameters["layers.0.delta"])
    described = model(
        dkp.InverseWishart(delta=dist.Uniform(2 * start, 3 * start)), kernels.ArcCosine(1)
    )
    with pytest.raises(
        ValueError, match=r"Expected layers\.0\.delta, which init learned, to lie in the support"
    ):
        sample(described, init=fitted)


class Capped(likelihoods.Gaussian):
    """Noise whose density is no number in half of the draws from the prior, or in all of them."""

    largest = 1.0

    def noise_variance(self, n_outputs):
        variance = super().noise_variance(n_outputs)
        return jnp.where(variance < self.largest, variance, jnp.nan)


def test_starts_without_a_density_are_drawn_again():
    described = dkp.DeepKernelProcess(
        layers=[kernels.ReLU()], likelihood=Capped(noise=dist.LogNormal(0.0, 1.0))
    )
    target = Coordinates.of(model=described, data=data())
    points = initial_points(target, KEY, 20, None)
    assert np.all(np.isfinite(jax.vmap(target.log_posterior)(points)))
    assert np.all(np.asarray(points)[:, 0] < 0)  # noise below 1, the median of its prior
    once = jax.vmap(target.sample_prior)(jax.random.split(jax.random.split(KEY)[1], 20))
    kept = np.asarray(once)[:, 0] < 0
    assert 0 < kept.sum() < 20
    # what is good the first time stands
    np.testing.assert_allclose(points[kept], once[kept], rtol=1e-12)


@pytest.mark.usefixtures("nothing_runs")
def test_a_posterior_without_a_density(monkeypatch):
    monkeypatch.setattr(Capped, "largest", 0.0)
    described = dkp.DeepKernelProcess(
        layers=[kernels.ReLU()], likelihood=Capped(noise=dist.LogNormal(0.0, 1.0))
    )
    with pytest.raises(
        ValueError,
        match="Expected starts where .* finite. Got none for 2 of 2 chains in 10 draws from",
    ):
        sample(described)


def test_chains_in_threads_are_configured_as_the_one_that_calls():
    """JAX's contexts hold for one thread."""
    seen = []

    class Spy(HMC):
        def step(self, target, key, state, step_size, metric):
            seen.append((jax.config.jax_numpy_rank_promotion, jax.config.jax_enable_x64))
            return super().step(target, key, state, step_size, metric)

    target = Coordinates.of(
        model=model(kernels.ReLU(), noise=dist.LogNormal(0.0, 1.0)), data=data()
    )
    with relaxed():
        run = Chains(
            target,
            Spy(),
            initial_points(target, KEY, 2, None),
            KEY,
            identity_metric(1, jnp.float64),
            step_size=0.1,
        )
        list(run.run(1, adapting=False))
    assert jax.config.jax_numpy_rank_promotion == "raise"
    assert seen and set(seen) == {("allow", True)}


# --- chains that are not to be trusted ------------------------------------------------------------


DRAWS = np.random.default_rng(0).normal(size=(4, 400, 1))


def posterior(z=DRAWS, divergences=0, **functionals):
    shape = z.shape[:2]
    target = Coordinates.of(
        model=model(kernels.ReLU(), noise=dist.LogNormal(0.0, 1.0)), data=data()
    )
    stats = {name: np.ones(shape) for name in ("acceptance_rate", "diverging", "energy", "n_steps")}
    return MCMCPosterior(
        model=target.model,
        coordinates=target,
        z=z,
        method="nuts",
        stats=stats,
        functionals={"number": z[..., 0], **functionals},
        divergences=divergences,
        jitter=1e-9,
        stopped="finished",
        warmup_seconds=1.0,
        seconds=2.0,
    )


def test_good_chains():
    found = posterior()
    assert found.warnings == () and "WARNING" not in str(found)
    summary = found.summary()
    assert (
        summary["chains"],
        summary["draws"],
        summary["divergences"],
        summary["stuck_chains"],
    ) == (4, 400, 0, 0)
    assert summary["jitter"] == 1e-9
    assert summary["r_hat"] < 1.01 and summary["ess_bulk"] > 400 and summary["ess_tail"] > 400
    assert "4 chains of 400 draws, finished in 3 s; 0 divergences" in str(found)
    assert found.diagnostics["number"]["mean"] == pytest.approx(DRAWS.mean())
    assert found.diagnostics["number"]["sd"] == pytest.approx(DRAWS.std(ddof=1))


def shifted():
    return DRAWS + np.array([0, 0, 0, 2.0])[:, None, None]


def slow():
    return np.repeat(DRAWS, 20, axis=1)[:, :400]


def stopped_chain():
    z = DRAWS.copy()
    z[2] = z[2, 0]
    return z


BAD = {
    "divergences": ({"divergences": 7}, "7 divergent transitions: raise target_acceptance"),
    "R-hat": ({"z": shifted()}, r"R-hat is 1\.\d+ for number \(over 1\.01\)"),
    "ESS": ({"z": slow()}, r"ESS bulk is \d+ for number \(below 100 a chain\)"),
    "tail ESS": ({"z": slow()}, r"ESS tail is \d+ for number \(below 100 a chain\)"),
    "stuck": ({"z": stopped_chain()}, r"chains \[2\] did not move"),
    "one entry of an array": (
        {"weights": np.concatenate([DRAWS, shifted()], axis=-1)},
        r"R-hat is 1\.\d+ for weights\[1\]",
    ),
    "one chain": ({"z": np.sort(DRAWS[:1], axis=1)}, r"R-hat is \d\.\d+ for number \(over 1\.01\)"),
    "three draws": (
        {"z": DRAWS[:, :3]},
        "3 draws a chain are too few to know R-hat and ESS: take 4 or more",
    ),
    "one draw": ({"z": DRAWS[:1, :1]}, "1 draws a chain are too few"),
    "not a number": (
        {"z": np.where(np.arange(4)[:, None, None] == 1, np.nan, DRAWS)},
        r"chains \[1\]",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_speaks_against_the_draws_is_said(name):
    given, words = BAD[name]
    found = posterior(**given)
    with pytest.raises(AssertionError, match=words):
        raise AssertionError("\n".join(found.warnings))
    for text in found.warnings:
        assert f"WARNING: {text}" in str(found)


def test_one_draw_a_chain_says_nothing_about_stuck_chains():
    assert posterior(z=DRAWS[:, :1]).stuck == ()


def test_one_chain_is_split():
    assert posterior(z=DRAWS[:1]).summary()["r_hat"] < 1.05


def test_summary_counts():
    assert posterior(divergences=7).summary()["divergences"] == 7
    assert posterior(z=stopped_chain()).summary()["stuck_chains"] == 1
    assert posterior(z=shifted()).summary()["r_hat"] > 1.2
    assert posterior(z=slow()).summary()["ess_bulk"] < 400


def test_a_constant_functional_is_no_cause_for_alarm():
    found = posterior(constant=np.ones((4, 400)), undefined=np.full((4, 400), np.nan))
    assert found.warnings == ()
    assert np.isnan(found.diagnostics["constant"]["r_hat"])


def test_warnings_reach_the_caller(monkeypatch):
    """A run that is far too short, whose divergences are made up."""
    described = model(
        kernels.SquaredExponential(lengthscale=dist.LogNormal(0.0, 1.0), variance=1.0)
    )
    monkeypatch.setattr(
        sampling.Kept,
        "divergences",
        property(lambda self: 3, lambda self, value: None),
        raising=False,
    )
    with relaxed(), pytest.warns(RuntimeWarning) as caught:
        found = sample(described, method="pcn", warmup=2, draws=8)
    texts = [str(w.message) for w in caught]
    assert texts == list(found.warnings) and texts[0].startswith("3 divergent transitions")
    assert any(text.startswith("ESS bulk") for text in texts)


def test_the_posterior_is_a_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        posterior().method = "hmc"
