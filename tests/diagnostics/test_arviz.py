"""ArviZ data of a posterior, against the closed form of a Gaussian process, on ArviZ 0.x and
1.x."""

import dataclasses
import warnings

import arviz as az
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import dkp
from dkp import kernels, likelihoods
from dkp.diagnostics import arviz
from dkp.model.outputs import OutputLaw
from dkp.posterior.draw import Draw
from dkp.posterior.rows import moments_row_by_row
from tests.support import relaxed

N, S, NOISE = 25, 4000, 0.8
RNG = np.random.default_rng(5)
X = RNG.uniform(-2, 2, (N, 2))
Y = 1000 + 50 * (np.sin(X[:, 0]) + 0.5 * RNG.normal(size=N))


def gaussian_process(y=Y, dtype=None):
    """Numbers for all hyperparameters: nothing is fitted, and everything is known."""
    model = dkp.DeepKernelProcess(
        layers=[kernels.Linear(), kernels.SquaredExponential(lengthscale=1.5, variance=1.0)],
        likelihood=likelihoods.Gaussian(noise=NOISE),
    )
    data = dkp.Dataset.from_arrays(
        X, y, feature_names=("height", "depth"), target_names=["t", "s"][: np.ndim(y)], dtype=dtype
    )
    return dkp.condition(model, data)


@pytest.fixture(scope="module")
def posterior():
    return gaussian_process()


@pytest.fixture(scope="module")
def idata(posterior):
    return dkp.to_arviz(posterior, key=jax.random.key(1), n_samples=S)


def covariance():
    """Of the standardised targets, by hand."""
    z = (X - X.mean(0)) / X.std(0, ddof=1)
    squares = np.sum((z[:, None] - z[None, :]) ** 2, axis=-1) / 2
    return np.exp(-squares / (2 * 1.5**2)) + NOISE**2 * np.eye(N)


def leave_one_out():
    """log p(y_n | the others), original units: Rasmussen & Williams 2006, equations 5.10 to
    5.12."""
    y, inverse = (Y - Y.mean()) / Y.std(ddof=1), np.linalg.inv(covariance())
    variance = 1 / np.diag(inverse)
    return stats.norm.logpdf(y, y - variance * (inverse @ y), np.sqrt(variance)) - np.log(
        Y.std(ddof=1)
    )


def test_pointwise_log_likelihood_gives_leave_one_out(idata):
    """E[1 / p(y_n | f_n)] over the posterior is 1 / p(y_n | the others); 25 z-scores beyond 4.5:
    odds 2e-4 by chance."""
    ratios = np.exp(-np.asarray(idata["log_likelihood"]["y"])[0] + leave_one_out()[None])
    z = (ratios.mean(0) - 1) / (ratios.std(0, ddof=1) / np.sqrt(S))
    assert np.abs(z).max() < 4.5
    assert np.sum(z**2) < stats.chi2.ppf(1 - 1e-4, N)


def test_psis_loo_agrees_with_the_closed_form(idata):
    result = az.loo(idata, pointwise=True)
    elpd = getattr(result, "elpd_loo", None)
    elpd = result.elpd if elpd is None else elpd
    assert np.all(np.asarray(result.pareto_k) < 0.7)
    # The Monte Carlo error of a sum of 25 log ratios with S = 4000 is about 0.02.
    assert abs(float(elpd) - leave_one_out().sum()) < 0.1


def test_predictive_draws_have_the_predictive_law(idata, posterior):
    """25 z-scores of means and 25 of variances, each beyond 4.5: odds 4e-4 by chance."""
    y = np.asarray(idata["posterior_predictive"]["y"])[0]
    prediction = dkp.predict(posterior, X, key=jax.random.key(0))
    assert np.abs((y.mean(0) - prediction.mean) / np.sqrt(prediction.variance / S)).max() < 4.5
    assert np.abs((y.var(0, ddof=1) / prediction.variance - 1) / np.sqrt(2 / (S - 1))).max() < 4.5


def test_data_come_back_in_the_original_units(idata):
    np.testing.assert_allclose(idata["observed_data"]["y"], Y, rtol=1e-12)
    np.testing.assert_allclose(idata["constant_data"]["x"], X, rtol=1e-12)
    assert list(idata["constant_data"]["x"].coords["feature"].values) == ["height", "depth"]


def test_attributes_say_where_it_came_from(idata):
    attributes = idata["posterior"].attrs
    assert (attributes["inference_library"], attributes["inference_library_version"]) == (
        "dkp",
        dkp.__version__,
    )
    assert attributes["engine"] == "exact"


def test_it_survives_a_file(posterior, tmp_path):
    before = dkp.to_arviz(posterior, key=jax.random.key(2), n_samples=3, x=X[:4])
    before.to_netcdf(str(tmp_path / "posterior.nc"), engine="h5netcdf")
    after = az.from_netcdf(str(tmp_path / "posterior.nc"))
    for group in (
        "posterior",
        "posterior_predictive",
        "log_likelihood",
        "observed_data",
        "predictions",
    ):
        for name, values in before[group].data_vars.items():
            np.testing.assert_array_equal(after[group][name], values)
    assert after["predictions"]["y"].shape == (1, 3, 4)
    np.testing.assert_allclose(after["predictions_constant_data"]["x"], X[:4], rtol=1e-12)


def test_two_outputs_in_float32():
    posterior = gaussian_process(np.stack([Y, 1e-6 * Y], axis=1), np.float32)
    with relaxed():  # NumPyro draws in JAX's default dtype
        idata = dkp.to_arviz(posterior, key=jax.random.key(3), n_samples=2)
    assert idata["posterior_predictive"]["y"].dims == ("chain", "draw", "row", "output")
    assert list(idata["observed_data"]["y"].coords["output"].values) == ["t", "s"]
    assert idata["log_likelihood"]["y"].shape == (1, 2, N)
    assert np.isfinite(idata["log_likelihood"]["y"]).all()


# Deep models
# --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class GivenPosterior:
    """A posterior whose draws are given."""

    model: dkp.DeepKernelProcess
    data: dkp.Dataset
    draws: Draw

    def sample(self, key, n):
        return self.draws

    def latent_moments(self, draws, key, x, chunk):
        return moments_row_by_row(self.model, self.data.n_outputs, draws, key, x, chunk)

    def summary(self):
        return {"engine": "given", "converged": True, "starts": (1.0, 2.0)}


@pytest.fixture(scope="module")
def deep_posterior():
    """Two draws of a model with inferred and learned hyperparameters and one bottleneck, at five
    inducing points."""
    model = dkp.DeepKernelProcess(
        layers=[
            kernels.Linear(ard=True, weights=dist.LogNormal(0.0, 1.0)),
            kernels.SquaredExponential(variance=1.0),
            dkp.InverseWishart(delta=dist.Gamma(5.0, 1.0)),
            kernels.SquaredExponential(lengthscale=1.0, variance=1.0),
        ],
        likelihood=likelihoods.Gaussian(noise=0.3),
    )
    draws = [
        Draw(
            values={
                "layers.0.weights": jnp.asarray(weights),
                "layers.1.lengthscale": jnp.asarray(1.0),
                "layers.2.delta": jnp.asarray(delta),
            },
            inducing=jnp.asarray(RNG.normal(size=(5, 2))),
            factors=(scale * jnp.eye(5),),
            outputs=OutputLaw(weights=jnp.ones((5, 1)), removed=jnp.zeros((5, 5))),
        )
        for weights, delta, scale in (([1.0, 2.0], 5.0, 1.0), ([3.0, 4.0], 6.0, 2.0))
    ]
    draws = jax.tree.map(lambda *arrays: jnp.stack(arrays), *draws)
    return GivenPosterior(model, dkp.Dataset.from_arrays(X, Y), draws)


@pytest.fixture(scope="module")
def deep(deep_posterior):
    return dkp.to_arviz(deep_posterior, key=jax.random.key(0), n_samples=4)["posterior"]


def test_hyperparameters_stand_under_their_names(deep):
    assert deep["layers.0.weights"].dims == ("chain", "draw", "feature")
    np.testing.assert_array_equal(deep["layers.0.weights"][0, :, 0], [1, 3, 1, 3])
    np.testing.assert_array_equal(deep["layers.2.delta"], [[5, 6, 5, 6]])


def test_gram_matrices_are_summarised(deep):
    np.testing.assert_allclose(deep["gram_1_log_det"], [[0, 10 * np.log(2)] * 2], atol=1e-12)
    np.testing.assert_allclose(deep["gram_1_trace"], [[5, 20, 5, 20]])
    np.testing.assert_allclose(deep["gram_1_effective_rank"], [[5, 5, 5, 5]])


def test_attributes_are_such_as_files_can_hold(deep):
    assert deep.attrs["converged"] == 1
    assert list(deep.attrs["starts"]) == [1.0, 2.0]


def test_a_large_latent_function_is_left_out(deep_posterior, deep, monkeypatch):
    assert deep["f"].dims == ("chain", "draw", "row", "latent")
    monkeypatch.setattr(arviz, "_LARGEST_LATENT", 4 * N - 1)
    again = dkp.to_arviz(deep_posterior, key=jax.random.key(0), n_samples=4)["posterior"]
    assert set(deep.data_vars) - set(again.data_vars) == {"f"}


# Markov chains
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chains():
    """The Gaussian process above with a bottleneck of width 10^7 in it, which hardly changes
    anything."""
    model = dkp.DeepKernelProcess(
        layers=[
            kernels.Linear(),
            dkp.Wishart(width=10**7),
            kernels.SquaredExponential(lengthscale=1.5, variance=1.0),
        ],
        likelihood=likelihoods.Gaussian(noise=NOISE),
    )
    data = dkp.Dataset.from_arrays(X, Y)
    options = {"chains": 2, "warmup": 20, "draws": 150, "progress": False}
    with relaxed(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"(R-hat|ESS)\b", RuntimeWarning)  # the chains are short
        return dkp.sample_hmc(model, data, key=jax.random.key(0), method="ess", **options)


@pytest.fixture(scope="module")
def sampled(chains):
    return dkp.to_arviz(chains, key=jax.random.key(1), grams=True)


def test_chains_are_kept_apart(chains, sampled):
    assert dict(sampled["posterior"].sizes) | {"chain": 2, "draw": 150} == dict(
        sampled["posterior"].sizes
    )
    assert set(sampled["sample_stats"].data_vars) == {
        "acceptance_rate",
        "diverging",
        "energy",
        "n_steps",
        "step_size",
        "tree_depth",
    }
    for name, values in chains.stats.items():
        np.testing.assert_array_equal(sampled["sample_stats"][name], values)
    for name in ("gram_1_log_det", "gram_1_trace", "gram_1_alignment"):
        np.testing.assert_array_equal(sampled["posterior"][name], chains.functionals[name])
    attributes = sampled["posterior"].attrs
    assert (attributes["engine"], attributes["method"], attributes["chains"]) == ("mcmc", "ess", 2)


def test_gram_matrices_stand_in_the_order_of_the_data(chains, sampled):
    """G is x x^T / 2 up to sqrt(2 / width) of itself."""
    gram = sampled["posterior"]["gram_1"]
    assert gram.dims == ("chain", "draw", "point", "other_point") and gram.shape == (2, 150, N, N)
    z = (X - X.mean(0)) / X.std(0, ddof=1)
    expected = np.broadcast_to(z @ z.T / 2, gram.shape)
    assert not np.array_equal(chains.coordinates.order, np.arange(N))
    np.testing.assert_allclose(gram, expected, atol=5e-3)
    traces = np.trace(np.asarray(gram), axis1=2, axis2=3)
    np.testing.assert_allclose(traces, chains.functionals["gram_1_trace"], rtol=1e-6)


def test_pointwise_log_likelihood_of_chains_is_leave_one_out(sampled):
    """The network is known, and so no reweighting is left for PSIS."""
    found = np.asarray(sampled["log_likelihood"]["y"])
    assert found.shape == (2, 150, N)
    np.testing.assert_allclose(found, np.broadcast_to(leave_one_out(), found.shape), atol=0.03)
    result = az.loo(sampled)
    elpd = getattr(result, "elpd_loo", None)
    elpd = result.elpd if elpd is None else elpd
    assert abs(float(elpd) - leave_one_out().sum()) < 0.02


def test_latent_functions_of_chains_are_those_of_the_gaussian_process(posterior, sampled):
    """f of 300 draws: means within 4.5 standard errors at all 25 points (odds 2e-4 by chance)."""
    f = np.asarray(sampled["posterior"]["f"])[..., 0].reshape(300, N)
    prediction = dkp.predict(posterior, X, key=jax.random.key(0))
    mean, variance = (
        np.asarray(a)[0, :, 0] for a in (prediction.latent_mean, prediction.latent_variance)
    )
    assert np.abs((f.mean(0) - mean) / np.sqrt(variance / 300)).max() < 4.5


def test_fewer_draws_are_every_so_many_of_each_chain(chains, sampled):
    fewer = dkp.to_arviz(chains, key=jax.random.key(1), n_samples=100, x=X[:3])
    for group in ("sample_stats", "log_likelihood"):
        for name, values in fewer[group].data_vars.items():
            assert values.shape[:2] == (2, 50)
            np.testing.assert_allclose(values, np.asarray(sampled[group][name])[:, ::3], rtol=1e-12)
    np.testing.assert_array_equal(
        fewer["posterior"]["gram_1_trace"], sampled["posterior"]["gram_1_trace"][:, ::3]
    )
    assert fewer["predictions"]["y"].shape == (2, 50, 3)
    assert "gram_1" not in fewer["posterior"]


def test_chains_survive_a_file(chains, tmp_path):
    before = dkp.to_arviz(chains, key=jax.random.key(1), n_samples=4)
    before.to_netcdf(str(tmp_path / "chains.nc"), engine="h5netcdf")
    after = az.from_netcdf(str(tmp_path / "chains.nc"))
    np.testing.assert_array_equal(
        after["sample_stats"]["diverging"], before["sample_stats"]["diverging"]
    )
    np.testing.assert_array_equal(
        after["posterior"]["gram_1_trace"], before["posterior"]["gram_1_trace"]
    )


def test_what_is_no_posterior_or_no_key_is_refused(chains):
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match="Expected key to be a random key"):
            dkp.to_arviz(chains, key=0)
        with pytest.raises(ValueError, match="Expected a posterior.*Got int"):
            dkp.to_arviz(3, key=jax.random.key(0))
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
