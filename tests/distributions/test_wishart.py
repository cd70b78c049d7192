"""The Wishart laws on their factors: scipy's densities, autodiff's Jacobians, sampling laws, and
NumPyro's interface.

Every law is a row of one table; tests take the law as an argument of one jitted function.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.reparam import TransformReparam
from numpyro.infer.util import log_density as model_log_density
from scipy import special, stats

from dkp.distributions import Bartlett, InverseWishartFactor, WishartFactor
from dkp.distributions.wishart import LowerProduct, TriangularInverse
from tests.support import relaxed

# law, size, degrees of freedom
FULL = {
    "IW(1 x 1, 3.5)": (InverseWishartFactor, 1, 3.5),
    "IW(2 x 2, 1.5)": (InverseWishartFactor, 2, 1.5),
    "IW(4 x 4, 9.3)": (InverseWishartFactor, 4, 9.3),
    "W(1 x 1, 3.5)": (WishartFactor, 1, 3.5),
    "W(2 x 2, 1.5)": (WishartFactor, 2, 1.5),
    "W(3 x 3, 3)": (WishartFactor, 3, 3),
    "W(4 x 4, 9.3)": (WishartFactor, 4, 9.3),
}
SINGULAR = {
    "W(2 x 2, 1)": (WishartFactor, 2, 1),
    "W(4 x 4, 3)": (WishartFactor, 4, 3),
    "W(5 x 5, 2)": (WishartFactor, 5, 2),
}
LAWS = FULL | SINGULAR
FEW = ["IW(4 x 4, 9.3)", "W(4 x 4, 9.3)", "W(5 x 5, 2)"]
SCIPY = {InverseWishartFactor: stats.invwishart, WishartFactor: stats.wishart}

few_laws = pytest.mark.parametrize("name", FEW)


def scale_tril(size, dtype=jnp.float64):
    a = np.random.default_rng(size).normal(size=(size, size + 2))
    return jnp.asarray(np.linalg.cholesky(a @ a.T / size), dtype)


def make(name, dtype=jnp.float64):
    law, size, df = LAWS[name]
    return law(df, scale_tril(size, dtype))


@jax.jit
def log_density(law, value):
    return law.log_prob(value)


@functools.partial(jax.jit, static_argnames="shape")
def draw(law, key, shape=()):
    return law.sample(key, shape)


def packed(function, rows, columns):
    """A map of lower-trapezoidal matrices as a map of vectors, for Jacobians: what it gives is read
    on the same entries, those on and below the diagonal in the first columns."""
    index = np.tril_indices(rows, 0, columns)

    def of_vector(v):
        return function(jnp.zeros((rows, columns), v.dtype).at[index].set(v))[index]

    return of_vector


@functools.partial(jax.jit, static_argnums=0)
def jacobian(function, matrix):
    rows, columns = matrix.shape
    return jax.jacfwd(packed(function, rows, columns))(matrix[np.tril_indices(rows, 0, columns)])


def log_jacobian(function, matrix):
    return np.linalg.slogdet(jacobian(function, matrix))[1]


def gram(s):
    return s @ s.T


def scale_matrix(law):
    return np.asarray(gram(law.scale_tril))


def singular_log_density(g, sigma, df):
    """Of W(sigma, df) for an integer df of at most p, on the entries on and below the diagonal in
    df columns (Uhlig 1994)."""
    p, log_det = len(g), np.linalg.slogdet
    constant = (
        df * (df - p) / 2 * np.log(np.pi)
        - df * p / 2 * np.log(2)
        - special.multigammaln(df / 2, df)
    )
    leading = (df - p - 1) / 2 * log_det(g[:df, :df])[1]
    return constant - df / 2 * log_det(sigma)[1] + leading - np.trace(np.linalg.solve(sigma, g)) / 2


# --- densities ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FULL)
@pytest.mark.rows(3)
def test_density_is_scipys_times_the_jacobian(name):
    law, (kind, _, df) = make(name), LAWS[name]
    s = draw(law, jax.random.key(3))
    truth = SCIPY[kind](df, scale_matrix(law)).logpdf(np.asarray(gram(s)))
    np.testing.assert_allclose(log_density(law, s), truth + log_jacobian(gram, s), rtol=1e-9)


@pytest.mark.parametrize("name", [*SINGULAR, "W(3 x 3, 3)"])
def test_singular_density_is_the_formula_times_the_jacobian(name):
    law, (_, _, df) = make(name), LAWS[name]
    s = draw(law, jax.random.key(3))
    truth = singular_log_density(np.asarray(gram(s)), scale_matrix(law), df)
    np.testing.assert_allclose(
        log_density(law, s), truth + log_jacobian(gram, s), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("name", SINGULAR)
def test_jacobian_of_the_product_of_a_trapezoid(name):
    """|d(T T^T)/dT| = 2^m prod_{j <= m} T_jj^(p - j + 1), which the two tests above take from
    autodiff."""
    _, size, df = LAWS[name]
    t = scale_tril(size)[:, :df]
    truth = df * np.log(2) + np.sum(np.arange(size, size - df, -1) * np.log(np.diagonal(t)))
    np.testing.assert_allclose(log_jacobian(gram, t), truth, rtol=1e-12)


@pytest.mark.parametrize("name", FULL)
def test_whitened_density_is_the_density_at_unit_scale(name):
    kind, size, df = LAWS[name]
    base = make(name).base_dist
    assert isinstance(base, Bartlett)
    a = draw(base, jax.random.key(4))

    def product(a):
        return gram(jnp.linalg.inv(a)) if kind is InverseWishartFactor else gram(a)

    truth = SCIPY[kind](df, np.eye(size)).logpdf(np.asarray(product(a))) + log_jacobian(product, a)
    np.testing.assert_allclose(log_density(base, a), truth, rtol=1e-9)


@pytest.mark.parametrize("name", [*SINGULAR, "W(3 x 3, 3)", "IW(1 x 1, 3.5)"])
def test_density_integrates_to_one(name):
    """Importance sampling from L T with Student's t in every entry of T, whose tails are heavier:
    |z| < 4 on each of five laws, a false-alarm rate of 3e-4 over seeds."""
    law, size = make(name), LAWS[name][1]
    rng, n, student = np.random.default_rng(7), 20_000, stats.t(3.0, scale=1.3)
    i, j = np.tril_indices(size, 0, law.event_shape[1])
    t = student.rvs(size=(n, len(i)), random_state=rng)
    t = np.where(i == j, np.abs(t), t)
    tril, matrices = np.asarray(law.scale_tril), np.zeros((n, *law.event_shape))
    matrices[:, i, j] = t
    proposal = np.sum(
        student.logpdf(t) + np.where(i == j, np.log(2), 0) - np.log(np.diagonal(tril)[i]), axis=1
    )
    weights = np.exp(np.asarray(log_density(law, jnp.asarray(tril @ matrices))) - proposal)
    assert abs(weights.mean() - 1) < 4 * weights.std(ddof=1) / np.sqrt(n) < 0.2


@few_laws
def test_density_has_the_derivatives_of_finite_differences(name):
    kind, size, df = LAWS[name]
    value, base = 1.2 * draw(make(name), jax.random.key(5)), scale_tril(size)

    @jax.jit
    def moved(shift, stretch, move):
        law = kind(df + shift, stretch * base, **({"columns": df} if name in SINGULAR else {}))
        return law.log_prob(move * value)

    at, h = (0.0, 1.1, 0.9), 1e-5
    for i, slope in enumerate(jax.jit(jax.grad(moved, (0, 1, 2)))(*at)):
        up, down = (tuple(v + sign * h * (i == k) for k, v in enumerate(at)) for sign in (1, -1))
        np.testing.assert_allclose(slope, (moved(*up) - moved(*down)) / (2 * h), rtol=1e-6)


# --- transforms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [True, False], ids=["inverse given", "inverse computed"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 3), (4, 2), (4, 1), (5, 3)])
@pytest.mark.rows(3)
def test_lower_product_is_a_bijection_with_autodiffs_jacobian(rows, columns, given):
    tril, t = scale_tril(rows), (scale_tril(rows) + jnp.eye(rows))[:, :columns]
    transform = LowerProduct(tril, columns, jnp.linalg.inv(tril) if given else None)
    y = transform(t)
    np.testing.assert_allclose(transform.inv(y), t, atol=1e-12)
    np.testing.assert_allclose(
        transform.log_abs_det_jacobian(t, y), log_jacobian(transform.__call__, t), atol=1e-10
    )
    assert bool(transform.domain(t)) and bool(transform.codomain(y))


def test_lower_product_of_batches():
    tril = jnp.stack([scale_tril(3), 2 * scale_tril(3)])
    one, t = [LowerProduct(each, 2) for each in tril], (scale_tril(3) + jnp.eye(3))[:, :2]
    for batched in (jnp.stack([t, 3 * t]), jnp.stack([jnp.stack([t, 3 * t])] * 4)):
        y = LowerProduct(tril, 2)(batched)
        log_det = LowerProduct(tril, 2).log_abs_det_jacobian(batched, y)
        assert y.shape == batched.shape and log_det.shape == batched.shape[:-2]
        np.testing.assert_allclose(y.reshape(-1, 3, 2)[-1], one[1](3 * t), rtol=1e-12)
        np.testing.assert_allclose(
            log_det[..., 0], jnp.broadcast_to(one[0].log_abs_det_jacobian(t, t), log_det.shape[:-1])
        )
        np.testing.assert_allclose(
            log_det[..., 1], jnp.broadcast_to(one[1].log_abs_det_jacobian(t, t), log_det.shape[:-1])
        )
        np.testing.assert_allclose(LowerProduct(tril, 2).inv(y), batched, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_triangular_inverse_is_a_bijection_with_autodiffs_jacobian(size):
    transform, a = TriangularInverse(size), scale_tril(size) + jnp.eye(size)
    y = transform(a)
    np.testing.assert_allclose(y @ a, np.eye(size), atol=1e-12)
    np.testing.assert_allclose(transform.inv(y), a, atol=1e-12)
    np.testing.assert_allclose(
        transform.log_abs_det_jacobian(a, y), log_jacobian(transform.__call__, a), atol=1e-10
    )
    assert bool(transform.domain(a)) and bool(transform.codomain(y))
    batch = jnp.stack([a, 2 * a])
    log_det = transform.log_abs_det_jacobian(batch, transform(batch))
    np.testing.assert_allclose(
        log_det, [transform.log_abs_det_jacobian(one, one) for one in batch], rtol=1e-12
    )


def test_transforms_are_values():
    tril = scale_tril(3)
    product, inverse = LowerProduct(tril, 2), TriangularInverse(3)
    for transform in (product, inverse):
        leaves, structure = jax.tree.flatten(transform)
        assert jax.tree.unflatten(structure, leaves) == transform
    assert product not in (LowerProduct(tril, 3), LowerProduct(2 * tril, 2), inverse)
    assert inverse not in (TriangularInverse(2), product)


# --- draws ----------------------------------------------------------------------------------------

N = 20_000


def matrices(law, seed=0):
    s = np.asarray(draw(law, jax.random.key(seed), (N,)))
    return s, s @ s.transpose(0, 2, 1)


def z_scores(samples, truth):
    return (samples.mean(0) - truth) / (samples.std(0, ddof=1) / np.sqrt(N))


def test_sampled_matrix_follows_the_inverse_wishart():
    """z-scores below 4.5 and p > 1e-4: a false-alarm rate of about 3e-4 over seeds."""
    size, df = 3, 11.0
    law = InverseWishartFactor(df, scale_tril(size))
    _, g = matrices(law)
    psi = scale_matrix(law)
    assert np.max(np.abs(z_scores(g, psi / (df - size - 1)))) < 4.5
    # a 1 x 1 block of IW(psi, df) is InverseGamma((df - size + 1) / 2, psi_jj / 2)
    for j in range(size):
        marginal = stats.invgamma((df - size + 1) / 2, scale=psi[j, j] / 2)
        assert stats.kstest(g[:, j, j], marginal.cdf).pvalue > 1e-4
    reference = stats.invwishart(df, psi).rvs(N, random_state=1)
    assert stats.ks_2samp(np.linalg.slogdet(g)[1], np.linalg.slogdet(reference)[1]).pvalue > 1e-4
    assert stats.ks_2samp(g[:, 0, 1], reference[:, 0, 1]).pvalue > 1e-4


@pytest.mark.parametrize(("size", "df"), [(3, 11.0), (3, 2.4), (3, 3), (4, 2), (3, 1)])
def test_sampled_matrix_follows_the_wishart(size, df):
    """E G_ij = df C_ij and Var G_ij = df (C_ij^2 + C_ii C_jj) for the scale matrix C, and G_jj /
    C_jj ~ chi^2(df).

    At most 16 z-scores below 4.5 twice and 4 p-values above 1e-4: a false-alarm rate of 6e-4 each
    over seeds."""
    law = WishartFactor(df, scale_tril(size))
    s, g = matrices(law)
    assert s.shape == (N, size, min(size, int(np.ceil(df))))
    c = scale_matrix(law)
    assert np.max(np.abs(z_scores(g, df * c))) < 4.5
    assert (
        np.max(np.abs(z_scores((g - df * c) ** 2, df * (c**2 + np.outer(np.diag(c), np.diag(c))))))
        < 4.5
    )
    for j in range(size):
        assert stats.kstest(g[:, j, j] / c[j, j], stats.chi2(df).cdf).pvalue > 1e-4


@pytest.mark.parametrize("df", [1, 2, 3, 6])
def test_an_integer_wishart_is_the_law_of_products_of_features(df):
    """G = F F^T for df columns of F drawn from N(0, L L^T): p > 1e-4 for three numbers computed
    from G."""
    law = WishartFactor(df, scale_tril(3))
    s, g = matrices(law)
    assert np.all(np.linalg.matrix_rank(g[:20], tol=1e-9) == min(df, 3)) and s.shape[-1] == min(
        df, 3
    )
    features = np.asarray(law.scale_tril) @ np.random.default_rng(2).normal(size=(N, 3, df))
    reference = features @ features.transpose(0, 2, 1)
    for statistic in (
        lambda g: g[:, 0, 1],
        lambda g: np.einsum("sij,sij->s", g, g),
        lambda g: g[:, 1, 2] / g[:, 1, 1],
    ):
        assert stats.ks_2samp(statistic(g), statistic(reference)).pvalue > 1e-4


# --- NumPyro's interface --------------------------------------------------------------------------


@few_laws
@pytest.mark.parametrize("shape", [(), (2, 3)], ids=str)
@pytest.mark.rows(3)
def test_draws_have_the_asked_shapes_and_lie_in_the_support(name, shape):
    law, (_, size, df) = make(name), LAWS[name]
    columns = df if name in SINGULAR else size
    assert law.batch_shape == () and law.event_shape == (size, columns) and law.df == df
    s = draw(law, jax.random.key(1), shape)
    assert s.shape == (*shape, size, columns)
    np.testing.assert_array_equal(law.support(s), np.ones(shape, bool))
    np.testing.assert_array_equal(np.triu(s, 1), 0)


@pytest.mark.parametrize("kind", [InverseWishartFactor, WishartFactor])
@pytest.mark.parametrize("several", ["df", "scale", "both"])
@pytest.mark.rows(2)
def test_batches_of_laws(kind, several):
    df = jnp.array([5.0, 9.0]) if several != "scale" else 5.0
    tril = jnp.stack([scale_tril(3), 2 * scale_tril(3)]) if several != "df" else scale_tril(3)
    law = kind(df, tril)
    assert law.batch_shape == (2,) and law.event_shape == (3, 3)
    s = draw(law, jax.random.key(1), (4,))
    assert s.shape == (4, 2, 3, 3)
    np.testing.assert_array_equal(law.support(s), np.ones((4, 2), bool))
    density = log_density(law, s)
    for i in range(2):
        one = kind(float(law.df[i]), tril[i] if tril.ndim == 3 else tril)
        np.testing.assert_allclose(density[:, i], log_density(one, s[:, i]), rtol=1e-12)


def test_a_batch_of_singular_laws():
    tril = jnp.stack([scale_tril(3), 2 * scale_tril(3)])
    law = WishartFactor(jnp.array([2.0, 2.0]), tril)
    assert law.batch_shape == (2,) and law.event_shape == (3, 2)
    s = draw(law, jax.random.key(1))
    for i in range(2):
        np.testing.assert_allclose(
            log_density(law, s)[i], WishartFactor(2, tril[i]).log_prob(s[i]), rtol=1e-12
        )


@few_laws
def test_density_of_a_batch_is_the_density_of_each(name):
    law = make(name)
    s = draw(law, jax.random.key(1), (2, 3)).reshape(6, *law.event_shape)
    np.testing.assert_allclose(
        log_density(law, s), [log_density(law, one) for one in s], rtol=1e-12
    )


@few_laws
def test_laws_made_under_vmap(name):
    """They are pytrees that may enter and leave: a law that left vmap is used in another."""
    kind, size, df = LAWS[name]
    options = {"columns": df} if name in SINGULAR else {}
    tril, dfs = (
        jnp.stack([scale_tril(size), 2 * scale_tril(size)]),
        jnp.array([df, df + 1.5 * (not options)]),
    )
    s = draw(make(name), jax.random.key(1))

    @jax.jit
    @jax.vmap
    def made_and_used(df, tril):
        law = kind(df, tril, **options)
        return law.log_prob(s), law

    density, law = made_and_used(dfs, tril)
    np.testing.assert_allclose(jax.vmap(log_density, (0, None))(law, s), density, rtol=1e-12)
    for i in range(2):
        truth = log_density(kind(float(dfs[i]), tril[i]), s)
        np.testing.assert_allclose(density[i], truth, rtol=1e-12)


@pytest.mark.parametrize("given", [True, False], ids=["inverse given", "inverse computed"])
@few_laws
def test_pytree_round_trip(name, given):
    kind, size, df = LAWS[name]
    law = kind(
        df, scale_tril(size), scale_tril_inverse=jnp.linalg.inv(scale_tril(size)) if given else None
    )
    leaves, structure = jax.tree.flatten(law)
    back = jax.tree.unflatten(structure, leaves)
    assert type(back) is kind and back.event_shape == law.event_shape and back.df == df
    value = draw(law, jax.random.key(2))
    np.testing.assert_array_equal(log_density(back, value), log_density(law, value))
    np.testing.assert_allclose(log_density(law, value), log_density(make(name), value), rtol=1e-10)


@pytest.mark.parametrize("given", [True, False])
def test_inverse_of_the_scale(given):
    tril = scale_tril(3)
    law = InverseWishartFactor(5.0, tril, jnp.linalg.inv(tril) if given else None)
    np.testing.assert_allclose(law.scale_tril_inverse @ tril, np.eye(3), atol=1e-12)


@few_laws
def test_float32_stays_float32_and_agrees(name):
    single, double = make(name, jnp.float32), make(name)
    s = draw(single, jax.random.key(2))
    density = log_density(single, s)
    assert s.dtype == density.dtype == single.df.dtype == jnp.float32
    np.testing.assert_allclose(s, draw(double, jax.random.key(2)), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(density, log_density(double, s.astype(jnp.float64)), rtol=1e-4)


@few_laws
def test_transform_reparam_makes_the_site_independent_of_the_scale(name):
    """The joint density of the reparametrised model is that of A alone, and S is what the
    transforms make of A."""
    law, (kind, _, _) = make(name), LAWS[name]

    def model():
        return numpyro.sample("gram", law)

    reparametrised = numpyro.handlers.reparam(model, config={"gram": TransformReparam()})
    a = draw(law.base_dist, jax.random.key(0))
    with relaxed():
        density, trace = model_log_density(reparametrised, (), {}, {"gram_base": a})
    np.testing.assert_allclose(density, log_density(law.base_dist, a), rtol=1e-10)
    whitened = np.linalg.inv(a) if kind is InverseWishartFactor else a
    np.testing.assert_allclose(
        trace["gram"]["value"], law.scale_tril @ whitened, rtol=1e-9, atol=1e-12
    )


@few_laws
def test_unconstrained_space_has_the_dimension_of_the_factor(name):
    law = make(name)
    rows, columns = law.event_shape
    free = rows * columns - columns * (columns - 1) // 2
    transform = dist.biject_to(law.support)
    s = transform(jnp.zeros(free))
    assert s.shape == (rows, columns) and bool(law.support(s)) and np.isfinite(log_density(law, s))
    np.testing.assert_allclose(transform.inv(s), np.zeros(free), atol=1e-12)


# --- degrees of freedom ---------------------------------------------------------------------------


@pytest.mark.parametrize("df", [1.9, 2.0, -1.0, float("nan")])
def test_too_few_degrees_of_freedom_for_the_inverse(df):
    with pytest.raises(
        ValueError, match="Expected degrees of freedom larger than size - 1 = 2. Got"
    ):
        InverseWishartFactor(df, jnp.eye(3))


@pytest.mark.parametrize(
    "df", [1.5, 0, 0.0, -1, float("nan"), np.array([1.0, 2.0]), np.array([2.0, 7.0])]
)
def test_degrees_of_freedom_without_a_wishart_law(df):
    message = (
        "Expected degrees of freedom to be one integer of at least 1, or larger than size - 1 = 2. "
        "Got df="
    )
    with pytest.raises(ValueError, match=message):
        WishartFactor(jnp.asarray(df) if isinstance(df, np.ndarray) else df, jnp.eye(3))


@pytest.mark.parametrize(
    ("df", "columns"), [(2, 2), (2.0, 2), (jnp.asarray(1), 1), (2.5, 3), (3, 3), (10**13, 3)]
)
def test_columns_are_the_rank(df, columns):
    assert WishartFactor(df, jnp.eye(3)).event_shape == (3, columns)


def test_traced_degrees_of_freedom():
    """They cannot be looked at: the matrix has full rank, unless the number of columns is given."""
    shape = jax.eval_shape(
        lambda df: WishartFactor(df, jnp.eye(3)).sample(jax.random.key(0)), 2.0
    ).shape
    assert shape == (3, 3)
    given = jax.eval_shape(
        lambda df: WishartFactor(df, jnp.eye(3), 2).sample(jax.random.key(0)), 2.0
    ).shape
    assert given == (3, 2)


@pytest.mark.parametrize("kind", [InverseWishartFactor, WishartFactor])
def test_laws_with_plain_numbers_can_be_made_while_tracing(kind):
    assert jax.jit(lambda: kind(5.0, jnp.eye(3)).df)() == 5.0
    with pytest.raises(ValueError, match="degrees of freedom"):
        jax.jit(lambda: kind(1.5, jnp.eye(3)).df)()
