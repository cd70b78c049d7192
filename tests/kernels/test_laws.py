"""What every kernel obeys: a new kernel is one more row of these tables."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dkp import kernels
from dkp.gram.gram import Gram, Inputs
from dkp.kernels import (
    ELU,
    GELU,
    ABReLU,
    Activation,
    ArcCosine,
    Chain,
    Erf,
    Exponential,
    Gaussian,
    Identity,
    LeakyReLU,
    Linear,
    Matern,
    NormalisedGaussian,
    Polynomial,
    Product,
    RationalQuadratic,
    RectifiedMonomial,
    Repeat,
    Scale,
    Sign,
    Sine,
    SquaredExponential,
    Sum,
)

WEIGHTS = np.array([0.5, 1.0, 2.0])
GRAM_KERNELS = [
    ArcCosine(0),
    ArcCosine(1, normalised=False),
    ArcCosine(2),
    RectifiedMonomial(3),
    LeakyReLU(slope=0.1),
    ABReLU(a=-0.4, b=1.5),
    Sign(),
    Polynomial((0.3, -1.0, 0.5)),
    Erf(),
    GELU(),
    ELU(),
    Gaussian(),
    Chain(Scale(Identity(), scale=0.2), Exponential()),
    Sine(a=1.3, b=0.7, c=0.4),
    Activation(jax.lax.tanh),
    SquaredExponential(lengthscale=0.8, variance=1.7),
    Matern(0.5, lengthscale=0.8, variance=1.7),
    Matern(3.5, lengthscale=0.8, variance=1.7),
    RationalQuadratic(alpha=1.3, lengthscale=0.8, variance=1.7),
    NormalisedGaussian(variance=1.7),
    Sum(ArcCosine(1), Product(ArcCosine(0), Matern(1.5, lengthscale=1.1, variance=2.0))),
    Repeat([ArcCosine(1), Scale(ArcCosine(1), scale=0.7)], depth=3),
]
INPUT_KERNELS = [
    Linear(ard=True, weights=WEIGHTS, bias=0.1),
    Sum(Linear(), Linear(ard=True, weights=WEIGHTS)),
    Product(Linear(), Linear(bias=1.0)),
    Scale(Linear(), scale=2.5),
    *(Chain(Linear(), kernel) for kernel in GRAM_KERNELS),
]

all_kernels = pytest.mark.parametrize("kernel", INPUT_KERNELS, ids=repr)
dtypes = pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=["float32", "float64"])


@jax.jit  # once for each structure of a kernel and each dtype: the tests share their shapes
def blocks(kernel, i, t):
    gram = kernel(Inputs(i=i, t=t))
    return gram.ii, gram.ti, gram.tt


def points(n, seed=0, dtype=jnp.float64):
    return jax.random.normal(jax.random.key(seed), (n, 3), jnp.float64).astype(dtype)


I, T = points(8, seed=26), points(6, seed=15)  # noqa: E741 (no two of them nearly parallel)


def direction(*tree):
    return jax.tree.map(
        lambda value: jnp.cos(jnp.arange(value.size, dtype=value.dtype)).reshape(value.shape), tree
    )


@jax.jit
def value_and_gradient(*tree):
    """A scalar of all entries of the blocks of (kernel, i, t), and its gradient."""

    def scalar(*tree):
        return sum(jnp.sum(jnp.sin(block)) for block in blocks(*tree))

    return jax.value_and_grad(scalar, argnums=(0, 1, 2))(*tree)


@jax.jit
def derivatives(*tree):
    """The scalar and its gradient; and the derivatives of both along a direction."""
    return jax.jvp(value_and_gradient, tree, direction(*tree))


def as_arrays(kernel, dtype):
    return jax.tree.map(lambda value: jnp.asarray(value, dtype), kernel)


def assert_blocks_close(got, expected, **tolerance):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


@all_kernels
@pytest.mark.rows(8)
def test_blocks_are_slices_of_a_symmetric_positive_semidefinite_matrix(kernel):
    x = jnp.concatenate([I, T, points(26, seed=2)])
    gram = kernel(Inputs(i=x))
    assert gram.ti is None
    assert gram.tt is None
    ii = np.asarray(gram.ii)
    np.testing.assert_array_equal(ii, ii.T)
    eigenvalues = np.linalg.eigvalsh(ii)
    assert eigenvalues[0] > -1e-13 * len(ii) * eigenvalues[-1]
    slices = ii[:8, :8], ii[8:14, :8], np.diagonal(ii)[8:14]
    assert_blocks_close(blocks(kernel, I, T), slices, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kernel", GRAM_KERNELS, ids=repr)
@dtypes
@pytest.mark.rows(8)
def test_the_two_diagonals_are_bitwise_equal(kernel, dtype):
    gram = Linear()(Inputs(i=I.astype(dtype)))
    mapped = kernel(Gram(ii=gram.ii, ti=gram.ii, tt=gram.ii_diagonal))
    np.testing.assert_array_equal(mapped.ii_diagonal, mapped.tt)


@all_kernels
@dtypes
@pytest.mark.rows(6)
def test_gradients_are_finite_at_degenerate_points(kernel, dtype):
    # duplicates, opposites, zero variance twice, features so small that their squares underflow or
    # are minute
    tiny = float(jnp.finfo(dtype).tiny)
    x = points(2, dtype=dtype)
    x = jnp.concatenate(
        [x, x[:1], -x[:1], jnp.zeros((2, 3), dtype), tiny * x[:1], tiny**0.4 * x[:1]]
    )
    if dtype == jnp.float64:  # the program of the test below
        found, _ = derivatives(as_arrays(kernel, dtype), x, x[2:])
    else:
        found = value_and_gradient(as_arrays(kernel, dtype), x, x[2:])
    for value in jax.tree.leaves(found):
        assert np.all(np.isfinite(value))


@all_kernels
@pytest.mark.rows(6)
def test_derivatives_of_first_and_second_order_match_finite_differences(kernel):
    kernel, h = as_arrays(kernel, jnp.float64), 1e-6
    _, slopes = derivatives(kernel, I, T)
    there = direction(kernel, I, T)
    above, below = (
        derivatives(
            *jax.tree.map(lambda value, d, step=step: value + step * d, (kernel, I, T), there)
        )[0]
        for step in (h, -h)
    )
    differences = jax.tree.map(lambda a, b: (a - b) / (2 * h), above, below)
    for a, b in zip(jax.tree.leaves(slopes), jax.tree.leaves(differences), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5)


@all_kernels
@pytest.mark.rows(6)
def test_float32_is_close_to_float64(kernel):
    single = blocks(kernel, I.astype(jnp.float32), T.astype(jnp.float32))
    for narrow, wide in zip(single, blocks(kernel, I, T), strict=True):
        assert narrow.dtype == jnp.float32
        np.testing.assert_allclose(narrow, wide, atol=5e-6 * np.max(wide))


@all_kernels
@pytest.mark.rows(6)
def test_compiled_with_arrays_it_is_what_it_is_with_numbers(kernel):
    gram = kernel(Inputs(i=I, t=T))
    expected = blocks(as_arrays(kernel, jnp.float64), I, T)
    assert_blocks_close((gram.ii, gram.ti, gram.tt), expected, rtol=1e-12, atol=1e-14)


@all_kernels
@pytest.mark.rows(6)
def test_vmap_is_a_loop(kernel):
    i, t = jnp.stack([I, 2 * I[::-1]]), jnp.stack([T, T[::-1]])
    batched = jax.vmap(blocks, in_axes=(None, 0, 0))(kernel, i, t)
    for n in range(2):
        assert_blocks_close(
            [block[n] for block in batched], blocks(kernel, i[n], t[n]), rtol=1e-12, atol=1e-14
        )


@all_kernels
def test_copies_and_pytrees_keep_the_kernel(kernel):
    leaves, structure = jax.tree.flatten(kernel)
    for twin in (
        jax.tree.unflatten(structure, leaves),
        copy.deepcopy(kernel),
        pickle.loads(pickle.dumps(kernel)),
    ):
        assert type(twin) is type(kernel)
        assert_blocks_close(blocks(twin, I, T), blocks(kernel, I, T), rtol=0)


@all_kernels
def test_repr_is_the_call_that_makes_the_kernel(kernel):
    names = {name: getattr(kernels, name) for name in kernels.__all__} | {
        "array": np.array,
        "tanh": jax.lax.tanh,
    }
    assert repr(eval(repr(kernel), names)) == repr(kernel)


@pytest.mark.parametrize("base", [kernels.Kernel, kernels.PointwiseKernel, kernels.InputKernel])
def test_an_incomplete_kernel_cannot_be_made_and_says_what_is_missing(base):
    class Incomplete(base):
        pass

    with pytest.raises(TypeError, match="abstract method.* (pairs|evaluate)"):
        Incomplete()
