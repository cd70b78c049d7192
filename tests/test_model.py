"""The model as a NumPyro program: its sites, its density by hand, its prior moments, and NUTS on it."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS
from numpyro.infer.reparam import TransformReparam
from numpyro.infer.util import log_density
from scipy import stats

import dkp
from dkp import kernels, likelihoods
from dkp.likelihoods import Likelihood
from dkp.linalg.blocks import Gram, Inputs
from dkp.linalg.cholesky import cholesky
from dkp.model import propagate
from tests.support import relaxed

N, NOISE = 4, 0.5
RNG = np.random.default_rng(3)
X, Y = jnp.asarray(RNG.normal(size=(8, 2))), jnp.asarray(RNG.normal(size=(8, 2)))


class Robust(Likelihood):
    """A likelihood that has no collapsed form."""

    def conditional(self, f):
        return dist.StudentT(5.0, f, 0.3).to_event(1)


def model(depth=1, delta=6.0, likelihood=None):
    layers = [kernels.Linear(bias=0.1)]
    for _ in range(depth):
        layers += [kernels.ArcCosine(1), dkp.InverseWishart(delta=delta)]
    layers += [kernels.SquaredExponential(lengthscale=1.1, variance=0.8)]
    return dkp.DeepKernelProcess(layers=layers, likelihood=likelihood or likelihoods.Gaussian(noise=NOISE))


def trace(described, *args, **kwargs):
    with relaxed(), numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as sites:
        value = described.numpyro(*args, **kwargs)
    return sites, value


def sampled(sites):
    return [name for name, site in sites.items() if site["type"] == "sample"]


def test_pytree_round_trip():
    leaves, structure = jax.tree.flatten(model(depth=2))
    back = jax.tree.unflatten(structure, leaves)
    assert jax.tree.structure(back) == structure and jax.tree.leaves(back) == leaves
    assert len(back.bottlenecks) == 2


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("columns", [1, 2])
def test_sites_of_the_collapsed_model(depth, columns):
    sites, y = trace(model(depth), X[:N], Y[:N, :columns])
    assert sampled(sites) == [f"gram_{i + 1}" for i in range(depth)] + ["y"]
    assert sites["y"]["is_observed"]
    assert all(sites[f"gram_{i + 1}"]["value"].shape == (N, N) for i in range(depth))
    np.testing.assert_array_equal(y, Y[:N, :columns])


def test_sites_of_a_likelihood_that_is_not_collapsed():
    sites, _ = trace(model(likelihood=Robust()), X[:N], Y[:N])
    assert {"gram_1", "f", "y"} <= set(sites) and sites["f"]["type"] == "deterministic"
    assert sampled(sites) == ["gram_1", "f_whitened", "y"]
    kernel = last_kernel(model(), [sites["gram_1"]["value"]], X[:N])
    np.testing.assert_allclose(sites["f"]["value"], cholesky(kernel).tril @ sites["f_whitened"]["value"], rtol=1e-9)


@pytest.mark.parametrize("likelihood", [None, Robust()], ids=["Gaussian", "Student t"])
def test_sites_of_the_inducing_form(likelihood):
    sites, y = trace(model(depth=2, likelihood=likelihood), X, Y, inducing=X[:3])
    assert {"gram_1", "gram_2", "u", "f", "y"} <= set(sites)
    assert sites["gram_1"]["value"].shape == (3, 3)
    assert sites["u"]["value"].shape == (3, 2) and sites["f"]["value"].shape == (8, 2) and y.shape == (8, 2)


def test_inducing_form_at_the_data_gives_the_functions_of_the_inducing_points():
    sites, _ = trace(model(likelihood=Robust()), X[:3], Y[:3], inducing=X[:3])
    np.testing.assert_allclose(sites["f"]["value"], sites["u"]["value"], atol=1e-3)


def test_inducing_form_needs_a_key():
    with pytest.raises(ValueError, match="Expected a random key .* Got none"):
        numpyro.handlers.substitute(model().numpyro, {"gram_1": jnp.eye(3)})(X, Y, inducing=X[:3])


def test_a_vector_of_targets_is_one_column():
    _, from_vector = trace(model(), X[:N], Y[:N, 0])
    np.testing.assert_array_equal(from_vector, Y[:N, :1])


def last_kernel(described, factors, x):
    return propagate(described.layers, Inputs(i=x), lambda i, layer, k: Gram(ii=factors[i - 1] @ factors[i - 1].T)).ii


def lower(seed):
    a = np.random.default_rng(seed).normal(size=(N, 2 * N))
    return jnp.asarray(np.linalg.cholesky(a @ a.T / N))


def test_log_density_by_hand():
    """Two bottlenecks: each inverse Wishart by scipy with the Jacobian of its factor, and the normal by scipy."""
    described, factors = model(depth=2), [lower(0), lower(1)]
    with relaxed():
        values = {"gram_1": factors[0], "gram_2": factors[1]}
        density, _ = log_density(described.numpyro, (X[:N], Y[:N]), {}, values)
    truth, kernel = 0.0, described.layers[0](Inputs(i=X[:N]))
    for s in factors:
        kernel = kernels.ArcCosine(1)(kernel)
        scale = 6.0 * np.asarray(kernel.ii)
        truth += stats.invwishart(6.0 + N + 1, scale).logpdf(np.asarray(s @ s.T))
        truth += N * np.log(2) + np.sum(np.arange(N, 0, -1) * np.log(np.diag(s)))
        kernel = Gram(ii=s @ s.T)
    covariance = np.asarray(described.layers[-1](kernel).ii) + NOISE**2 * np.eye(N)
    truth += stats.multivariate_normal(np.zeros(N), covariance).logpdf(np.asarray(Y[:N].T)).sum()
    np.testing.assert_allclose(density, truth, rtol=1e-7)


def test_log_density_of_a_likelihood_that_is_not_collapsed():
    whitened, s = jnp.asarray(RNG.normal(size=(N, 2))), lower(0)
    with relaxed():
        values = {"gram_1": s, "f_whitened": whitened}
        density, _ = log_density(model(likelihood=Robust()).numpyro, (X[:N], Y[:N]), {}, values)
        prior, _ = log_density(model().numpyro, (X[:N], Y[:N]), {}, {"gram_1": s})
    kernel = np.asarray(last_kernel(model(), [s], X[:N]))
    collapsed = stats.multivariate_normal(np.zeros(N), kernel + NOISE**2 * np.eye(N)).logpdf(np.asarray(Y[:N].T)).sum()
    f = np.linalg.cholesky(kernel) @ whitened
    rest = stats.norm.logpdf(whitened).sum() + stats.t(5, f, 0.3).logpdf(Y[:N]).sum()
    np.testing.assert_allclose(density - (prior - collapsed), rest, rtol=1e-6)


def test_hyperparameters_are_parameters_samples_or_constants():
    described = dkp.DeepKernelProcess(
        layers=[
            kernels.Linear(ard=True),
            dkp.InverseWishart(delta=dkp.learn(9.0)),
            kernels.SquaredExponential(lengthscale=dist.LogNormal(0.0, 1.0), variance=2.0),
        ],
        likelihood=likelihoods.Gaussian(noise=dkp.learn(0.1)),
    )
    sites, _ = trace(described, X[:N], Y[:N])
    parameters = {name: site["value"] for name, site in sites.items() if site["type"] == "param"}
    assert set(parameters) == {"layers.0.weights", "layers.1.delta", "likelihood.noise"}
    assert parameters["layers.0.weights"].shape == (2,)
    assert parameters["layers.1.delta"] == 9.0 and parameters["likelihood.noise"] == 0.1
    assert sampled(sites) == ["layers.2.lengthscale", "gram_1", "y"]
    assert not any("variance" in name for name in sites)


def test_prior_of_arrays_follows_the_dtype_of_the_inputs():
    sites, _ = trace(model(), X[:N].astype(jnp.float32), Y[:N].astype(jnp.float32))
    assert sites["gram_1"]["value"].dtype == jnp.float32
    assert sites["y"]["fn"].log_prob(sites["y"]["value"]).dtype == jnp.float32


def z_of_covariance(samples, covariance):
    """z-scores of the second moments of draws with mean zero, (S, N)."""
    products = samples[:, :, None] * samples[:, None, :]
    return (products.mean(0) - covariance) / (products.std(0) / np.sqrt(len(samples)))


@pytest.mark.parametrize("depth", [0, 2])
def test_prior_predictive_of_a_concentrated_model_is_the_gaussian_process(depth):
    """|z| < 4.5 over 10 moments: a false-alarm rate of 1e-4 over seeds."""
    described = model(depth, delta=1e8)
    with relaxed():
        y = dkp.prior_predictive(described, np.asarray(X[:N]), key=jax.random.key(0), n_samples=4000)
    assert y.shape == (4000, N, 1)
    kernel = propagate(described.layers, Inputs(i=X[:N]), lambda i, layer, k: k).ii
    covariance = np.asarray(kernel) + NOISE**2 * np.eye(N)
    assert np.max(np.abs(z_of_covariance(y[..., 0], covariance))) < 4.5


def test_prior_predictive_has_the_mean_kernel_as_covariance():
    """With nothing after the bottleneck E[G] = K at every delta. |z| < 4.5 over 10 moments."""
    described = dkp.DeepKernelProcess(
        layers=[kernels.Linear(bias=0.3), kernels.ArcCosine(1), dkp.InverseWishart(delta=6.0)],
        likelihood=likelihoods.Gaussian(noise=NOISE),
    )
    with relaxed():
        y = dkp.prior_predictive(described, np.asarray(X[:N]), key=jax.random.key(1), n_samples=4000)
    kernel = propagate(described.layers, Inputs(i=X[:N]), lambda i, layer, k: k).ii
    assert np.max(np.abs(z_of_covariance(y[..., 0], np.asarray(kernel) + NOISE**2 * np.eye(N)))) < 4.5


def test_prior_predictive_with_several_outputs_and_learned_hyperparameters():
    described = dkp.DeepKernelProcess(
        layers=[kernels.Linear(ard=True), dkp.InverseWishart()], likelihood=likelihoods.Gaussian()
    )
    with relaxed():
        y = dkp.prior_predictive(described, np.asarray(X[:N]), key=jax.random.key(1), n_samples=5, n_outputs=2)
    assert y.shape == (5, N, 2) and np.all(np.isfinite(y))
    assert len(np.unique(y)) == y.size


def test_prior_predictive_of_a_data_set_is_in_its_units():
    data = dkp.Dataset.from_arrays(X[:N], 1e3 + 10 * np.arange(N))
    with relaxed():
        y = dkp.prior_predictive(model(), data, key=jax.random.key(1), n_samples=200)
    assert y.shape[:2] == (200, N)
    assert abs(np.mean(y) - data.y_standardization.mean[0]) < 10 * data.y_standardization.scale[0]


@pytest.mark.slow
def test_nuts_on_whitened_factors():
    described = model()
    program = numpyro.handlers.reparam(described.numpyro, config={"gram_1": TransformReparam()})
    with relaxed():
        mcmc = MCMC(NUTS(program, max_tree_depth=5), num_warmup=40, num_samples=40, progress_bar=False)
        mcmc.run(jax.random.key(0), X, Y)
        samples = mcmc.get_samples()
    assert samples["gram_1_base"].shape == samples["gram_1"].shape == (40, 8, 8)
    assert np.all(np.isfinite(samples["gram_1"]))
    assert np.mean(mcmc.get_extra_fields()["diverging"]) < 0.2
    assert np.std(samples["gram_1"][:, 0, 0]) > 0.01
    scale = cholesky(kernels.ArcCosine(1)(described.layers[0](Inputs(i=X))).ii)
    tril = np.sqrt(6.0) * np.asarray(scale.tril)
    np.testing.assert_allclose(samples["gram_1"], tril @ np.asarray(samples["gram_1_base"]), rtol=1e-6, atol=1e-9)
