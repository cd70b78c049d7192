"""Deep alpha-stable kernel processes: layers whose variances of weights are positive stable.

Against the recursion of Loria & Bhadra 2025 (arXiv 2410.01284) written out in NumPy, against finite
networks, and, for the posterior of a scale, against its density on a grid."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS
from scipy import stats

import dkp
from dkp import likelihoods
from dkp.distributions import PositiveStable, SqrtPositiveStable
from dkp.inference.variational.family import VariationalFamily
from dkp.kernels import Affine, ArcCosine, Linear
from tests.support import relaxed

RNG = np.random.default_rng(0)
X = np.column_stack([np.ones(6), RNG.normal(size=(6, 2))])  # an intercept and two features
FEATURE_SCALES, LAYER_SCALES = np.array([0.4, 3.0, 0.9]), (0.7, 2.5)


def recursion(x, feature_scales, layer_scales, order):
    sigma = (x * feature_scales) @ x.T / x.shape[1]
    for s in layer_scales:
        own = 1 + s * np.diag(sigma)
        scale = np.sqrt(np.outer(own, own))
        angle = np.arccos(np.clip((1 + s * sigma) / scale, -1, 1))
        j = np.pi - angle if order == 0 else np.sin(angle) + (np.pi - angle) * np.cos(angle)
        sigma = scale**order * j / np.pi
    return sigma


def network(feature_weights, layer_scales, order=1):
    layers = [Linear(ard=True, weights=feature_weights)]
    for s in layer_scales:
        layers += [Affine(weight_var=s, bias_var=1.0), ArcCosine(order)]
    return layers


@pytest.mark.parametrize("order", [0, 1])
def test_the_recursion_given_the_scales(order):
    kernel = dkp.nngp_kernel(network(np.sqrt(FEATURE_SCALES), LAYER_SCALES, order), X)
    truth = recursion(X, FEATURE_SCALES, LAYER_SCALES, order)
    # arccos loses digits near 1
    np.testing.assert_allclose(kernel, truth, rtol=1e-6 if order == 0 else 1e-12)


def test_a_finite_network_given_the_scales_of_its_layers():
    """Weights sqrt(s) N(0, 1), one s a layer, one a feature in the first. |z| < 4.5 over 6 moments:
    rate 4e-5.

    Of width 128: the bias of order 1/128 is a fifth of the standard error.
    """
    n, width, d = 4000, 128, X.shape[1]
    x = jnp.asarray(X[:3])
    first, second = LAYER_SCALES

    def outputs(key):
        keys = jax.random.split(key, 5)
        w, v = jax.random.normal(keys[0], (d, width)), jax.random.normal(keys[1], (width, width))
        b, c = jax.random.normal(keys[2], (1, width)), jax.random.normal(keys[3], (1, width))
        hidden = jnp.sqrt(2) * jax.nn.relu(
            x @ (np.sqrt(FEATURE_SCALES * first / d)[:, None] * w) + b
        )
        hidden = jnp.sqrt(2) * jax.nn.relu(np.sqrt(second / width) * hidden @ v + c)
        return hidden @ jax.random.normal(keys[4], (width,)) / np.sqrt(width)

    def draws(keys):
        return jax.lax.map(outputs, keys, batch_size=100)

    with relaxed():
        f = np.asarray(jax.jit(draws)(jax.random.split(key_of(1), n)))
    products = f[:, :, None] * f[:, None]
    kernel = dkp.nngp_kernel(network(np.sqrt(FEATURE_SCALES), LAYER_SCALES), X[:3])
    z = (products.mean(0) - kernel) / (products.std(0) / np.sqrt(n))
    assert np.max(np.abs(z[np.triu_indices(3)])) < 4.5


def test_outputs_are_stable_variables():
    """Of one layer without bias: Cauchy, of scale sqrt(k / 2), for alpha = 1. p > 1e-4: the
    false-alarm rate."""
    model = dkp.DeepKernelProcess(
        layers=[Affine(weight_var=PositiveStable(0.5))], likelihood=gaussian(1e-3)
    )
    with relaxed():
        f = dkp.prior_predictive(model, X[:1], key=key_of(2), n_samples=5000).ravel()
    assert stats.kstest(f, stats.cauchy(scale=np.sqrt(np.sum(X[0] ** 2) / 3 / 2)).cdf).pvalue > 1e-4


def test_sites_of_the_model():
    model = dkp.DeepKernelProcess(
        layers=network(SqrtPositiveStable(0.5), [PositiveStable(0.5), PositiveStable(0.8)]),
        likelihood=gaussian(),
    )
    with relaxed(), numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as sites:
        model.numpyro(jnp.asarray(X), jnp.zeros(6))
    shapes = {name: site["value"].shape for name, site in sites.items() if site["type"] == "sample"}
    scales = {"layers.0.weights": (3,), "layers.1.weight_var": (), "layers.3.weight_var": ()}
    assert shapes == {**scales, "y": (6, 1)}


# --- inference ------------------------------------------------------------------------------------

NOISE = 0.5


def gaussian(noise=NOISE):
    return likelihoods.Gaussian(noise=noise)


def key_of(seed):
    return jax.random.key(seed)


def regression():
    model = dkp.DeepKernelProcess(
        layers=[Linear(), Affine(weight_var=PositiveStable(0.5), bias_var=1.0), ArcCosine(1)],
        likelihood=gaussian(),
    )
    x = np.random.default_rng(1).normal(size=(12, 2))
    return model, dkp.Dataset.from_arrays(x, np.abs(x[:, 0]) + 0.2 * x[:, 1])


@functools.cache
def posterior_on_a_grid():
    """log s, and the distribution function of its posterior."""
    _, data = regression()
    x, y, log_s = np.asarray(data.x), np.asarray(data.y[:, 0]), np.linspace(-8, 40, 1500)
    log_density = []
    for s in np.exp(log_s):
        covariance = recursion(x, np.ones(2), [s], 1) + NOISE**2 * np.eye(12)
        # of log s, for a Levy variable of scale 1/2
        prior = stats.levy(scale=0.5).logpdf(s) + np.log(s)
        log_density.append(prior + stats.multivariate_normal(np.zeros(12), covariance).logpdf(y))
    density = np.exp(np.array(log_density) - np.max(log_density))
    return log_s, np.cumsum(density) / np.sum(density)


def posterior_ranks(s):
    return np.interp(np.log(s), *posterior_on_a_grid())


@pytest.mark.slow
def test_nuts_finds_the_posterior_of_a_scale():
    """Ranks under the true posterior are uniform: |z| < 4.5 for their mean and mean square, a rate
    of 1e-5."""
    model, data = regression()
    with relaxed():
        mcmc = MCMC(NUTS(model.numpyro), num_warmup=300, num_samples=1500, progress_bar=False)
        mcmc.run(key_of(0), data.x, data.y)
        s = np.asarray(mcmc.get_samples()["layers.1.weight_var"])
    ranks = posterior_ranks(s)
    for power in (1, 2):
        values = ranks**power
        error = values.std() / np.sqrt(effective_sample_size(values[None]))
        assert abs(values.mean() - 1 / (power + 1)) < 4.5 * error
    assert not np.any(mcmc.get_extra_fields()["diverging"])


@pytest.mark.slow
def test_the_variational_guide_covers_the_posterior_of_a_scale():
    model, data = regression()
    with relaxed():
        posterior = dkp.fit_vi(
            model, data, key=key_of(0), n_inducing=12, steps=3000, progress=False
        )
    s = posterior.sample(key_of(1), 200).values["layers.1.weight_var"]
    assert s.shape == (200,) and np.all(s > 0) and posterior.skipped == 0
    assert 0.25 < np.median(posterior_ranks(s)) < 0.75
    assert np.std(posterior_ranks(s)) > 0.1


def test_scales_of_features_in_the_variational_family():
    """They have no mean, and the guide starts at finite numbers nevertheless."""
    _, data = regression()
    model = dkp.DeepKernelProcess(
        layers=network(SqrtPositiveStable(0.5), [PositiveStable(0.5)]), likelihood=gaussian()
    )
    family = VariationalFamily(model=model, n_features=2, n_outputs=1, collapsed=True)
    parameters = family.init(data, data.x)
    with relaxed():
        bound = jax.jit(
            jax.value_and_grad(lambda p: family.elbo(p, key_of(0), data.x, data.y, data.n)[0])
        )
        elbo, gradient = bound(parameters)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((parameters, elbo, gradient)))


def test_a_distribution_has_no_single_kernel():
    with pytest.raises(ValueError, match="Expected .*weight_var to be a number or learn"):
        dkp.nngp_kernel([Affine(weight_var=PositiveStable(0.5))], X)
