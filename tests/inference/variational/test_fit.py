"""The variational bound against exact Gaussian processes, importance sampling, finite differences
and its own limits.

Monte Carlo comparisons use fixed seeds and |z| < 4: a false-alarm rate of 6e-5 a comparison over
seeds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy import stats

import dkp
from dkp import kernels, likelihoods
from dkp._core.progress import Progress
from dkp.gram.gram import Gram, Inputs
from dkp.inference.variational.family import VariationalFamily
from dkp.inference.variational.outputs import OutputBatch
from dkp.inference.variational.prepare import prepare
from dkp.linalg.cholesky import cholesky
from dkp.model.outputs import exact_outputs, whitened_posterior
from dkp.model.propagate import propagate
from dkp.posterior.draw import latent_moments
from tests.support import relaxed, relaxed_optimizer

NOISE = 0.4
RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(8, 2)), RNG.normal(size=(8, 1))


def dataset(n=5, columns=1, dtype=None):
    return dkp.Dataset.from_arrays(X[:n], np.tile(Y[:n], (1, columns)), dtype=dtype)


@functools.cache
def model(delta=5.0, depth=1):
    layers = [kernels.Linear(bias=0.2)]
    for _ in range(depth):
        layers += [kernels.ArcCosine(1), dkp.InverseWishart(delta=delta)]
    layers += [kernels.SquaredExponential(lengthscale=1.2, variance=0.9)]
    return dkp.DeepKernelProcess(layers=layers, likelihood=likelihoods.Gaussian(noise=NOISE))


@functools.cache
def family(described, collapsed, n_outputs=1):
    return VariationalFamily(
        model=described, n_features=2, n_outputs=n_outputs, collapsed=collapsed
    )


@functools.partial(jax.jit, static_argnums=(0, 5))
def elbo(fam, parameters, key, x, y, n):
    return fam.elbo(parameters, key, x, y, n)[0]


@functools.partial(jax.jit, static_argnums=(0, 5))
def elbos(fam, parameters, keys, x, y, n):
    return jax.vmap(lambda key: fam.elbo(parameters, key, x, y, n)[0])(keys)


@functools.partial(jax.jit, static_argnums=0)
def walk(fam, parameters, key, x):
    """Factors, last kernel and divergence of one pass."""
    done = fam.layer_pass(parameters, key, x)
    return done.factors, done.kernel, done.kl


def start(fam, data, inducing=None, seed=0, amount=0.3):
    """Initial parameters, moved at random so that nothing is special about them; the inducing
    points stay."""
    parameters = fam.init(data, data.x if inducing is None else inducing)
    rng = np.random.default_rng(seed)
    moved = jax.tree.map(
        lambda a: a + jnp.asarray(amount * rng.normal(size=a.shape), a.dtype), parameters
    )
    if "outputs" in moved:
        root = moved["outputs"]["precision"]
        moved["outputs"] |= {"precision": root @ root.T}
    return moved | {"inducing": parameters["inducing"]}


@functools.partial(jax.jit, static_argnums=0)
def drawn_moments(fam, parameters, data, x):
    """Moments of the latent functions at x under one draw."""
    draw = fam.draw(parameters, jax.random.key(0), data)
    return latent_moments(fam.model, draw, jax.random.key(1), x, fam.n_outputs)


def gp_kernel(x, described):
    """The last kernel of the deterministic network."""
    return propagate(described.layers, Inputs(i=x), lambda index, layer, kernel: kernel).ii


# --- the limits that are known --------------------------------------------------------------------


def test_large_delta_recovers_the_evidence_of_the_gaussian_process():
    data, described = dataset(), model(1e8, depth=2)
    fam = family(described, collapsed=True)
    covariance = np.asarray(gp_kernel(data.x, described)) + NOISE**2 * np.eye(data.n)
    truth = stats.multivariate_normal(np.zeros(data.n), covariance).logpdf(np.asarray(data.y[:, 0]))
    value = elbo(fam, fam.init(data, data.x), jax.random.key(0), data.x, data.y, data.n)
    np.testing.assert_allclose(value, truth, atol=5e-3)


def test_large_delta_recovers_the_predictions_of_the_gaussian_process():
    data, described = dataset(), model(1e8, depth=2)
    fam, new = family(described, collapsed=True), jnp.asarray(RNG.normal(size=(3, 2)))
    mean, variance = drawn_moments(fam, fam.init(data, data.x), data, new)
    joint = np.asarray(gp_kernel(jnp.concatenate([data.x, new]), described))
    n = data.n
    weights = np.linalg.solve(joint[:n, :n] + NOISE**2 * np.eye(n), joint[:n, n:]).T
    np.testing.assert_allclose(mean, weights @ np.asarray(data.y), atol=5e-3)
    np.testing.assert_allclose(
        variance[:, 0], np.diag(joint[n:, n:] - weights @ joint[:n, n:]), atol=5e-3
    )


def test_inducing_points_at_the_data_give_the_full_model():
    """The same factor draws, pushed through the model without data blocks."""
    data, described = dataset(), model(depth=2)
    fam = family(described, collapsed=True)
    parameters = start(fam, data)
    for key in jax.random.split(jax.random.key(3), 3):
        factors, _, kl = walk(fam, parameters, key, data.x)
        grams = [Gram(ii=s @ s.T) for s in factors]
        kernel = propagate(
            described.layers, Inputs(i=data.x), lambda i, layer, k, grams=grams: grams[i - 1]
        )
        truth = exact_outputs(kernel.ii, data.y, jnp.asarray(NOISE**2))[0] - kl
        np.testing.assert_allclose(
            elbo(fam, parameters, key, data.x, data.y, data.n), truth, rtol=1e-4
        )


# --- the bound ------------------------------------------------------------------------------------


@functools.cache
def importance_weights():
    """Log weights of prior draws (their mean is the evidence), of guide draws, and the guide's ELBO
    draws; N = 3."""
    data, described = dataset(3), model(5.0)
    fam = family(described, collapsed=True)
    parameters = start(fam, data, amount=0.1)
    # A guide wider than a fit would have: delta K - gamma V V^T is positive definite, and the
    # weights have a variance.
    wide = {"log_gamma": jnp.log(0.5)}
    parameters = parameters | {"bottlenecks": tuple(b | wide for b in parameters["bottlenecks"])}
    layer = described.bottlenecks[0]
    kernel = described.layers[1](described.layers[0](Inputs(i=data.x))).ii
    scale = cholesky(kernel)
    prior = layer.whitened_prior(data.n, kernel.dtype)
    guide = fam.guide(1).posterior(layer, parameters["bottlenecks"][0], kernel, scale).q

    def log_likelihood(whitened):
        s = scale.tril @ whitened
        return exact_outputs(
            described.layers[3](Gram(ii=s @ s.T)).ii, data.y, jnp.asarray(NOISE**2)
        )[0]

    def from_guide(key):
        s = guide.sample(key)
        return log_likelihood(s) + prior.log_prob(s) - guide.log_prob(s)

    keys = jax.random.split(jax.random.key(0), 8_000)
    by_prior = jax.jit(jax.vmap(lambda key: log_likelihood(prior.sample(key))))(keys)
    by_guide = jax.jit(jax.vmap(from_guide))(keys)
    bounds = elbos(fam, parameters, keys[:2000], data.x, data.y, data.n)
    return np.asarray(by_prior), np.asarray(by_guide), np.asarray(bounds)


def mean_and_error(values):
    return values.mean(), values.std(ddof=1) / np.sqrt(len(values))


def test_importance_sampling_from_the_guide_gives_the_evidence():
    by_prior, by_guide, _ = importance_weights()
    (prior, prior_error), (guide, guide_error) = (
        mean_and_error(np.exp(by_prior)),
        mean_and_error(np.exp(by_guide)),
    )
    assert abs(prior - guide) < 4 * np.hypot(prior_error, guide_error)
    assert prior_error < 0.02 * prior


def test_the_bound_is_the_mean_log_weight_and_lies_below_the_evidence():
    by_prior, by_guide, bounds = importance_weights()
    (bound, error), (weight, weight_error) = mean_and_error(bounds), mean_and_error(by_guide)
    assert abs(bound - weight) < 4 * np.hypot(error, weight_error)
    evidence, evidence_error = mean_and_error(np.exp(by_prior))
    assert bound - 4 * error < np.log(evidence) + 4 * evidence_error / evidence
    assert bound > np.log(evidence) - 20  # and not by being absurdly low


def test_means_over_draws_are_the_optimal_outputs():
    """With bottlenecks, inducing points fewer than the data, and a fixed set of draws: the bound at
    the mean of the natural parameters that they ask for is above that of any others, and has no
    gradient in them."""
    data, described = dataset(), model()
    fam = family(described, collapsed=False)
    parameters = start(fam, data, data.x[:3])
    keys = jax.random.split(jax.random.key(1), 5)

    @jax.jit
    def asked(key):
        walk = fam.layer_pass(parameters, key, data.x)
        zero = jnp.zeros_like(data.y)
        batch = OutputBatch(y=data.y, n=data.n)
        likelihood, scale = walk.model.likelihood, cholesky(walk.kernel.ii)
        return batch.sites(likelihood, walk.kernel, scale, zero, zero)

    @jax.jit
    def bound(outputs):
        def one(key):
            walk = fam.layer_pass(parameters, key, data.x)
            law, kl, _ = whitened_posterior(
                cholesky(walk.kernel.ii), outputs["linear"], outputs["precision"]
            )
            mean, variance = law.moments(walk.kernel)
            batch = OutputBatch(y=data.y, n=data.n)
            return batch.expected_log_density(walk.model.likelihood, mean, variance) - kl

        return jnp.mean(jax.vmap(one)(keys))

    best = jax.tree.map(lambda *each: sum(each) / len(keys), *(asked(key) for key in keys))
    height, slope = jax.value_and_grad(bound)(best)
    for leaf in jax.tree.leaves(slope):
        np.testing.assert_allclose(leaf, 0, atol=1e-6)
    for key in keys:
        assert bound(asked(key)) < height


def test_one_natural_step_with_all_data_attains_the_optimum():
    """From any outputs, for Gaussian noise: the gradient is n times the way to them."""
    data, described = dataset(), model(depth=0)
    fam = family(described, collapsed=False)
    for inducing in (data.x, data.x[:2] + 0.1):
        parameters = start(fam, data, inducing, amount=1.0)

        @jax.jit
        @jax.grad
        def gradient(outputs, parameters=parameters):
            return (
                fam.elbo(
                    parameters | {"outputs": outputs}, jax.random.key(0), data.x, data.y, data.n
                )[0]
                / data.n
            )

        step = gradient(parameters["outputs"])
        best = parameters | {"outputs": jax.tree.map(jnp.add, parameters["outputs"], step)}
        attained = elbo(fam, best, jax.random.key(0), data.x, data.y, data.n)
        inner = {name: v for name, v in parameters.items() if name != "outputs"}
        height = elbo(
            family(described, collapsed=True), inner, jax.random.key(0), data.x, data.y, data.n
        )
        np.testing.assert_allclose(attained, height, rtol=1e-6)


def test_natural_steps_of_minibatches_average_to_that_of_all_data():
    data, described = dataset(6), model(depth=0)
    fam = family(described, collapsed=False)
    parameters = start(fam, data, data.x[:3])

    @jax.jit
    @jax.grad
    def gradient(outputs, x, y):
        return fam.elbo(parameters | {"outputs": outputs}, jax.random.key(0), x, y, data.n)[0]

    parts = [
        gradient(parameters["outputs"], data.x[i : i + 2], data.y[i : i + 2]) for i in (0, 2, 4)
    ]
    whole = gradient(parameters["outputs"], data.x, data.y)
    for name in whole:
        np.testing.assert_allclose(
            np.mean([part[name] for part in parts], axis=0), whole[name], rtol=1e-9, atol=1e-9
        )


def test_fewer_inducing_points_bound_the_collapsed_evidence_from_below():
    """Without a bottleneck both are numbers: Titsias' bound under the log marginal likelihood."""
    data, described = dataset(), model(depth=0)
    fam = family(described, collapsed=True)
    full, few = (
        elbo(fam, fam.init(data, z), jax.random.key(0), data.x, data.y, data.n)
        for z in (data.x, data.x[:2])
    )
    truth = exact_outputs(gp_kernel(data.x, described), data.y, jnp.asarray(NOISE**2))[0]
    np.testing.assert_allclose(full, truth, rtol=1e-6)
    assert few < truth


def test_minibatches_average_to_the_full_batch():
    """No bottleneck: the mean over a partition is the full-batch bound to rounding."""
    data = dataset(6)
    fam = family(model(depth=0), collapsed=False)
    parameters, key = start(fam, data, data.x[:3]), jax.random.key(0)
    parts = [
        elbo(fam, parameters, key, data.x[i : i + 2], data.y[i : i + 2], data.n) for i in (0, 2, 4)
    ]
    np.testing.assert_allclose(
        np.mean(parts), elbo(fam, parameters, key, data.x, data.y, data.n), rtol=1e-12
    )


def test_minibatches_are_unbiased_with_a_bottleneck():
    data = dataset(4)
    fam = family(model(), collapsed=False)
    parameters, keys = start(fam, data, data.x[:2]), jax.random.split(jax.random.key(9), 2000)
    full, full_error = mean_and_error(
        np.asarray(elbos(fam, parameters, keys, data.x, data.y, data.n))
    )
    parts = [
        elbos(fam, parameters, keys, data.x[i : i + 1], data.y[i : i + 1], data.n) for i in range(4)
    ]
    part, part_error = mean_and_error(np.mean(parts, axis=0))
    assert abs(full - part) < 4 * np.hypot(full_error, part_error)


def test_outputs_share_the_kernel():
    """For the targets [y, y] the data term is twice that of y, and the divergence is the same."""
    described, key = model(), jax.random.key(2)
    terms = []
    for columns in (1, 2):
        data, fam = dataset(columns=columns), family(described, collapsed=True, n_outputs=columns)
        parameters = start(fam, data)
        _, _, kl = walk(fam, parameters, key, data.x)
        terms.append((elbo(fam, parameters, key, data.x, data.y, data.n) + kl, kl))
    np.testing.assert_allclose(terms[1][0], 2 * terms[0][0], rtol=1e-9)
    np.testing.assert_allclose(terms[1][1], terms[0][1], rtol=1e-12)


# --- derivatives and precision --------------------------------------------------------------------


@pytest.mark.parametrize("collapsed", [True, False])
def test_gradient_against_finite_differences(collapsed):
    """All parameters but the degrees of freedom, whose derivative is that at a fixed quantile, not
    that of a draw."""
    data = dataset()
    described = dkp.DeepKernelProcess(
        layers=[
            kernels.Linear(ard=True),
            kernels.ArcCosine(1),
            dkp.InverseWishart(delta=5.0),
            kernels.SquaredExponential(),
        ],
        likelihood=likelihoods.Gaussian(noise=dkp.learn(0.4)),
    )
    fam = family(described, collapsed)
    parameters = start(fam, data, data.x[:3] + 0.1)
    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), parameters)
    if not collapsed:  # those of the outputs are natural gradients
        direction["outputs"] = jax.tree.map(jnp.zeros_like, direction["outputs"])
    direction["bottlenecks"] = tuple(
        b | {"log_gamma": jnp.zeros(())} for b in direction["bottlenecks"]
    )

    @jax.jit
    @jax.value_and_grad
    def along(t):
        moved = jax.tree.map(lambda a, d: a + t * d, parameters, direction)
        return fam.elbo(moved, jax.random.key(0), data.x, data.y, data.n)[0]

    h = 1e-5
    np.testing.assert_allclose(along(0.0)[1], (along(h)[0] - along(-h)[0]) / (2 * h), rtol=1e-5)


def test_gradient_in_the_degrees_of_freedom_is_unbiased():
    """The mean gradient is the derivative of the mean bound: a central difference with common
    random numbers."""
    data, fam = dataset(3), family(model(), collapsed=True)
    parameters, keys = start(fam, data), jax.random.split(jax.random.key(4), 3000)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    @jax.value_and_grad
    def bound(shift, key):
        moved = tuple(b | {"log_gamma": b["log_gamma"] + shift} for b in parameters["bottlenecks"])
        return fam.elbo(parameters | {"bottlenecks": moved}, key, data.x, data.y, data.n)[0]

    h = 0.1
    difference = (bound(h, keys)[0] - bound(-h, keys)[0]) / (2 * h)
    mean, error = mean_and_error(np.asarray(bound(0.0, keys)[1] - difference))
    # the second term: the error of the central difference is of order h^2
    assert abs(mean) < 4 * error + 0.02


@pytest.mark.parametrize("collapsed", [True, False])
def test_float32_is_close_to_float64(collapsed):
    """The same parameters and the same key: draws are made of the same bits."""
    values, predictions = [], []
    fam = family(model(), collapsed)
    double = dataset()
    parameters = start(fam, double, double.x[:3])
    for dtype in (np.float32, np.float64):
        data = dataset(dtype=dtype)
        cast = jax.tree.map(lambda a, d=dtype: a.astype(d), parameters)
        values.append(elbo(fam, cast, jax.random.key(0), data.x, data.y, data.n))
        predictions.append(drawn_moments(fam, cast, data, data.x))
    assert values[0].dtype == predictions[0][0].dtype == jnp.float32
    np.testing.assert_allclose(values[0], values[1], rtol=2e-3)
    np.testing.assert_allclose(predictions[0][0], predictions[1][0], atol=5e-3)
    np.testing.assert_allclose(predictions[0][1], predictions[1][1], atol=5e-3)


# --- fit_vi ---------------------------------------------------------------------------------------


def fit(described, data, **options):
    options = {
        "key": jax.random.key(0),
        "steps": 40,
        "start_steps": 0,
        "samples": 2,
        "progress": False,
    } | options
    return dkp.fit_vi(described, data, optimizer=relaxed_optimizer(optax.adam(0.05)), **options)


@functools.cache
def fitted():
    return fit(model(), dataset(3), steps=150, samples=4)


def test_fit_improves_and_stays_below_the_evidence():
    posterior = fitted()
    assert (
        posterior.elbo_trace.shape == (150,)
        and posterior.skipped == 0
        and posterior.stopped == "finished"
    )
    assert posterior.elbo_trace[-50:].mean() > posterior.elbo_trace[:5].mean()
    bound, error = posterior.elbo(jax.random.key(1), n=1000)
    evidence, evidence_error = mean_and_error(np.exp(importance_weights()[0]))
    assert (
        np.log(evidence) - 1 < bound < np.log(evidence) + 4 * evidence_error / evidence + 4 * error
    )


def test_fit_is_decided_by_its_key():
    again = fit(model(), dataset(3), steps=150, samples=4)
    np.testing.assert_allclose(again.elbo_trace, fitted().elbo_trace, rtol=1e-9)


def test_draws_are_a_stack_and_differ():
    draws = fitted().sample(jax.random.key(0), 4)
    assert draws.inducing.shape == (4, 3, 2) and draws.factors[0].shape == (4, 3, 3)
    assert len(np.unique(np.asarray(draws.factors[0][:, 0, 0]))) == 4
    assert jax.tree.structure(fitted().sample(jax.random.key(1), 4)) == jax.tree.structure(draws)


def test_minibatches_and_several_outputs():
    posterior = fit(model(), dataset(8, columns=2), batch_size=3, n_inducing=4)
    assert np.all(np.isfinite(posterior.elbo_trace)) and posterior.skipped == 0
    assert not posterior.family.collapsed
    assert posterior.sample(jax.random.key(0), 2).outputs.weights.shape == (2, 4, 2)


def test_all_three_sorts_of_hyperparameters():
    """A number stays, `learn` moves, and a distribution is inferred."""
    described = dkp.DeepKernelProcess(
        layers=[
            kernels.Linear(ard=True),
            dkp.InverseWishart(delta=6.0),
            kernels.SquaredExponential(
                lengthscale=dist.LogNormal(0.0, 0.5), variance=dist.Gamma(2.0, 2.0)
            ),
        ],
        likelihood=likelihoods.Gaussian(noise=dkp.learn(0.5)),
    )
    posterior = fit(described, dataset())
    assert np.all(np.isfinite(posterior.elbo_trace)) and posterior.skipped == 0
    assert set(posterior.hyperparameters) == {"layers.0.weights", "likelihood.noise"}
    assert posterior.hyperparameters["likelihood.noise"] != 0.5
    values = posterior.sample(jax.random.key(0), 50).values
    lengthscale = values["layers.2.lengthscale"]
    assert lengthscale.shape == (50,) and len(np.unique(lengthscale)) == 50
    assert np.all(lengthscale > 0) and np.all(values["layers.2.variance"] > 0)
    assert "layers.1.delta" not in values or np.all(values["layers.1.delta"] == 6.0)


UNIT = dist.TransformedDistribution(dist.Normal(0.0, 1.0), dist.transforms.SigmoidTransform())
SQUARED = dist.TransformedDistribution(
    dist.Gamma(2.0, 2.0), dist.transforms.PowerTransform(jnp.asarray(2.0))
)


@pytest.mark.parametrize(
    "prior",
    [dist.Uniform(0.05, 0.2), dist.HalfCauchy(1.0), SQUARED, UNIT],
    ids=["interval", "infinite mean", "no mean", "no mean on an interval"],
)
def test_priors_with_bounds_or_without_a_mean(prior):
    """The guide draws within the prior's support, and starts at finite numbers."""
    data = dataset()
    described = dkp.DeepKernelProcess(
        layers=[kernels.Linear(bias=prior), dkp.InverseWishart(delta=6.0)],
        likelihood=likelihoods.Gaussian(noise=0.5),
    )
    fam = family(described, collapsed=True)
    parameters = fam.init(data, data.x)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(parameters))
    parameters = jax.tree.map(lambda a: a + 0.5, parameters)
    keys = jax.random.split(jax.random.key(0), 50)
    values = jax.jit(jax.vmap(lambda key: fam.layer_pass(parameters, key, None).values))(keys)
    assert np.all(prior.support(values["layers.0.bias"]))
    assert np.all(np.isfinite(elbos(fam, parameters, keys, data.x, data.y, data.n)))


def test_both_stages_with_the_default_optimizer():
    """The first stage leaves the second near the evidence of the network without noise."""
    described, data = model(1e6), dataset()
    with relaxed():  # the learning-rate schedules of optax promote
        posterior = dkp.fit_vi(
            described, data, key=jax.random.key(0), steps=5, start_steps=100, progress=False
        )
    assert posterior.elbo_trace.shape == (5,) and posterior.skipped == 0
    truth = exact_outputs(gp_kernel(data.x, described), data.y, jnp.asarray(NOISE**2))[0]
    np.testing.assert_allclose(
        posterior.elbo(jax.random.key(1), n=20)[0], truth, atol=0.05 * abs(truth) + 0.5
    )


def test_ctrl_c_returns_a_posterior_that_predicts(monkeypatch):
    update, calls = Progress.update, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return update(self, *args, **kwargs)

    monkeypatch.setattr(Progress, "update", interrupted)
    data = dataset(3)
    posterior = fit(model(), data, steps=100_000)
    assert posterior.stopped == "interrupted"
    assert 0 < len(posterior.elbo_trace) < 100_000
    assert np.all(
        np.isfinite(dkp.predict(posterior, X[:2], key=jax.random.key(0), n_samples=3).mean)
    )


def test_images_that_are_flattened_are_vectors():
    """Flatten() on images is x x^T / D on all their numbers: starts, bounds, predictions and prior
    draws agree."""
    images, key = RNG.normal(size=(8, 2, 2, 2)), jax.random.key(0)
    found = []
    for x, first in ((images, kernels.Flatten()), (images.reshape(8, 8), kernels.Linear())):
        described = model().replace(layers=(first, *model().layers[1:]))
        data = dkp.Dataset.from_arrays(x, Y, standardize=False)
        fam, parameters, _ = prepare(
            described, data, key=key, n_inducing=4, batch_size=None, collapse=True
        )
        assert parameters["inducing"].shape == (4, *x.shape[1:])
        bound = elbo(fam, parameters, key, data.x, data.y, 8)
        prior = dkp.prior_predictive(described, data, key=key, n_samples=2)
        found.append((bound, *drawn_moments(fam, parameters, data, data.x[:3]), prior))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8)


# --- several data sets ----------------------------------------------------------------------------


def three_sets(n=8):
    rng = np.random.default_rng(9)
    return [
        dkp.Dataset.from_arrays(rng.normal(size=(n, 2)), rng.normal(size=(n, 1))) for _ in range(3)
    ]


@pytest.mark.parametrize("options", [{}, {"batch_size": 3}], ids=["all data", "minibatches"])
def test_fits_side_by_side_are_those_one_by_one(options):
    options = {
        "steps": 12,
        "start_steps": 12,
        "samples": 2,
        "n_inducing": 4,
        "progress": False,
    } | options
    key, described, optimizer = jax.random.key(3), model(), relaxed_optimizer(optax.adam(0.01))
    with relaxed():  # the learning-rate schedules of optax promote
        together = dkp.fit_vi_many(described, three_sets(), key=key, optimizer=optimizer, **options)
        alone = dkp.fit_vi(
            described,
            three_sets()[2],
            key=jax.random.split(key, 3)[2],
            optimizer=optimizer,
            **options,
        )
    assert len(together) == 3
    np.testing.assert_allclose(together[2].elbo_trace, alone.elbo_trace, rtol=1e-6)
    prediction, other = (
        dkp.predict(p, X, key=jax.random.key(4), n_samples=5) for p in (together[2], alone)
    )
    np.testing.assert_allclose(prediction.mean, other.mean, atol=1e-5)


def test_data_sets_that_do_not_fit_together():
    sets = three_sets()
    with pytest.raises(ValueError, match="Expected data sets of one shape"):
        dkp.fit_vi_many(model(), [*sets, dataset(5)], key=jax.random.key(0))
    with pytest.raises(ValueError, match="Expected at least one data set"):
        dkp.fit_vi_many(model(), [], key=jax.random.key(0))
    repeated = dkp.Dataset.from_arrays(np.repeat(X[:4], 2, axis=0), np.repeat(Y[:4], 2, axis=0))
    with pytest.raises(ValueError, match=r"as many distinct rows as inducing points .* \[4, 6\]"):
        dkp.fit_vi_many(model(), [sets[0], repeated], key=jax.random.key(0), n_inducing=6)
