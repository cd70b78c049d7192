"""What every guide obeys: a new bottleneck's guide is one more row of this table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import dkp
from dkp.bottlenecks.base import Bottleneck
from dkp.distributions import kl_divergence
from dkp.guides import (
    GUIDES,
    BottleneckGuide,
    FeatureGuide,
    HyperparameterGuide,
    InverseWishartGuide,
    OutputGuide,
    WishartGuide,
    choose_guides,
)
from dkp.guides.initial import principal_root
from dkp.linalg.cholesky import cholesky
from dkp.model.hyperparameters import Hyperparameter
from dkp.model.outputs import whitened_posterior

P = 4
SUM = WishartGuide(mixing="sum")
DENSE = WishartGuide(rows="dense", columns=True)
WISHARTS = [
    (GUIDES[name], dkp.Wishart(width=width))
    for name, width in [
        ("standard", 2),
        ("a", 2),
        ("b", 2),
        ("ab", 2),
        ("ab", 1),
        ("ab", 4),
        ("ab", 7),
        ("ab", 6.5),
    ]
]
CLOSED = [
    (InverseWishartGuide(), dkp.InverseWishart(delta=4.5)),
    (InverseWishartGuide(), dkp.InverseWishart(delta=200.0)),
    *WISHARTS,
    (SUM, dkp.Wishart(width=2)),
    (FeatureGuide(), dkp.Wishart(width=2)),
    (FeatureGuide(), dkp.Wishart(width=6)),
]


def label(value):
    return repr(value) if isinstance(value, Bottleneck) else value.name


def table(rows):
    return pytest.mark.parametrize(("guide", "layer"), rows, ids=label)


POINTS = np.random.default_rng(3).normal(size=(P, 2))
KERNEL = np.exp(-np.sum((POINTS[:, None] - POINTS[None]) ** 2, axis=-1) / 8)


def kernel(dtype=jnp.float64):
    return jnp.asarray(KERNEL, dtype)


@functools.partial(jax.jit, static_argnums=(0, 2))
def start(guide, layer, dtype=jnp.float64):
    return guide.init(layer, kernel(dtype))


def perturbed(parameters, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda a: a + jnp.asarray(0.4 * rng.normal(size=a.shape), a.dtype), parameters
    )


def neutral(guide, parameters):
    """The parameters that make a guide the prior."""
    if isinstance(guide, InverseWishartGuide):
        return perturbed(parameters) | {"log_gamma": jnp.asarray(-60.0)}
    zero = jax.tree.map(jnp.zeros_like, parameters)
    if "logit" in zero:
        zero |= {"logit": jnp.asarray(-60.0), "mixed": perturbed(parameters)["mixed"]}
    return zero | ({"rows": jnp.eye(P)} if guide == DENSE else {})


@functools.partial(jax.jit, static_argnums=0)
def divergence(guide, layer, parameters):
    k = kernel(jax.tree.leaves(parameters)[0].dtype)
    law = guide.posterior(layer, parameters, k, cholesky(k))
    return kl_divergence(law.q, law.p)


@functools.partial(jax.jit, static_argnums=0)
def log_ratio(guide, layer, parameters, keys):
    """log q - log p at draws, and the draws of L^-1 S."""
    law = guide.posterior(layer, parameters, kernel(), cholesky(kernel()))

    def one(key):
        draw = law.q.sample(key)
        return law.q.log_prob(draw) - law.p.log_prob(draw), law.unit * draw

    return jax.vmap(one)(keys)


@table([*CLOSED, (DENSE, dkp.Wishart(width=2))])
@pytest.mark.rows(4)
def test_keeps_the_protocol(guide, layer):
    assert isinstance(guide, BottleneckGuide) and guide.fits(layer)
    parameters = start(guide, layer)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(parameters))
    # a model is compiled once for guides that are equal
    assert hash(guide) == hash(type(guide)(**vars(guide)))


@table(CLOSED)
@pytest.mark.rows(2)
def test_divergence_is_its_monte_carlo_estimate(guide, layer):
    """|z| < 4 on each row: a false-alarm rate of 6e-5 a row over seeds."""
    parameters = perturbed(start(guide, layer))
    samples = np.asarray(
        log_ratio(guide, layer, parameters, jax.random.split(jax.random.key(1), 10_000))[0]
    )
    kl = float(divergence(guide, layer, parameters))
    assert kl > 0
    assert abs(samples.mean() - kl) < 4 * samples.std(ddof=1) / np.sqrt(len(samples))


@table([*CLOSED, (DENSE, dkp.Wishart(width=2))])
@pytest.mark.rows(2)
def test_neutral_parameters_give_the_prior(guide, layer):
    parameters = neutral(guide, start(guide, layer))
    if guide != DENSE:
        tolerance = 1e-7 if isinstance(guide, InverseWishartGuide) else 1e-12
        np.testing.assert_allclose(divergence(guide, layer, parameters), 0, atol=tolerance)
    ratio, _ = log_ratio(guide, layer, parameters, jax.random.split(jax.random.key(0), 1_000))
    np.testing.assert_allclose(ratio, 0, atol=1e-6)


@table([*CLOSED, (DENSE, dkp.Wishart(width=2))])
@pytest.mark.rows(2)
def test_the_prior_in_these_coordinates_is_the_prior_of_the_layer(guide, layer):
    """Trace and leading entry of L^-1 G L^-T at the neutral parameters against draws of the layer's
    own prior, by a Kolmogorov-Smirnov test: p > 1e-4 on two numbers a row."""
    parameters, keys = (
        neutral(guide, start(guide, layer)),
        jax.random.split(jax.random.key(2), 4_000),
    )
    _, whitened = log_ratio(guide, layer, parameters, keys)
    prior = layer.whitened_prior(P, jnp.float64)
    truth = jax.jit(jax.vmap(prior.sample))(jax.random.split(jax.random.key(3), 4_000))
    for statistic in (lambda s: np.sum(s**2, axis=(1, 2)), lambda s: np.sum(s[:, 0] ** 2, axis=1)):
        assert (
            stats.ks_2samp(statistic(np.asarray(whitened)), statistic(np.asarray(truth))).pvalue
            > 1e-4
        )


@table([row for row in CLOSED if isinstance(row[0], InverseWishartGuide)])
def test_starts_centred_on_the_deterministic_network(guide, layer):
    """The mean of T T^T under the guide is the identity. |z| < 4.5 over 10 numbers: a false-alarm
    rate of 1e-4."""
    _, t = log_ratio(guide, layer, start(guide, layer), jax.random.split(jax.random.key(0), 10_000))
    g = t @ t.transpose(0, 2, 1)
    z = (g.mean(0) - np.eye(P)) / (g.std(0) / np.sqrt(len(g)))
    assert np.max(np.abs(z)) < 4.5
    centre = guide.centre(layer, start(guide, layer), kernel(), cholesky(kernel()))
    np.testing.assert_allclose(centre @ centre.T, np.eye(P), atol=1e-9)
    assert guide.starts_at_kernel


@table([row for row in CLOSED if not isinstance(row[0], InverseWishartGuide)])
@pytest.mark.rows(2)
def test_starts_near_the_principal_components_of_the_kernel(guide, layer):
    columns = P if layer.integer is None else min(layer.integer, P)
    root = principal_root(kernel(), columns)
    scale = cholesky(kernel())
    centre = scale.tril @ guide.centre(layer, start(guide, layer), kernel(), scale)
    ours, truth = centre @ centre.T, root @ root.T
    assert jnp.sum(ours * truth) > 0.9 * jnp.linalg.norm(ours) * jnp.linalg.norm(truth)
    assert 0.3 < jnp.trace(ours) / jnp.trace(truth) < 3 and not guide.starts_at_kernel


@table(CLOSED)
@pytest.mark.rows(3)
def test_gradients_of_the_divergence(guide, layer):
    """Against finite differences along a random direction, in the parameters."""
    resolved = jax.tree.map(jnp.asarray, layer)
    parameters = perturbed(start(guide, layer))
    direction = perturbed(jax.tree.map(jnp.zeros_like, parameters), 3)

    @jax.jit
    @jax.value_and_grad
    def along(t):
        moved = jax.tree.map(lambda a, d: a + t * d, parameters, direction)
        return divergence(guide, resolved, moved)

    h = 1e-5
    np.testing.assert_allclose(along(0.0)[1], (along(h)[0] - along(-h)[0]) / (2 * h), rtol=1e-5)


@table(CLOSED)
@pytest.mark.rows(3)
def test_float32_is_close_to_float64(guide, layer):
    parameters = perturbed(start(guide, layer))
    low = jax.tree.map(lambda a: a.astype(jnp.float32), parameters)
    value = divergence(guide, layer, low)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, divergence(guide, layer, parameters), rtol=2e-3)


# --- what the scale is ----------------------------------------------------------------------------


def scale_of(guide, width, parameters):
    """R R^T of a Wishart guide."""
    law = guide.posterior(dkp.Wishart(width=width), parameters, kernel(), cholesky(kernel()))
    r = law.unit * cholesky(kernel()).tril @ law.q.scale_tril
    return np.asarray(r @ r.T)


def test_precisions_add():
    guide = GUIDES["standard"]
    parameters = perturbed(start(guide, dkp.Wishart(width=2)))
    lam = np.exp(parameters["log_precision"]) * np.tril(parameters["precision"])
    truth = np.linalg.inv(2 * np.linalg.inv(kernel()) + lam @ lam.T)
    np.testing.assert_allclose(scale_of(guide, 2, parameters), truth, rtol=1e-6, atol=1e-9)


def test_the_published_mixture_of_scales():
    parameters = perturbed(start(SUM, dkp.Wishart(width=2)))
    q, v = 1 / (1 + np.exp(-parameters["logit"])), np.asarray(parameters["mixed"])
    np.testing.assert_allclose(
        scale_of(SUM, 2, parameters), (1 - q) * kernel() / 2 + q * v @ v.T, rtol=1e-6, atol=1e-9
    )


def test_features_are_a_gaussian_process_given_pseudo_observations():
    guide, layer = FeatureGuide(), dkp.Wishart(width=3)
    parameters = perturbed(start(guide, layer))
    lam, k = (
        np.exp(parameters["log_precision"]) * np.tril(parameters["precision"]),
        np.asarray(kernel()) / 3,
    )
    precision = lam @ lam.T
    v = np.linalg.solve(lam.T, parameters["target"])
    gain = k @ np.linalg.inv(k + np.linalg.inv(precision))
    scale = cholesky(kernel())
    law = guide.posterior(layer, parameters, kernel(), scale)
    root = np.asarray(law.unit * scale.tril @ law.q.scale_tril)
    np.testing.assert_allclose(law.unit * scale.tril @ law.q.loc, gain @ v, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(root @ root.T, k - gain @ k, rtol=1e-6, atol=1e-9)


def test_columns_and_rows_are_mixed():
    """The mean of S is R A E[T] B."""
    guide, layer = GUIDES["ab"], dkp.Wishart(width=2)
    parameters = perturbed(start(guide, layer))
    scale = cholesky(kernel())
    plain = {name: a for name, a in parameters.items() if name not in ("rows", "columns")}
    standard = GUIDES["standard"].posterior(layer, plain, kernel(), scale)

    def tril(raw):
        return np.tril(raw, -1) + np.diag(np.exp(np.diag(raw)))

    truth = standard.q.scale_tril @ tril(parameters["rows"]) @ standard.q.base_dist.moments[0]
    truth = standard.unit * truth @ tril(parameters["columns"])
    np.testing.assert_allclose(guide.centre(layer, parameters, kernel(), scale), truth, rtol=1e-10)


@pytest.mark.parametrize("columns", [1, 2, P])
def test_principal_components_are_the_nearest_matrix_of_their_rank(columns):
    """Eckart & Young: the error is the sum of the squares of the other eigenvalues."""
    k = np.asarray(kernel())
    centred = k if columns == P else k - k.mean(0)[None] - k.mean(1)[:, None] + k.mean()
    s = np.asarray(principal_root(kernel(), columns))
    rest = np.linalg.eigvalsh(centred)[::-1][columns:]
    np.testing.assert_allclose(np.linalg.norm(centred - s @ s.T), np.linalg.norm(rest), atol=1e-3)
    assert np.linalg.matrix_rank(s) == columns


# --- the choice -----------------------------------------------------------------------------------

W, IW = dkp.Wishart(width=2), dkp.InverseWishart()


@pytest.mark.parametrize(
    ("layers", "choice", "names"),
    [
        ([W, IW], "auto", ["ab", "inverse-wishart"]),
        ([IW, W], "standard", ["inverse-wishart", "standard"]),
        ([W, W], ["a", "b"], ["a", "b"]),
        ([W, IW], ["features", "auto"], ["features", "inverse-wishart"]),
        ([W], WishartGuide(mixing="sum"), ["standard-sum"]),
        ([W], DENSE, ["ab-dense"]),
        ([], "ab", []),
    ],
)
def test_choices(layers, choice, names):
    assert [guide.name for guide in choose_guides(layers, choice)] == names


@pytest.mark.parametrize(
    ("layers", "choice", "message"),
    [
        (
            [W],
            "abc",
            "Expected guide to be one of auto, ab, a, b, standard, features, inverse-wishart",
        ),
        (
            [IW],
            "ab",
            "Expected a guide for InverseWishart.*such as inverse-wishart. Got 'ab', which does "
            "not fit",
        ),
        ([W], "inverse-wishart", "such as ab, a, b, standard, features. Got 'inverse-wishart'"),
        ([W, IW], ["ab", "ab"], "Expected a guide for InverseWishart"),
        ([W, IW], ["ab"], "Expected one guide for each of 2 bottlenecks. Got 1"),
        ([dkp.Wishart(width=8.5)], "features", "such as ab, a, b, standard. Got 'features'"),
    ],
)
def test_choices_that_do_not_fit(layers, choice, message):
    with pytest.raises(ValueError, match=message):
        choose_guides(layers, choice)


def test_an_unknown_bottleneck():
    class Unknown(Bottleneck):
        prior = whiten = draw_data = mean_data = lambda self, *_: None

    with pytest.raises(
        ValueError, match="Expected a bottleneck with a variational guide. Got Unknown"
    ):
        choose_guides([Unknown()])


@pytest.mark.parametrize("options", [{"rows": "full"}, {"mixing": "product"}])
def test_guides_that_do_not_exist(options):
    with pytest.raises(ValueError, match=f"Expected {next(iter(options))} to be"):
        WishartGuide(**options)


# --- outputs and hyperparameters ------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
def test_outputs_start_at_their_prior(shared):
    start = OutputGuide().init(P, 2, np.dtype("float64"), shared=shared)
    assert start["linear"].shape == (P, 2) and start["precision"].shape == (
        (P, P) if shared else (2, P, P)
    )
    _, kl, jitter = whitened_posterior(
        cholesky(jnp.eye(P) + 0.5), start["linear"], start["precision"]
    )
    assert kl == 0 and jitter < 1e-8


PRIORS = {
    "log-normal": (dist.LogNormal(0.3, 0.5), "positive"),
    "gamma": (dist.Gamma(2.0, 1.0), "positive"),
    "half-Cauchy": (dist.HalfCauchy(1.0), "positive"),  # its mean is infinite
    "interval": (dist.Uniform(0.5, 2.0), "positive"),
    "normal": (dist.Normal(1.0, 2.0), "real"),
}


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("shape", [(), (2,)])
@pytest.mark.rows(3)
def test_hyperparameter_guide_lives_in_the_support_of_its_prior(name, shape):
    prior, domain = PRIORS[name]
    h = Hyperparameter("h", prior, domain, "kernel", shape, dkp.kernels.ArcCosine(1))
    guide = HyperparameterGuide()
    parameters = guide.init(h, np.dtype("float64"))
    parameters = parameters | {"log_scale": jnp.ones(shape)}
    law = guide.law(h, parameters)
    assert law.event_shape == shape and law.batch_shape == ()
    draws = jax.vmap(law.sample)(jax.random.split(jax.random.key(0), 500))
    assert draws.shape == (500, *shape) and np.all(np.isfinite(draws))
    assert np.all(prior.support(draws))
    assert np.all(np.isfinite(jax.vmap(law.log_prob)(draws)))
