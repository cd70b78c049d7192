"""Generalised singular Wishart laws: the Wishart as a special case, autodiff's Jacobians,
importance sampling, KLs.

Statistical tests have fixed seeds; |z| < 4 on each comparison: a false-alarm rate of 6e-5 a
comparison over seeds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import transforms
from scipy import integrate, stats

from dkp.distributions import (
    Bartlett,
    GeneralisedBartlett,
    GeneralisedWishartFactor,
    WishartFactor,
    kl_divergence,
)
from dkp.distributions.generalised import ColumnProduct, RowProduct
from dkp.linalg.bartlett import trapezoid, wishart_df
from dkp.linalg.diagonals import diagonal
from tests.distributions.test_wishart import log_jacobian, scale_tril, singular_log_density

SHAPES = {"5 x 3": (5, 3), "4 x 4": (4, 4), "4 x 1": (4, 1), "6 x 2": (6, 2)}
MIXINGS = {"": (False, False), "a": (True, False), "b": (False, True), "ab": (True, True)}
CASES = [(shape, mixing) for shape in ("5 x 3", "4 x 4") for mixing in MIXINGS] + [
    ("4 x 1", "a"),
    ("6 x 2", "ab"),
]
cases = pytest.mark.parametrize(("shape", "mixing"), CASES)


def entries(p, m, seed=0, dtype=jnp.float64):
    rng = np.random.default_rng(seed)
    arrays = (
        2 + 3 * rng.random(m),
        0.4 + 0.4 * rng.random(m),
        0.6 * rng.normal(size=(p, m)),
        0.7 + 0.5 * rng.random((p, m)),
    )
    return GeneralisedBartlett(*(jnp.asarray(a, dtype) for a in arrays))


def law(shape, mixing, dense=True, dtype=jnp.float64):
    """With dense A, or without any where A is multiplied into the scale."""
    p, m = SHAPES[shape]
    rows, columns = MIXINGS[mixing]
    rng = np.random.default_rng(p)
    a = jnp.asarray(np.eye(p) + 0.3 * rng.normal(size=(p, p)), dtype)
    b = jnp.asarray(
        np.tril(0.3 * rng.normal(size=(m, m)), -1) + np.diag(0.8 + rng.random(m)), dtype
    )
    scale = scale_tril(p, dtype)
    if rows and not dense:
        scale = scale @ (jnp.tril(a, -1) + jnp.diag(jnp.abs(diagonal(a))))
    return GeneralisedWishartFactor(
        scale,
        entries(p, m, dtype=dtype),
        columns=b if columns else None,
        rows=a if rows and dense else None,
    )


def wishart_entries(p, m, df):
    degrees = wishart_df(jnp.asarray(float(df)), m)
    return GeneralisedBartlett(degrees / 2, jnp.full(m, 0.5), jnp.zeros((p, m)), jnp.ones((p, m)))


@jax.jit
def log_density(q, value):
    return q.log_prob(value)


@functools.partial(jax.jit, static_argnames="n")
def draws(q, key, n):
    return jax.vmap(q.sample)(jax.random.split(key, n))


# --- densities ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "df"), [(4, 2), (4, 3), (4, 4), (4, 9.3), (1, 2.5)])
@pytest.mark.rows(2)
def test_the_wishart_is_a_special_case(p, df):
    prior = WishartFactor(df, scale_tril(p))
    q = GeneralisedWishartFactor(scale_tril(p), wishart_entries(p, prior.event_shape[1], df))
    s = draws(prior, jax.random.key(0), 3)
    np.testing.assert_allclose(log_density(q, s), log_density(prior, s), rtol=1e-13, atol=1e-13)
    assert q.event_shape == prior.event_shape and q.support == prior.support


def test_the_density_of_the_matrix_is_scipys():
    q = GeneralisedWishartFactor(scale_tril(3), wishart_entries(3, 3, 5.5))
    s = draws(q, jax.random.key(1), 1)[0]
    g, sigma = np.asarray(s @ s.T), np.asarray(q.scale_tril @ q.scale_tril.T)
    truth = stats.wishart(5.5, sigma).logpdf(g) + log_jacobian(lambda t: t @ t.T, s)
    np.testing.assert_allclose(log_density(q, s), truth, rtol=1e-10)


def test_the_density_of_a_singular_matrix():
    q = GeneralisedWishartFactor(scale_tril(5), wishart_entries(5, 2, 2))
    s = draws(q, jax.random.key(1), 1)[0]
    sigma = np.asarray(q.scale_tril @ q.scale_tril.T)
    truth = singular_log_density(np.asarray(s @ s.T), sigma, 2) + log_jacobian(lambda t: t @ t.T, s)
    np.testing.assert_allclose(log_density(q, s), truth, rtol=1e-10)


@cases
@pytest.mark.rows(2)
def test_density_is_that_of_the_entries_by_the_jacobian_of_autodiff(shape, mixing):
    """log q(S) = log q(T) - log|dS/dT|, with S = trapezoid(L A T B) as one function."""
    q = law(shape, mixing)
    t = draws(q.base_dist, jax.random.key(2), 1)[0]

    def factor(t):
        mixed = t if q.columns is None else t @ q.columns
        return q.scale_tril @ (mixed if q.rows is None else trapezoid(q.rows @ mixed))

    truth = log_density(q.base_dist, t) - log_jacobian(factor, t)
    np.testing.assert_allclose(log_density(q, factor(t)), truth, rtol=1e-10, atol=1e-10)


@cases
def test_density_of_entries_is_a_product_of_scipys(shape, mixing):
    base = law(shape, mixing).base_dist
    t = np.asarray(draws(base, jax.random.key(3), 1)[0])
    on, (p, m) = np.diagonal(t), base.event_shape
    squares = stats.gamma(base.concentration, scale=1 / np.asarray(base.rate)).logpdf(
        on**2
    ) + np.log(2 * on)
    i, j = np.tril_indices(p, -1, m)
    below = stats.norm(np.asarray(base.loc)[i, j], np.asarray(base.scale)[i, j]).logpdf(t[i, j])
    np.testing.assert_allclose(log_density(base, t), squares.sum() + below.sum(), rtol=1e-12)


@pytest.mark.parametrize(
    ("shape", "mixing"), [("5 x 3", ""), ("4 x 4", "a"), ("4 x 1", "a"), ("5 x 3", "ab")]
)
@pytest.mark.rows(2)
def test_density_is_normalised(shape, mixing):
    """E_q[p / q] = 1 for a narrow p: importance sampling from the law."""
    q = law(shape, mixing)
    base = q.base_dist
    narrow = GeneralisedBartlett(2 * base.concentration, 2 * base.rate, base.loc, 0.8 * base.scale)
    p = GeneralisedWishartFactor(q.scale_tril, narrow, q.columns, q.rows)
    s = draws(q, jax.random.key(4), 20_000)
    weights = np.asarray(jax.vmap(lambda x: jnp.exp(p.log_prob(x) - q.log_prob(x)))(s))
    assert abs(weights.mean() - 1) < 4 * weights.std() / np.sqrt(len(weights))
    assert weights.std() / np.sqrt(len(weights)) < 0.05


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.rows(1)
def test_normalised_against_the_wishart(dense):
    """E_q[p / q] = 1 for a Wishart p and a wider q with rows and columns mixed: laws of two sorts
    on one support."""
    p, m = 5, 3
    rng = np.random.default_rng(1)
    degrees = wishart_df(jnp.asarray(float(m)), m)
    loc, scale = jnp.asarray(0.1 * rng.normal(size=(p, m))), jnp.full((p, m), 1.3)
    wide = GeneralisedBartlett(0.45 * degrees, jnp.full(m, 0.25), loc, scale)
    a = jnp.asarray(np.eye(p) + 0.08 * rng.normal(size=(p, p)))
    b = jnp.asarray(np.eye(m) + np.tril(0.1 * rng.normal(size=(m, m))))
    tril = scale_tril(p) if dense else scale_tril(p) @ jnp.tril(a)
    q = GeneralisedWishartFactor(tril, wide, columns=b, rows=a if dense else None)
    narrow = WishartFactor(m, 0.9 * scale_tril(p))
    s = draws(q, jax.random.key(5), 50_000)
    weights = np.exp(np.asarray(jax.vmap(lambda x: narrow.log_prob(x) - q.log_prob(x))(s)))
    error = weights.std() / np.sqrt(len(weights))
    assert error < 0.05 and abs(weights.mean() - 1) < 4 * error


# --- transforms -----------------------------------------------------------------------------------


def apply(transform, t):
    """A transform is no key of a cache; a partial function of it is one, by its identity."""
    return transform(t)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["columns", "rows"])
@pytest.mark.rows(2)
def test_transforms_are_bijections_with_autodiffs_jacobian(shape, kind):
    q = law(shape, "ab")
    transform = (
        ColumnProduct(q.columns, SHAPES[shape][0])
        if kind == "columns"
        else RowProduct(q.rows, SHAPES[shape][1])
    )
    t = draws(q.base_dist, jax.random.key(6), 1)[0]
    moved = transform(t)
    assert transform.codomain(moved) and transform.domain(t)
    np.testing.assert_allclose(transform.inv(moved), t, atol=1e-11)
    truth = log_jacobian(functools.partial(apply, transform), t)
    np.testing.assert_allclose(
        transform.log_abs_det_jacobian(t, moved), truth, rtol=1e-10, atol=1e-10
    )
    leaves, structure = jax.tree.flatten(transform)
    again = jax.tree.unflatten(structure, leaves)
    assert isinstance(again, transforms.Transform) and again == transform


def test_rows_give_the_matrix_that_they_say():
    q = law("5 x 3", "a")
    t = draws(q.base_dist, jax.random.key(7), 1)[0]
    moved = RowProduct(q.rows, 3)(t)
    np.testing.assert_allclose(moved @ moved.T, q.rows @ t @ t.T @ q.rows.T, rtol=1e-10, atol=1e-12)


# --- sampling -------------------------------------------------------------------------------------


def test_entries_follow_their_laws():
    base = entries(4, 3)
    samples = np.asarray(draws(base, jax.random.key(8), 20_000))
    for j in range(3):
        truth = stats.gamma(float(base.concentration[j]), scale=1 / float(base.rate[j]))
        assert stats.kstest(samples[:, j, j] ** 2, truth.cdf).pvalue > 1e-4
    for i, j in zip(*np.tril_indices(4, -1, 3), strict=True):
        truth = stats.norm(float(base.loc[i, j]), float(base.scale[i, j]))
        assert stats.kstest(samples[:, i, j], truth.cdf).pvalue > 1e-4
    mean, variance, mean_log = base.moments
    z = (
        (samples.mean(0) - mean)
        / np.where(np.tril(np.ones((4, 3))) > 0, samples.std(0), 1)
        * np.sqrt(len(samples))
    )
    assert np.max(np.abs(z)) < 4.5
    np.testing.assert_allclose(samples.var(0), variance, rtol=0.06)
    on = 2 * np.log(np.diagonal(samples, axis1=1, axis2=2))
    assert np.max(np.abs((on.mean(0) - mean_log) / on.std(0) * np.sqrt(len(on)))) < 4.5


@pytest.mark.parametrize("shape", [(), (2, 3)], ids=str)
@pytest.mark.rows(1)
def test_draws_have_the_asked_shapes_and_lie_in_the_support(shape):
    q = law("5 x 3", "ab")
    s = q.sample(jax.random.key(9), shape)
    assert s.shape == (*shape, 5, 3) and np.all(q.support(s))
    assert q.log_prob(s).shape == shape


# --- divergences ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "mixing"), CASES)
@pytest.mark.parametrize("extra", [0, 3])
@pytest.mark.rows(4)
def test_divergence_is_its_monte_carlo_estimate(shape, mixing, extra):
    p, m = SHAPES[shape]
    if extra and m < p:
        pytest.skip("a rank below the size has one degree of freedom for each column")
    q, prior = (
        law(shape, mixing, dense=False),
        WishartFactor(m + extra, 0.8 * scale_tril(p + 1)[:p, :p]),
    )
    s = draws(q, jax.random.key(10), 20_000)
    samples = np.asarray(jax.vmap(lambda x: q.log_prob(x) - prior.log_prob(x))(s))
    kl = float(kl_divergence(q, prior))
    assert kl > 0
    assert abs(samples.mean() - kl) < 4 * samples.std(ddof=1) / np.sqrt(len(samples))


@pytest.mark.parametrize(("p", "df"), [(4, 2), (4, 4), (4, 9.3), (1, 2.5)])
@pytest.mark.rows(2)
def test_divergence_is_zero_where_the_laws_agree(p, df):
    prior = WishartFactor(df, scale_tril(p))
    q = GeneralisedWishartFactor(scale_tril(p), wishart_entries(p, prior.event_shape[1], df))
    for divergence in (kl_divergence(q, prior), kl_divergence(prior, prior)):
        assert abs(float(divergence)) < 1e-12
    unit = GeneralisedWishartFactor(jnp.eye(p), q.base_dist)
    assert abs(float(kl_divergence(unit, prior.base_dist))) < 1e-13


@pytest.mark.parametrize(("df_q", "df_p"), [(6.5, 9.0), (9.0, 6.5)])
def test_divergence_of_wisharts_is_the_formula(df_q, df_p):
    """With log-determinants, traces and multivariate gamma functions of whole matrices, by SciPy
    (Penny 2001)."""
    from scipy.special import multigammaln, psi

    p = 3
    tril_q, tril_p = scale_tril(p), scale_tril(p + 1)[:p, :p]
    sigma_q, sigma_p = (np.asarray(t @ t.T) for t in (tril_q, tril_p))
    log_ratio = np.linalg.slogdet(sigma_p)[1] - np.linalg.slogdet(sigma_q)[1]
    trace = np.trace(np.linalg.solve(sigma_p, sigma_q)) - p
    digamma = psi(df_q / 2 - np.arange(p) / 2).sum()
    gammas = multigammaln(df_p / 2, p) - multigammaln(df_q / 2, p) + (df_q - df_p) / 2 * digamma
    truth = df_p / 2 * log_ratio + df_q / 2 * trace + gammas
    value = kl_divergence(WishartFactor(df_q, tril_q), WishartFactor(df_p, tril_p))
    np.testing.assert_allclose(value, truth, rtol=1e-11)


@pytest.mark.slow
def test_divergence_of_one_number_by_quadrature():
    q = GeneralisedWishartFactor(jnp.array([[1.3]]), entries(1, 1), columns=jnp.array([[0.7]]))
    prior = WishartFactor(4.5, jnp.array([[0.9]]))

    def integrand(log_s):
        s = jnp.exp(jnp.asarray(log_s))[None, None]
        density = q.log_prob(s)
        return float(jnp.exp(density + log_s) * (density - prior.log_prob(s)))

    truth = integrate.quad(integrand, -12, 6, limit=200)[0]
    np.testing.assert_allclose(kl_divergence(q, prior), truth, rtol=1e-7)


def test_dense_rows_have_no_closed_form():
    with pytest.raises(NotImplementedError):
        kl_divergence(law("5 x 3", "a"), WishartFactor(3, scale_tril(5)))


def test_wisharts_of_different_rank_have_no_divergence():
    with pytest.raises(ValueError, match="Expected factors of one shape"):
        kl_divergence(WishartFactor(2, scale_tril(4)), WishartFactor(3, scale_tril(4)))


def test_divergence_has_the_gradient_of_finite_differences():
    q, prior = law("5 x 3", "ab", dense=False), Bartlett(wishart_df(jnp.asarray(3.0), 3), 5)
    direction = jax.tree.map(
        lambda a: jnp.asarray(np.random.default_rng(0).normal(size=a.shape)), q
    )

    @jax.jit
    @jax.value_and_grad
    def along(t):
        return kl_divergence(
            jax.tree.map(lambda a, d: a + t * jnp.tril(d) if a.ndim == 2 else a, q, direction),
            prior,
        )

    h = 1e-6
    np.testing.assert_allclose(along(0.0)[1], (along(h)[0] - along(-h)[0]) / (2 * h), rtol=1e-6)


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.rows(1)
def test_float32(dense):
    q, low = (law("5 x 3", "ab", dense=dense, dtype=d) for d in (jnp.float64, jnp.float32))
    s = draws(q, jax.random.key(11), 1)[0]
    value = log_density(low, s.astype(jnp.float32))
    assert value.dtype == jnp.float32 and draws(low, jax.random.key(11), 1).dtype == jnp.float32
    np.testing.assert_allclose(value, log_density(q, s), rtol=1e-4)
    if not dense:
        priors = [WishartFactor(3, scale_tril(5, d)) for d in (jnp.float64, jnp.float32)]
        np.testing.assert_allclose(
            kl_divergence(low, priors[1]), kl_divergence(q, priors[0]), rtol=1e-4
        )


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["concentration", "rate", "scale"])
def test_parameters_that_underflow(name):
    good = {n: getattr(entries(3, 2), n) for n in ("concentration", "rate", "loc", "scale")}
    bad = good | {name: jnp.exp(jnp.full_like(good[name], -1e4))}
    with pytest.raises(
        ValueError, match=f"Expected a positive {name}. Got a smallest value of 0.0.*underflow"
    ):
        GeneralisedBartlett(**bad)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="Expected at most as many columns as rows, 2"):
        GeneralisedBartlett(jnp.ones(3), jnp.ones(3), jnp.zeros((2, 3)), jnp.ones((2, 3)))
