"""Bartlett factors as a NumPyro law: scipy's chi and normal densities, autodiff's Jacobians, and
NumPyro's interface.

Every law is a row of one table; tests take the law as an argument of one jitted function.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from dkp.distributions import Bartlett
from dkp.distributions.bartlett import LowerTrapezoidal, LowerTrapezoidalTransform
from tests.support import relaxed

# degrees of freedom of the diagonal, rows
LAWS = {
    "square": ([7.5, 6.5, 5.5], 3),
    "increasing": ([1.2, 2.2, 3.2], 3),
    "tall": ([2.0, 1.0], 4),
    "one column": ([3.5], 3),
    "one number": ([0.7], 1),
}
N = 5_000
SHAPES = [(1, 1), (3, 3), (4, 2), (3, 1)]

laws = pytest.mark.parametrize("name", LAWS)
shapes = pytest.mark.parametrize(("rows", "columns"), SHAPES)


def make(name, dtype=jnp.float64):
    df, rows = LAWS[name]
    return Bartlett(jnp.asarray(df, dtype), rows)


@jax.jit
def log_density(law, value):
    return law.log_prob(value)


@functools.partial(jax.jit, static_argnames="shape")
def draw(law, key, shape=()):
    return law.sample(key, shape)


def scipy_log_density(df, value):
    """chi on the diagonal, and standard normal below it."""
    value = np.asarray(value, float)
    below = value[np.tril_indices(value.shape[0], -1, value.shape[1])]
    return (
        stats.chi(np.asarray(df, float)).logpdf(np.diagonal(value)).sum()
        + stats.norm.logpdf(below).sum()
    )


@laws
@pytest.mark.rows(2)
def test_density_is_scipys(name):
    law = make(name)
    draws = draw(law, jax.random.key(0), (2, 3)).reshape(6, *law.event_shape)
    truth = [scipy_log_density(law.df, one) for one in draws]
    np.testing.assert_allclose(log_density(law, draws), truth, rtol=1e-12, atol=1e-12)


@laws
@pytest.mark.rows(2)
def test_draws_have_the_asked_shapes_and_lie_in_the_support(name):
    law, (df, rows) = make(name), LAWS[name]
    assert law.batch_shape == () and law.event_shape == (rows, len(df))
    for shape in [(), (2, 3)]:
        draws = draw(law, jax.random.key(1), shape)
        assert draws.shape == (*shape, rows, len(df)) and draws.dtype == jnp.float64
        inside = law.support(draws)
        assert inside.shape == shape and np.all(inside)


def test_draws_of_a_batch_of_laws():
    """E A_jj^2 = df_j for each of two laws, |z| < 4.5 over 4 numbers; and no two draws are
    alike."""
    df = jnp.asarray([[2.0, 1.0], [9.5, 30.0]])
    law = Bartlett(df, 3)
    assert law.batch_shape == (2,) and law.event_shape == (3, 2)
    draws = np.asarray(draw(law, jax.random.key(2), (N,)))
    assert draws.shape == (N, 2, 3, 2)
    squares = np.diagonal(draws, axis1=2, axis2=3) ** 2
    assert np.max(np.abs((squares.mean(0) - df) / (squares.std(0) / np.sqrt(N)))) < 4.5
    below = draws[..., 2, 1]
    assert len(np.unique(below)) > 0.99 * below.size


@pytest.mark.parametrize("df", [[2.0, 1.0], [[2.0, 1.0], [9.5, 30.0]]], ids=["one law", "two laws"])
def test_density_of_a_batch_is_the_density_of_each(df):
    law = Bartlett(jnp.asarray(df), 3)
    draws = draw(law, jax.random.key(3), (4,))
    each = np.broadcast_to(np.asarray(df), (*draws.shape[:-2], 2))
    truth = [
        scipy_log_density(d, s)
        for d, s in zip(each.reshape(-1, 2), draws.reshape(-1, 3, 2), strict=True)
    ]
    np.testing.assert_allclose(
        log_density(law, draws), np.reshape(truth, draws.shape[:-2]), rtol=1e-12
    )
    assert log_density(law, draws[0]).shape == law.batch_shape


def test_a_batch_of_laws_under_vmap():
    df = jnp.asarray([[2.0, 1.0], [9.5, 30.0]])
    value = draw(make("tall"), jax.random.key(4))

    @jax.jit
    @jax.vmap
    def made_and_used(df):
        law = Bartlett(df, 4)
        return law.log_prob(value), law

    inside, law = made_and_used(df)
    truth = [scipy_log_density(one, value) for one in df]
    np.testing.assert_allclose(inside, truth, rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(log_density, (0, None))(law, value), truth, rtol=1e-12)


@laws
def test_gradients_match_finite_differences(name):
    law = make(name)
    value, h = draw(law, jax.random.key(5)), 1e-5

    @jax.jit
    def moved(shift, stretch):
        return Bartlett(law.df + shift, law.rows).log_prob(stretch * value)

    gradient = jax.jit(jax.grad(moved, (0, 1)))(0.1, 1.1)
    np.testing.assert_allclose(
        gradient[0], (moved(0.1 + h, 1.1) - moved(0.1 - h, 1.1)) / (2 * h), rtol=1e-6, atol=1e-8
    )
    np.testing.assert_allclose(
        gradient[1], (moved(0.1, 1.1 + h) - moved(0.1, 1.1 - h)) / (2 * h), rtol=1e-6, atol=1e-8
    )


@laws
@pytest.mark.rows(2)
def test_float32_stays_float32_and_agrees(name):
    single, double = make(name, jnp.float32), make(name)
    value = draw(single, jax.random.key(2))
    density = log_density(single, value)
    assert value.dtype == density.dtype == jnp.float32
    np.testing.assert_allclose(value, draw(double, jax.random.key(2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        density, log_density(double, value.astype(jnp.float64)), rtol=1e-5, atol=1e-5
    )


@laws
def test_pytree_round_trip(name):
    law = make(name)
    leaves, structure = jax.tree.flatten(law)
    back = jax.tree.unflatten(structure, leaves)
    assert type(back) is Bartlett and back.rows == law.rows and len(leaves) == 1
    assert back.event_shape == law.event_shape and back.support == law.support
    value = draw(law, jax.random.key(6))
    np.testing.assert_array_equal(log_density(back, value), log_density(law, value))


@pytest.mark.parametrize("df", [[2.0, 0.0], [-1.0, 3.0], [float("nan"), 3.0]])
def test_degrees_of_freedom_that_are_not_positive(df):
    with pytest.raises(ValueError, match="Expected positive degrees of freedom. Got"):
        Bartlett(jnp.asarray(df), 3)


def test_more_columns_than_rows():
    with pytest.raises(
        ValueError, match="Expected at most as many columns as rows, 2. Got 3 degrees of freedom"
    ):
        Bartlett(jnp.ones(3), 2)


# --- the support and its map from the reals -------------------------------------------------------


@shapes
def test_the_support_is_what_it_says(rows, columns):
    support = LowerTrapezoidal(rows, columns)
    inside = support.feasible_like(jnp.zeros((2, rows, columns)))
    np.testing.assert_array_equal(support(inside), [True, True])
    corner = jnp.eye(rows, columns).at[0, 0]
    outside = [corner.set(0.0), corner.set(-1.0), corner.set(jnp.nan)]
    if columns > 1:
        outside.append(jnp.eye(rows, columns).at[0, 1].set(1e-9))
    assert not any(bool(support(matrix)) for matrix in outside)
    assert bool(support(jnp.eye(rows, columns).at[rows - 1, 0].set(5.0)))


@shapes
def test_bijection_with_the_reals(rows, columns):
    transform = dist.biject_to(LowerTrapezoidal(rows, columns))
    assert isinstance(transform, LowerTrapezoidalTransform)
    x = jnp.asarray(np.random.default_rng(0).normal(size=transform.size))
    y = transform(x)
    assert bool(transform.codomain(y)) and y.shape == (rows, columns)
    np.testing.assert_allclose(transform.inv(y), x, rtol=1e-12)
    entries = np.tril_indices(rows, 0, columns)
    assert transform.size == len(entries[0])
    jacobian = jax.jit(jax.jacfwd(lambda x: transform(x)[entries]))(x)
    np.testing.assert_allclose(
        transform.log_abs_det_jacobian(x, y), np.linalg.slogdet(jacobian)[1], atol=1e-12
    )


@shapes
def test_bijection_of_a_batch(rows, columns):
    transform = LowerTrapezoidalTransform(rows, columns)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, transform.size)), jnp.float32)
    y = transform(x)
    assert y.shape == transform.forward_shape(x.shape) and x.shape == transform.inverse_shape(
        y.shape
    )
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, [[transform(one) for one in row] for row in x], rtol=1e-6)
    np.testing.assert_allclose(transform.inv(y), x, rtol=1e-5, atol=1e-6)
    log_det = transform.log_abs_det_jacobian(x, y)
    assert log_det.shape == (2, 3)
    np.testing.assert_allclose(
        log_det[1, 2], transform.log_abs_det_jacobian(x[1, 2], y[1, 2]), rtol=1e-6
    )


@pytest.mark.parametrize("make", [LowerTrapezoidal, LowerTrapezoidalTransform])
def test_constraint_and_transform_are_values(make):
    one = make(4, 2)
    assert jax.tree.unflatten(jax.tree.structure(one), []) == one == make(4, 2)
    assert one not in (make(4, 3), make(5, 2)) and one != "lower"
    assert not jax.tree.leaves(one)


def test_supports_can_be_keys():
    assert {LowerTrapezoidal(4, 2): 1}[LowerTrapezoidal(4, 2)] == 1


def test_numpyro_checks_values_where_it_is_asked_to():
    law = Bartlett(jnp.asarray([2.0, 1.0]), 3, validate_args=True)
    with relaxed(), pytest.warns(UserWarning, match="Out-of-support"):
        law.log_prob(jnp.ones((3, 2)))
