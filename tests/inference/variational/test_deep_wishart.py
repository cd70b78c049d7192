"""Deep Wishart processes fitted variationally: limits, evidence by importance sampling, nested
guides.

Monte Carlo comparisons use fixed seeds and |z| < 4: a false-alarm rate of 6e-5 a comparison over
seeds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import dkp
from dkp import kernels, likelihoods
from dkp.gram.gram import Gram, Inputs
from dkp.guides import GUIDES, WishartGuide
from dkp.inference.variational.family import VariationalFamily
from dkp.inference.variational.first_stage import first_stage
from dkp.inference.variational.objectives import NegativeElbo
from dkp.inference.variational.prepare import prepare
from dkp.linalg.cholesky import cholesky
from dkp.model.outputs import exact_outputs
from dkp.model.propagate import propagate
from tests.support import relaxed, relaxed_optimizer

NOISE = 0.4
RNG = np.random.default_rng(11)
X = RNG.normal(size=(30, 2))
Y = np.sin(X[:, :1] + 0.5 * X[:, 1:]) + 0.2 * RNG.normal(size=(30, 1))
DENSE = WishartGuide(rows="dense", columns=True)


def dataset(n=3, dtype=None):
    return dkp.Dataset.from_arrays(X[:n], Y[:n], dtype=dtype)


@functools.cache
def model(*widths):
    layers = [kernels.Linear(bias=0.2)]
    for width in widths:
        layers += [
            kernels.SquaredExponential(lengthscale=1.1, variance=1.0),
            dkp.Wishart(width=width),
        ]
    layers += [kernels.SquaredExponential(lengthscale=0.9, variance=1.0)]
    return dkp.DeepKernelProcess(layers=layers, likelihood=likelihoods.Gaussian(noise=NOISE))


@functools.cache
def family(described, guide, stick_the_landing=True):
    guides = tuple(guide for _ in described.bottlenecks)
    return VariationalFamily(
        model=described,
        n_features=2,
        n_outputs=1,
        collapsed=True,
        guides=guides,
        stick_the_landing=stick_the_landing,
    )


@functools.partial(jax.jit, static_argnums=0)
def elbos(fam, parameters, keys, x, y):
    return jax.vmap(lambda key: fam.elbo(parameters, key, x, y, len(x))[0])(keys)


def mean_and_error(values):
    values = np.asarray(values)
    return values.mean(), values.std(ddof=1) / np.sqrt(len(values))


# --- the prior ------------------------------------------------------------------------------------


def prior_gram(described, x, key):
    """G after the last bottleneck."""
    grams = []

    def bottleneck(index, layer, kernel):
        factor = layer.prior(cholesky(kernel.ii)).sample(jax.random.fold_in(key, index))
        grams.append(Gram(ii=factor @ factor.T))
        return grams[-1]

    propagate(described.layers, Inputs(i=x), bottleneck)
    return grams[-1].ii


@pytest.mark.parametrize("widths", [(2, 3), (5, 4)], ids=["singular", "of full rank"])
def test_the_prior_is_a_deep_gaussian_process(widths):
    """Means and second moments of G against layers of explicit features in NumPy, |z| < 4.5 over 16
    + 256 numbers: a false-alarm rate of 2e-3 over seeds."""
    x, n = X[:4], 20_000
    keys = jax.random.split(jax.random.key(0), n)
    ours = np.asarray(
        jax.jit(jax.vmap(lambda key: prior_gram(model(*widths), jnp.asarray(x), key)))(keys)
    )
    rng = np.random.default_rng(1)
    g = np.broadcast_to(x @ x.T / 2 + 0.2, (n, 4, 4))
    for width in widths:
        diagonal = np.diagonal(g, axis1=1, axis2=2)
        squares = diagonal[:, :, None] - 2 * g + diagonal[:, None, :]
        k = np.exp(-squares / (2 * 1.1**2))
        features = np.linalg.cholesky(k + 1e-12 * np.eye(4)) @ rng.normal(size=(n, 4, width))
        g = features @ features.transpose(0, 2, 1) / width
    for statistic in (lambda g: g, lambda g: g[:, :, :, None, None] * g[:, None, None, :, :]):
        a, b = statistic(ours), statistic(g)
        z = (a.mean(0) - b.mean(0)) / np.sqrt((a.var(0) + b.var(0)) / n)
        assert np.max(np.abs(z)) < 4.5


@pytest.mark.parametrize("widths", [(2, 3), (5, 8, 4)], ids=["singular", "of full rank"])
def test_moments_of_a_deep_linear_prior(widths):
    """E[G_ij G_kl] = m prod (1 + 2 / nu) + (a - m) prod (1 - 1 / nu), a = K_ij K_kl and m its mean
    over pairings. |z| < 4.5 over 81 numbers: a false-alarm rate of 6e-4 over seeds."""
    layers = [kernels.Linear(bias=0.2), *(dkp.Wishart(width=width) for width in widths)]
    described = dkp.DeepKernelProcess(layers=layers, likelihood=likelihoods.Gaussian(noise=NOISE))
    x, n = jnp.asarray(X[:3]), 40_000
    keys = jax.random.split(jax.random.key(2), n)
    g = np.asarray(jax.jit(jax.vmap(lambda key: prior_gram(described, x, key)))(keys))
    k = np.asarray(x @ x.T / 2 + 0.2)
    a = np.einsum("ij,kl->ijkl", k, k)
    m = (a + np.einsum("ik,jl->ijkl", k, k) + np.einsum("il,jk->ijkl", k, k)) / 3
    nu = np.asarray(widths)
    truth = m * np.prod(1 + 2 / nu) + (a - m) * np.prod(1 - 1 / nu)
    products = g[:, :, :, None, None] * g[:, None, None, :, :]
    assert np.max(np.abs((products.mean(0) - truth) / products.std(0) * np.sqrt(n))) < 4.5
    assert np.max(np.abs((g.mean(0) - k) / g.std(0) * np.sqrt(n))) < 4.5


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", ["standard", "ab"])
def test_a_large_width_recovers_the_evidence_of_the_gaussian_process(guide):
    data, described = dataset(5), model(1e9, 1e9)
    fam = family(described, GUIDES[guide])
    kernel = propagate(described.layers, Inputs(i=data.x), lambda index, layer, k: k).ii
    covariance = np.asarray(kernel) + NOISE**2 * np.eye(data.n)
    truth = stats.multivariate_normal(np.zeros(data.n), covariance).logpdf(np.asarray(data.y[:, 0]))
    value = elbos(
        fam, fam.init(data, data.x), jax.random.split(jax.random.key(0), 4), data.x, data.y
    )
    np.testing.assert_allclose(value, truth, atol=1e-2)


# --- the evidence ---------------------------------------------------------------------------------


@functools.cache
def evidence(width):
    """Mean of the likelihood over draws of the prior, and its error."""
    data, described = dataset(), model(width)
    kernel = described.layers[1](described.layers[0](Inputs(i=data.x))).ii
    prior = described.bottlenecks[0].prior(cholesky(kernel))

    def likelihood(key):
        s = prior.sample(key)
        k = described.layers[3](Gram(ii=s @ s.T)).ii
        return jnp.exp(exact_outputs(k, data.y, jnp.asarray(NOISE**2))[0])

    return mean_and_error(
        jax.jit(jax.vmap(likelihood))(jax.random.split(jax.random.key(3), 40_000))
    )


def options(guide, **more):
    return {
        "key": jax.random.key(0),
        "n_inducing": 3,
        "steps": 150,
        "samples": 8,
        "start_steps": 0,
        "progress": False,
        "guide": guide,
        "optimizer": relaxed_optimizer(optax.adam(0.03)),
    } | more


@pytest.mark.parametrize(
    ("guide", "width"),
    [("standard", 2), ("ab", 2), ("ab", 5), ("ab", 7.5), ("features", 2), (DENSE, 2)],
    ids=str,
)
def test_a_fitted_guide_bounds_the_evidence_and_its_weights_average_to_it(guide, width):
    posterior = dkp.fit_vi(model(width), dataset(), **options(guide))
    truth, error = evidence(width)
    weight, weight_error = mean_and_error(
        np.exp(np.asarray(posterior.log_weights(jax.random.key(1), 4000)))
    )
    assert abs(weight - truth) < 4 * np.hypot(error, weight_error)
    assert weight_error < 0.1 * weight
    bound, bound_error = posterior.elbo(jax.random.key(2), n=1000)
    assert np.log(truth) - 2 < bound < np.log(truth) + 4 * (error / truth + bound_error)


@pytest.mark.slow
def test_wider_families_are_no_worse():
    """ab contains a, b and standard: nearly the same optimum or a better one, on one problem with
    one key."""
    data = dataset(12)
    found = {}
    for guide in ("standard", "a", "b", "ab"):
        posterior = dkp.fit_vi(
            model(2), data, **options(guide, n_inducing=12, steps=300, samples=4)
        )
        found[guide] = posterior.elbo(jax.random.key(4), n=2000)
    for narrow, wide in (("standard", "a"), ("standard", "b"), ("a", "ab"), ("b", "ab")):
        (low, low_error), (high, high_error) = found[narrow], found[wide]
        assert high > low - 4 * np.hypot(low_error, high_error)


# --- estimates of divergences without a closed form -----------------------------------------------


def test_sticking_the_landing_is_unbiased_and_less_noisy():
    """The gradients of both estimates have one mean, |z| < 4.5 over the parameters of a small
    guide; where the guide is the prior, log q - log p is 0 and the gradient without the score has
    no noise from it."""
    data, described = dataset(), model(2)
    fams = [family(described, DENSE, stick) for stick in (True, False)]
    parameters = fams[0].init(data, data.x)
    rng = np.random.default_rng(4)
    bottlenecks = jax.tree.map(
        lambda a: a + jnp.asarray(0.2 * rng.normal(size=a.shape)), parameters["bottlenecks"]
    )
    keys = jax.random.split(jax.random.key(5), 4_000)

    def gradients(fam):
        def bound(bottlenecks, key):
            return fam.elbo(parameters | {"bottlenecks": bottlenecks}, key, data.x, data.y, data.n)[
                0
            ]

        found = jax.jit(jax.vmap(jax.grad(bound), (None, 0)))(bottlenecks, keys)
        return np.concatenate(
            [np.reshape(a, (len(keys), -1)) for a in jax.tree.leaves(found)], axis=1
        )

    path, full = map(gradients, fams)
    difference = path - full
    moving = difference.std(0) > 1e-12
    z = difference.mean(0)[moving] / (difference.std(0)[moving] / np.sqrt(len(keys)))
    assert moving.sum() > 10 and np.max(np.abs(z)) < 4.5


# --- what a user does -----------------------------------------------------------------------------


@functools.cache
def fitted(guide="ab"):
    return dkp.fit_vi(model(2, 3), dataset(12), **options(guide, n_inducing=5, steps=30, samples=2))


def test_predictions_do_not_depend_on_the_batch():
    x = np.random.default_rng(6).normal(size=(7, 2))
    draws = fitted().sample(jax.random.key(7), 5)
    whole = dkp.predict(fitted(), x, key=jax.random.key(8), draws=draws)
    for chunk, rows in ((1, slice(None)), (3, slice(None)), (1000, slice(2, 5))):
        part = dkp.predict(fitted(), x[rows], key=jax.random.key(8), chunk=chunk, draws=draws)
        np.testing.assert_allclose(part.mean, whole.mean[rows], rtol=1e-9)
        np.testing.assert_allclose(part.variance, whole.variance[rows], rtol=1e-9)


def test_models_that_mix_bottlenecks():
    layers = [
        kernels.Linear(ard=True),
        kernels.SquaredExponential(),
        dkp.Wishart(width=2),
        kernels.ArcCosine(1),
        dkp.InverseWishart(delta=dkp.learn(50.0)),
        kernels.SquaredExponential(),
        dkp.Wishart(width=40.5),
        kernels.SquaredExponential(),
    ]
    described = dkp.DeepKernelProcess(layers=layers, likelihood=likelihoods.Gaussian())
    posterior = dkp.fit_vi(
        described, dataset(20), **options("a", n_inducing=8, steps=20, start_steps=20)
    )
    assert posterior.summary()["guides"] == ["a", "inverse-wishart", "a"]
    assert posterior.summary()["skipped"] == 0
    assert np.all(np.isfinite(dkp.predict(posterior, X[20:], key=jax.random.key(0)).variance))


@pytest.mark.filterwarnings("ignore:R-hat|ESS:RuntimeWarning")
@pytest.mark.parametrize("guide", ["features", "ab"])
def test_chains_start_from_it(guide):
    posterior = fitted(guide)
    chains = dkp.sample_hmc(
        model(2, 3),
        dataset(12),
        key=jax.random.key(0),
        init=posterior,
        chains=2,
        warmup=5,
        draws=4,
        progress=False,
    )
    assert np.all(np.isfinite(chains.z))


@pytest.mark.parametrize("guide", ["ab", "features"])
def test_minibatches_with_natural_gradients(guide):
    posterior = dkp.fit_vi(
        model(2), dataset(30), **options(guide, n_inducing=8, steps=300, samples=1, batch_size=10)
    )
    first, last = posterior.elbo_trace[:20].mean(), posterior.elbo_trace[-50:].mean()
    assert posterior.skipped == 0 and last > first
    precision = posterior.parameters["outputs"]["precision"]
    assert np.linalg.eigvalsh(np.asarray(precision)).min() > -1e-8


def test_large_data_start_on_a_subset_with_the_outputs_integrated_out(monkeypatch):
    """The first stage lifts the bound on a subset; then the outputs are the optimal ones for all
    rows, which are summed some rows at a time."""
    monkeypatch.setattr("dkp.inference.variational.first_stage._SUBSET", 12)
    monkeypatch.setattr("dkp.inference.variational.first_stage._ROWS_AT_A_TIME", 7)
    data, key = dataset(30), jax.random.key(0)
    fam, parameters, batches = prepare(model(2), data, key=key, n_inducing=4, batch_size=10)
    assert first_stage(fam, [data], 0) is None and first_stage(fam, [dataset(12)], 20) is None
    stage = first_stage(fam, [data], 20)
    with relaxed():
        start = stage(fam, [parameters], [data], keys=[key], batches=[batches], steps=20, chunk=10)[
            0
        ]
    assert start.trace.shape == (20,) and start.trace[-5:].mean() < start.trace[:5].mean()
    described, kernel = fam.deterministic(start.parameters, data.x)
    projection = np.asarray(kernel.ti @ cholesky(kernel.ii).inverse.T) / NOISE
    np.testing.assert_allclose(
        start.parameters["outputs"]["precision"], projection.T @ projection, rtol=1e-8
    )
    np.testing.assert_allclose(
        start.parameters["outputs"]["linear"], projection.T @ data.y / NOISE, rtol=1e-8
    )
    collapsed = VariationalFamily(model=described, n_features=2, n_outputs=1, collapsed=True)
    with relaxed():
        inner = {name: v for name, v in parameters.items() if name != "outputs"}
        same = stage(collapsed, [inner], [data], keys=[key], batches=None, steps=20, chunk=10)[0]
    assert "outputs" not in same.parameters
    np.testing.assert_allclose(same.trace, start.trace, rtol=1e-8)


@pytest.mark.parametrize("guide", ["ab", "features"])
def test_float32_is_close_to_float64(guide):
    values = []
    fam = family(model(2), GUIDES[guide])
    parameters = fam.init(dataset(8), dataset(8).x[:4])
    for dtype in (np.float32, np.float64):
        data = dataset(8, dtype)
        cast = jax.tree.map(lambda a, d=dtype: a.astype(d), parameters)
        values.append(elbos(fam, cast, jax.random.split(jax.random.key(0), 3), data.x, data.y))
    assert values[0].dtype == jnp.float32
    np.testing.assert_allclose(values[0], values[1], rtol=5e-3)


@pytest.mark.parametrize("guide", ["ab", "features"])
def test_gradient_against_finite_differences(guide):
    """All parameters but those of gamma draws, whose derivative is that at a fixed quantile."""
    data, fam = dataset(8), family(model(2), GUIDES[guide])
    parameters = fam.init(data, data.x[:4] + 0.1)
    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), parameters)
    still = {"log_concentration": jnp.zeros(2)} if guide == "ab" else {}
    direction["bottlenecks"] = tuple(b | still for b in direction["bottlenecks"])

    @jax.jit
    @jax.value_and_grad
    def along(t):
        moved = jax.tree.map(lambda a, d: a + t * d, parameters, direction)
        return fam.elbo(moved, jax.random.key(0), data.x, data.y, data.n)[0]

    h = 1e-6
    np.testing.assert_allclose(along(0.0)[1], (along(h)[0] - along(-h)[0]) / (2 * h), rtol=1e-4)


def test_a_real_width_needs_as_many_degrees_of_freedom_as_points():
    with pytest.raises(
        ValueError,
        match=r"Expected Wishart\(width=…\) to be an integer, or real numbers of at least",
    ):
        dkp.fit_vi(model(4.5), dataset(30), **options("auto", n_inducing=8))


def test_one_factorisation_a_layer_for_the_prior_and_one_for_the_guide():
    """Counted in the program of one step: two bottlenecks, and the outputs with two more."""
    data = dataset(12)
    for guide in ("standard", "ab", "features"):
        fam, parameters, _ = prepare(
            model(2, 3), data, key=jax.random.key(0), n_inducing=5, guide=guide
        )
        loss = jax.value_and_grad(NegativeElbo(family=fam, n=data.n, samples=1), has_aux=True)
        program = str(jax.make_jaxpr(loss)(parameters, jax.random.key(0), data.rows))
        # each factorisation stands once in the program as it is, and once in the loop with more
        # jitter
        attempts = 2
        assert program.count("cholesky[") + program.count("cholesky ") <= attempts * (2 * 2 + 2)
