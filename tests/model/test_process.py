"""The model as a NumPyro program: its sites, its density by hand, its prior moments, and NUTS on
it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS
from numpyro.infer.reparam import TransformReparam
from numpyro.infer.util import log_density
from scipy import special, stats

import dkp
from dkp import kernels, likelihoods
from dkp.gram.gram import Gram, Inputs
from dkp.likelihoods import PointwiseLikelihood
from dkp.linalg.cholesky import cholesky
from dkp.model.propagate import propagate
from tests.support import relaxed

N, NOISE = 4, 0.5
RNG = np.random.default_rng(3)
X, Y = jnp.asarray(RNG.normal(size=(8, 2))), jnp.asarray(RNG.normal(size=(8, 2)))


class Robust(PointwiseLikelihood):
    """A likelihood that has no collapsed form."""

    def law(self, f):
        return dist.StudentT(5.0, f, 0.3)


def model(depth=1, delta=6.0, likelihood=None, bottleneck=None):
    layers = [kernels.Linear(bias=0.1)]
    for _ in range(depth):
        layers += [kernels.ArcCosine(1), bottleneck or dkp.InverseWishart(delta=delta)]
    layers += [kernels.SquaredExponential(lengthscale=1.1, variance=0.8)]
    return dkp.DeepKernelProcess(
        layers=layers, likelihood=likelihood or likelihoods.Gaussian(noise=NOISE)
    )


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


@pytest.mark.parametrize(("width", "columns"), [(2, 2), (9, N), (9.5, N)])
def test_factors_of_wishart_bottlenecks(width, columns):
    """Shapes alone, without compilation: the laws of these sites are tested below."""

    def shapes(*args, likelihood=None, **kwargs):
        described = model(bottleneck=dkp.Wishart(width=width), likelihood=likelihood)
        sites = jax.eval_shape(
            lambda: {
                name: site["value"] for name, site in trace(described, *args, **kwargs)[0].items()
            }
        )
        return {name: value.shape for name, value in sites.items()}

    assert shapes(X[:N], Y[:N]) == {"gram_1": (N, columns), "y": (N, 2)}
    inducing = shapes(X, Y, inducing=X[:N], likelihood=Robust())
    assert (
        inducing["gram_1"] == (N, columns) and inducing["u"] == (N, 2) and inducing["f"] == Y.shape
    )


def test_sites_of_a_likelihood_that_is_not_collapsed():
    sites, _ = trace(model(likelihood=Robust()), X[:N], Y[:N])
    assert {"gram_1", "f", "y"} <= set(sites) and sites["f"]["type"] == "deterministic"
    assert sampled(sites) == ["gram_1", "f_whitened", "y"]
    kernel = last_kernel(model(), [sites["gram_1"]["value"]], X[:N])
    np.testing.assert_allclose(
        sites["f"]["value"], cholesky(kernel).tril @ sites["f_whitened"]["value"], rtol=1e-9
    )


@pytest.mark.parametrize("likelihood", [None, Robust()], ids=["Gaussian", "Student t"])
def test_sites_of_the_inducing_form(likelihood):
    sites, y = trace(model(depth=2, likelihood=likelihood), X, Y, inducing=X[:3])
    assert {"gram_1", "gram_2", "u", "f", "y"} <= set(sites)
    assert sites["gram_1"]["value"].shape == (3, 3)
    assert (
        sites["u"]["value"].shape == (3, 2)
        and sites["f"]["value"].shape == (8, 2)
        and y.shape == (8, 2)
    )


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
    return propagate(
        described.layers,
        Inputs(i=x),
        lambda i, layer, k: Gram(ii=factors[i - 1] @ factors[i - 1].T),
    ).ii


def lower(seed):
    a = np.random.default_rng(seed).normal(size=(N, 2 * N))
    return jnp.asarray(np.linalg.cholesky(a @ a.T / N))


def test_log_density_by_hand():
    """Two bottlenecks: each inverse Wishart by scipy with the Jacobian of its factor, and the
    normal by scipy."""
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


def wishart_by_hand(s, scale, width):
    """log density of the factor: that of G = S S^T by scipy, or by the formula of rank `width`,
    with the Jacobian."""
    columns = s.shape[1]
    jacobian = columns * np.log(2) + np.sum(np.arange(N, N - columns, -1) * np.log(np.diagonal(s)))
    if columns == N:
        return stats.wishart(width, scale).logpdf(s @ s.T) + jacobian
    constant = width * (width - N) / 2 * np.log(np.pi) - width * N / 2 * np.log(2)
    constant -= special.multigammaln(width / 2, width) + width / 2 * np.linalg.slogdet(scale)[1]
    leading = (width - N - 1) * np.sum(np.log(np.diagonal(s)))
    return constant + leading - np.trace(np.linalg.solve(scale, s @ s.T)) / 2 + jacobian


@pytest.mark.parametrize("width", [2, 9, 9.5])
def test_log_density_of_a_wishart_bottleneck_by_hand(width):
    """Centred; and non-centred, where that of the factor is the density of a Bartlett factor and S
    = L A / sqrt(nu)."""
    described = model(bottleneck=dkp.Wishart(width=width))
    columns = min(N, int(width))
    a, scale = lower(0)[:, :columns], last_kernel_before_the_bottleneck(described)
    s = np.linalg.cholesky(scale / width) @ a
    with relaxed():
        density, _ = log_density(described.numpyro, (X[:N], Y[:N]), {}, {"gram_1": jnp.asarray(s)})
        program = numpyro.handlers.reparam(described.numpyro, config={"gram_1": TransformReparam()})
        whitened, sites = log_density(program, (X[:N], Y[:N]), {}, {"gram_1_base": a})
    covariance = np.asarray(
        described.layers[-1](Gram(ii=jnp.asarray(s @ s.T))).ii
    ) + NOISE**2 * np.eye(N)
    observed = stats.multivariate_normal(np.zeros(N), covariance).logpdf(np.asarray(Y[:N].T)).sum()
    np.testing.assert_allclose(
        density, wishart_by_hand(s, scale / width, width) + observed, rtol=1e-7
    )
    np.testing.assert_allclose(sites["gram_1"]["value"], s, rtol=1e-7, atol=1e-9)
    below = a[np.tril_indices(N, -1, columns)]
    base = (
        stats.chi(width - np.arange(columns)).logpdf(np.diagonal(a)).sum()
        + stats.norm.logpdf(below).sum()
    )
    np.testing.assert_allclose(whitened, base + observed, rtol=1e-7)


def last_kernel_before_the_bottleneck(described):
    return np.asarray(described.layers[1](described.layers[0](Inputs(i=X[:N]))).ii)


def test_log_density_of_a_likelihood_that_is_not_collapsed():
    whitened, s = jnp.asarray(RNG.normal(size=(N, 2))), lower(0)
    with relaxed():
        values = {"gram_1": s, "f_whitened": whitened}
        density, _ = log_density(model(likelihood=Robust()).numpyro, (X[:N], Y[:N]), {}, values)
        prior, _ = log_density(model().numpyro, (X[:N], Y[:N]), {}, {"gram_1": s})
    kernel = np.asarray(last_kernel(model(), [s], X[:N]))
    collapsed = (
        stats.multivariate_normal(np.zeros(N), kernel + NOISE**2 * np.eye(N))
        .logpdf(np.asarray(Y[:N].T))
        .sum()
    )
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
        y = dkp.prior_predictive(
            described, np.asarray(X[:N]), key=jax.random.key(0), n_samples=4000
        )
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
        y = dkp.prior_predictive(
            described, np.asarray(X[:N]), key=jax.random.key(1), n_samples=4000
        )
    kernel = propagate(described.layers, Inputs(i=X[:N]), lambda i, layer, k: k).ii
    assert (
        np.max(np.abs(z_of_covariance(y[..., 0], np.asarray(kernel) + NOISE**2 * np.eye(N)))) < 4.5
    )


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def prior_draws(keys, described, site, inducing):
    """Draws of a site by the NumPyro model, at X[:N] or at X[N:] with X[:inducing] as inducing
    points."""

    def draw(key):
        with numpyro.handlers.seed(rng_seed=key), numpyro.handlers.trace() as sites:
            if inducing is None:
                described.numpyro(X[:N], n_outputs=2)
            else:
                described.numpyro(X[N:], inducing=X[:inducing], n_outputs=2)
        return sites[site]["value"]

    return jax.vmap(draw)(keys)


def draws_of(described, site, inducing=None, n=20_000):
    with relaxed():
        return np.asarray(
            prior_draws(jax.random.split(jax.random.key(2), n), described, site, inducing)
        )


@pytest.mark.parametrize("width", [2, 9, 9.5])
def test_mean_gram_matrix_of_a_wishart_bottleneck_is_its_kernel(width):
    """|z| < 4.5 over 10 numbers; and Var G_ii = 2 K_ii^2 / nu, over 4."""
    described = model(bottleneck=dkp.Wishart(width=width))
    s = draws_of(described, "gram_1")
    g, k = s @ s.transpose(0, 2, 1), last_kernel_before_the_bottleneck(described)
    assert np.max(np.abs((g.mean(0) - k) / (g.std(0) / np.sqrt(len(g))))) < 4.5
    squares = np.diagonal(g - k, axis1=1, axis2=2) ** 2
    z = (squares.mean(0) - 2 * np.diag(k) ** 2 / width) / (squares.std(0) / np.sqrt(len(g)))
    assert np.max(np.abs(z)) < 4.5


def arc_cosine(g):
    """E[relu(u) relu(v)] for (u, v) ~ N(0, 2 g): the kernel of an infinite layer that keeps the
    diagonal."""
    d = np.sqrt(np.diagonal(g, axis1=1, axis2=2))
    outer = d[:, :, None] * d[:, None, :]
    angle = np.arccos(np.clip(g / outer, -1, 1))
    return outer * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi


def bottlenecked(width):
    """An infinite layer, a bottleneck, and one more infinite layer."""
    layers = [
        kernels.Linear(bias=0.3),
        kernels.ArcCosine(1),
        dkp.Wishart(width=width),
        kernels.ArcCosine(1),
    ]
    return dkp.DeepKernelProcess(layers=layers, likelihood=Robust())


@pytest.mark.parametrize("inducing", [None, 3], ids=["all data", "inducing points"])
@pytest.mark.parametrize("width", [1, 2, 7])
def test_a_wishart_bottleneck_is_a_deep_gaussian_process(width, inducing):
    """The law of two functions f is that of explicit features, and it has their moments:

    E f^2 = k, E f^4 = 3 k^2 (1 + 2 / W) and Cov(f_1^2, f_2^2) = 2 k^2 / W, as the last kernel keeps
    the diagonal (Agrawal, Papamarkou & Hinkle 2020). |z| < 4.5 and p > 1e-4 over 3 + 4 numbers."""
    described = bottlenecked(width)
    f = draws_of(described, "f", inducing)
    x = X[:N] if inducing is None else X[N:]
    k = np.asarray(described.layers[1](described.layers[0](Inputs(i=x))).ii)
    one, two, k00 = f[:, 0, 0], f[:, 0, 1], k[0, 0]
    moments = [
        (one**2, k00),
        (one**4, 3 * k00**2 * (1 + 2 / width)),
        ((one * two) ** 2, k00**2 * (1 + 2 / width)),
    ]
    for values, truth in moments:
        assert abs(values.mean() - truth) < 4.5 * values.std() / np.sqrt(len(f))
    reference = explicit(k, width, len(f))
    for t, statistic in enumerate(
        (
            lambda f: f[:, 0, 0],
            lambda f: f[:, 0, 0] * f[:, 0, 1],
            lambda f: f[:, 0, 0] * f[:, 1, 0] if inducing is None else f[:, 1, 0],
            lambda f: f[:, 1, 0] * f[:, 1, 1],
        )
    ):
        assert stats.ks_2samp(statistic(f), statistic(reference)).pvalue > 1e-4, t


def explicit(k, width, n):
    """Two functions at two points, of `width` features of the kernel k, and the kernel of an
    infinite layer on them."""
    rng, k = np.random.default_rng(5), k[:2, :2]
    features = np.linalg.cholesky(k) @ rng.normal(size=(n, 2, width)) / np.sqrt(width)
    last = arc_cosine(features @ features.transpose(0, 2, 1)) + 1e-12 * np.eye(2)
    return np.linalg.cholesky(last) @ rng.normal(size=(n, 2, 2))


def test_prior_predictive_with_several_outputs_and_learned_hyperparameters():
    described = dkp.DeepKernelProcess(
        layers=[kernels.Linear(ard=True), dkp.InverseWishart()], likelihood=likelihoods.Gaussian()
    )
    with relaxed():
        y = dkp.prior_predictive(
            described, np.asarray(X[:N]), key=jax.random.key(1), n_samples=5, n_outputs=2
        )
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
        mcmc = MCMC(
            NUTS(program, max_tree_depth=5), num_warmup=40, num_samples=40, progress_bar=False
        )
        mcmc.run(jax.random.key(0), X, Y)
        samples = mcmc.get_samples()
    assert samples["gram_1_base"].shape == samples["gram_1"].shape == (40, 8, 8)
    assert np.all(np.isfinite(samples["gram_1"]))
    assert np.mean(mcmc.get_extra_fields()["diverging"]) < 0.2
    assert np.std(samples["gram_1"][:, 0, 0]) > 0.01
    scale = cholesky(kernels.ArcCosine(1)(described.layers[0](Inputs(i=X))).ii)
    tril = np.sqrt(6.0) * np.asarray(scale.tril)
    whitened = np.linalg.inv(samples["gram_1_base"])
    np.testing.assert_allclose(samples["gram_1"], tril @ whitened, rtol=1e-6, atol=1e-9)
