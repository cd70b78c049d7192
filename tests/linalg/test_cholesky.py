"""The Cholesky factorisation against jnp.linalg, to second order, and its jitter policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dkp.linalg.cholesky import (
    base_jitter,
    cholesky,
    cholesky_product,
    log_determinant,
    shrinkage_tril,
    triangular_inverse,
)

SIZE = 4
F32, F64 = np.dtype("float32"), np.dtype("float64")
dtypes = pytest.mark.parametrize("dtype", [F32, F64], ids=str)
factorise = jax.jit(cholesky)


def spd(seed=0, size=SIZE, dtype=F64):
    a = np.random.default_rng(seed).normal(size=(size, 2 * size))
    return jnp.asarray(a @ a.T / size, dtype)


def symmetric(seed=1, size=SIZE):
    a = np.random.default_rng(seed).normal(size=(size, size))
    return jnp.asarray(a + a.T)


def with_smallest_eigenvalue(value, dtype=F64):
    """A matrix of mean diagonal near 1 whose smallest eigenvalue is `value`."""
    q, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(SIZE, SIZE)))
    return jnp.asarray((q * np.array([value, 0.8, 1.2, 2.0])) @ q.T, dtype)


def reference(matrix):
    """Both outputs by jnp.linalg, with the same jitter as a constant."""
    tril = jnp.linalg.cholesky(
        matrix + jax.lax.stop_gradient(cholesky(matrix).jitter) * jnp.eye(SIZE)
    )
    return tril, jnp.linalg.inv(tril)


def ours(matrix):
    factor = factorise(matrix)
    return factor.tril, factor.inverse


def scalar(function, matrix):
    """A function of both outputs that no symmetry simplifies."""
    tril, inverse = function(matrix)
    weights = jnp.asarray(np.random.default_rng(3).normal(size=(2, SIZE, SIZE)))
    return jnp.sum(weights[0] * jnp.sin(tril)) + jnp.sum(weights[1] * inverse**3)


@dtypes
def test_factor_inverse_and_jitter(dtype):
    matrix = spd(dtype=dtype)
    factor = factorise(matrix)
    assert factor.tril.dtype == factor.inverse.dtype == factor.jitter.dtype == dtype
    tolerance = 100 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        factor.jitter, base_jitter(dtype) * np.mean(np.diag(matrix)), rtol=1e-5
    )
    jittered = matrix + factor.jitter * jnp.eye(SIZE, dtype=dtype)
    np.testing.assert_allclose(
        factor.tril @ factor.tril.T, jittered, rtol=tolerance, atol=tolerance
    )
    np.testing.assert_allclose(factor.inverse @ factor.tril, np.eye(SIZE), atol=tolerance)
    np.testing.assert_array_equal(np.triu(factor.tril, 1), 0)
    np.testing.assert_array_equal(np.triu(factor.inverse, 1), 0)


def test_forward_derivative():
    matrix, direction = spd(), symmetric()
    mine, theirs = (
        jax.jit(lambda m, d, f=f: jax.jvp(f, (m,), (d,))[1])(matrix, direction)
        for f in (ours, reference)
    )
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_reverse_derivative():
    mine, theirs = (
        jax.jit(jax.grad(lambda m, f=f: scalar(f, m)))(spd()) for f in (ours, reference)
    )
    np.testing.assert_allclose(mine, theirs, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(mine, mine.T, atol=1e-12)


def test_second_derivative_forward_over_reverse_and_reverse_over_reverse():
    matrix, direction = spd(), symmetric()

    def along(function):
        return lambda t: scalar(function, matrix + t * direction)

    truth = jax.jit(jax.grad(jax.grad(along(reference))))(0.0)
    np.testing.assert_allclose(jax.jit(jax.grad(jax.grad(along(ours))))(0.0), truth, rtol=1e-7)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(jax.grad(along(ours))))(0.0), truth, rtol=1e-7)


def test_derivative_of_the_log_determinant_holds_the_jitter_constant():
    # here the jitter dominates: its own derivative would show
    matrix = with_smallest_eigenvalue(0.0)
    factor = factorise(matrix)
    gradient = jax.jit(jax.grad(lambda m: log_determinant(cholesky(m).tril)))(matrix)
    np.testing.assert_allclose(gradient, factor.inverse.T @ factor.inverse, rtol=1e-3)


@dtypes
def test_jitter_escalates_once(dtype):
    jitter = base_jitter(dtype)
    factor = factorise(with_smallest_eigenvalue(-20 * jitter, dtype))
    assert jnp.all(jnp.isfinite(factor.tril)) and jnp.all(jnp.isfinite(factor.inverse))
    np.testing.assert_allclose(factor.jitter, 100 * jitter, rtol=1e-2)


@dtypes
def test_a_hopeless_matrix_gives_nan(dtype):
    factor = factorise(with_smallest_eigenvalue(-0.1, dtype))
    assert jnp.all(jnp.isnan(jnp.diagonal(factor.tril)[-1:]))
    assert not jnp.all(jnp.isfinite(factor.inverse))


def test_vmap_gives_each_matrix_its_own_jitter():
    stack = jnp.stack(
        [spd(), with_smallest_eigenvalue(-20 * base_jitter(F64)), with_smallest_eigenvalue(-0.1)]
    )
    batched = jax.jit(jax.vmap(cholesky))(stack)
    alone = [factorise(matrix) for matrix in stack]
    np.testing.assert_allclose(batched.jitter, [a.jitter for a in alone], rtol=1e-12)
    assert batched.jitter[1] > 10 * batched.jitter[0] / jnp.mean(jnp.diagonal(stack[0]))
    for i in (0, 1):
        np.testing.assert_allclose(batched.tril[i], alone[i].tril, rtol=1e-6, atol=1e-9)
    assert not jnp.all(jnp.isfinite(batched.tril[2]))


def test_nested_vmap_and_its_gradient():
    stack = jnp.stack([jnp.stack([spd(3 * i + j) for j in range(3)]) for i in range(2)])
    gradient = jax.grad(lambda m: scalar(ours, m))
    batched, alone = jax.jit(jax.vmap(jax.vmap(gradient)))(stack), jax.jit(gradient)
    for i in range(2):
        for j in range(3):
            np.testing.assert_allclose(batched[i, j], alone(stack[i, j]), rtol=1e-9, atol=1e-12)


def test_under_vmap_there_is_one_loop_over_attempts_for_all_matrices():
    """Its counter has no batch axis, so nothing is selected at every turn."""
    stack = jnp.stack([spd(), spd(1)])
    (loop,) = while_loops(jax.make_jaxpr(jax.vmap(cholesky))(stack).jaxpr)
    assert [v.aval.shape for v in loop.outvars] == [(), stack.shape, (2,)]


def while_loops(jaxpr):
    found = [e for e in jaxpr.eqns if e.primitive.name == "while"]
    inner = (
        j
        for e in jaxpr.eqns
        for j in jax.tree.leaves(list(e.params.values()), is_leaf=is_jaxpr)
        if is_jaxpr(j)
    )
    return found + [loop for j in inner for loop in while_loops(getattr(j, "jaxpr", j))]


def is_jaxpr(value):
    return hasattr(value, "eqns")


def test_log_determinant():
    matrix = spd()
    np.testing.assert_allclose(
        log_determinant(jnp.linalg.cholesky(matrix)), np.linalg.slogdet(matrix)[1], rtol=1e-12
    )


@dtypes
def test_triangular_inverse_of_a_stack(dtype):
    tril = jnp.stack([jnp.linalg.cholesky(spd(i, dtype=dtype)) for i in range(3)])
    inverse = triangular_inverse(tril)
    assert inverse.dtype == dtype
    np.testing.assert_allclose(
        inverse, np.linalg.inv(tril), rtol=1e-4, atol=100 * float(jnp.finfo(dtype).eps)
    )


def test_triangular_inverse_derivatives():
    tril = jnp.linalg.cholesky(spd())
    direction = symmetric()  # what stands above the diagonal is no part of the argument

    def along(inverse):
        return lambda t: jnp.sum(inverse(tril + t * jnp.tril(direction)) ** 3)

    np.testing.assert_allclose(
        jax.jvp(triangular_inverse, (tril,), (direction,))[1],
        jax.jvp(jnp.linalg.inv, (tril,), (jnp.tril(direction),))[1],
        atol=1e-10,
    )
    for derivative in (jax.grad, lambda f: jax.grad(jax.grad(f))):
        np.testing.assert_allclose(
            jax.jit(derivative(along(triangular_inverse)))(0.0),
            jax.jit(derivative(along(jnp.linalg.inv)))(0.0),
            rtol=1e-9,
        )


@pytest.mark.parametrize("columns", [1, 2, 4])
def test_product_with_the_factor_is_that_of_the_factor(columns):
    """Value, jitter and derivatives in both arguments, forward, reverse and second, in a batch."""
    rng = np.random.default_rng(columns)
    root = rng.normal(size=(3, 4, 6))
    matrices = jnp.asarray(root @ root.transpose(0, 2, 1))
    rights = jnp.asarray(rng.normal(size=(3, 4, columns)))

    def direct(matrix, right):
        factor = cholesky((matrix + matrix.T) / 2)
        return factor.tril @ right, factor.jitter

    def product(matrix, right):
        return cholesky_product((matrix + matrix.T) / 2, right)

    both = (0, 1)
    first = [lambda f: jax.jacfwd(f, both), lambda f: jax.jacrev(f, both)]
    for order in (lambda f: f, *first, lambda f: jax.jacfwd(jax.jacrev(f, both), both)):
        ours, truth = (jax.jit(jax.vmap(order(f)))(matrices, rights) for f in (product, direct))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), ours, truth
        )


@dtypes
@pytest.mark.parametrize("columns", [1, 3, SIZE, 6])
def test_shrinkage(columns, dtype):
    """C C^T = (I + A A^T)^-1 with a lower-triangular C, and the derivative of the inverse."""
    a, direction = (np.random.default_rng(s).normal(size=(SIZE, columns)) for s in (6, 7))
    tril, jitter = shrinkage_tril(jnp.asarray(a, dtype))
    truth = np.linalg.inv(np.eye(SIZE) + a @ a.T)
    tolerance = 1e-9 if dtype == F64 else 1e-4
    np.testing.assert_allclose(tril @ tril.T, truth, atol=tolerance)
    np.testing.assert_array_equal(np.triu(tril, 1), 0)
    assert np.all(np.diagonal(tril) > 0) and jitter.dtype == tril.dtype == dtype

    def covariance(a):
        c, _ = shrinkage_tril(a)
        return c @ c.T

    tangent = jax.jvp(covariance, (jnp.asarray(a, dtype),), (jnp.asarray(direction, dtype),))[1]
    moved = -truth @ (a @ direction.T + direction @ a.T) @ truth
    np.testing.assert_allclose(tangent, moved, atol=10 * tolerance)


def test_shrinkage_by_nothing():
    np.testing.assert_allclose(shrinkage_tril(jnp.zeros((SIZE, 2)))[0], np.eye(SIZE), atol=1e-10)
