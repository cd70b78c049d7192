"""Composite kernels against their parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dkp.gram.gram import Inputs
from dkp.kernels import (
    ArcCosine,
    Chain,
    Linear,
    PointwiseKernel,
    Product,
    Repeat,
    Scale,
    SquaredExponential,
    Sum,
)

RANDOM = np.random.default_rng(0)
INPUTS = Inputs(
    i=jnp.asarray(RANDOM.normal(size=(5, 3))), t=jnp.asarray(RANDOM.normal(size=(4, 3)))
)
GRAM = Linear()(INPUTS)
A, B = ArcCosine(1), SquaredExponential(lengthscale=0.9, variance=1.4)


def assert_same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)


def test_blocks_are_added_multiplied_and_scaled():
    a, b = A(GRAM), B(GRAM)
    assert_same(Sum(A, B, B)(GRAM), jax.tree.map(lambda a, b: a + 2 * b, a, b))
    assert_same(Product(A, B, B)(GRAM), jax.tree.map(lambda a, b: a * b * b, a, b))
    assert_same(Scale(A, scale=2.5)(GRAM), jax.tree.map(lambda a: 2.5 * a, a))


def test_chain_applies_the_first_first():
    assert_same(Chain(A, B)(GRAM), B(A(GRAM)))
    assert_same(Chain(Linear(), A, B)(INPUTS), B(A(GRAM)))


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_repeat_is_the_block_unrolled(depth):
    unrolled = GRAM
    for _ in range(depth):
        unrolled = Scale(A, scale=0.9)(B(unrolled))
    repeated = Repeat([B, Scale(A, scale=0.9)], depth)
    assert_same(repeated(GRAM), unrolled)
    assert_same(jax.jit(repeated)(GRAM), unrolled)


def test_repeat_shares_hyperparameters_in_the_gradient():
    def last(kernel):
        return kernel(GRAM).ii[0, 1]

    repeated = jax.grad(last)(Repeat(B, 3)).block
    unrolled = jax.grad(last)(Chain(B, B, B)).kernels
    np.testing.assert_allclose(
        repeated.lengthscale, sum(kernel.lengthscale for kernel in unrolled), rtol=1e-12
    )
    np.testing.assert_allclose(
        repeated.variance, sum(kernel.variance for kernel in unrolled), rtol=1e-12
    )


def test_a_hundred_repetitions_are_the_program_of_two():
    deep, shallow = (str(jax.make_jaxpr(Repeat(A, depth))(GRAM)) for depth in (100, 2))
    assert deep.replace("length=100", "length=2") == shallow


@pytest.mark.parametrize("make", [Sum, Product, Chain, Scale])
def test_composites_of_kernels_of_features_take_features(make):
    assert make(Linear()).takes_features
    assert not make(A).takes_features
    assert repr(make(Linear())).startswith(f"{make.__name__}(")


def test_input_kernels_are_added_multiplied_and_scaled():
    assert_same(Sum(Linear(), Linear())(INPUTS), jax.tree.map(lambda block: 2 * block, GRAM))
    assert_same(Product(Linear(), Linear())(INPUTS), jax.tree.map(lambda block: block**2, GRAM))
    assert_same(Scale(Linear(), 3.0)(INPUTS), jax.tree.map(lambda block: 3 * block, GRAM))


def test_keywords_choose_the_sort_too():
    assert Scale(scale=2.0, kernel=Linear()).takes_features


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sum(Linear(), A), "not of both"),
        (lambda: Product(A, Linear()), "not of both"),
        (lambda: Chain(A, Linear()), "only at the start"),
        (Sum, "made of kernels. Got none"),
        (lambda: Chain(A, 3), "made of kernels. Got 3"),
        (lambda: Sum([A, B]), r"Expected Sum\(…\) to be made of kernels"),
        (lambda: Scale(ArcCosine, 2.0), "made of kernels"),
        (lambda: Scale(A, 0.0), "scale=…"),
        (lambda: Repeat(Linear(), 2), "kernels of Gram matrices"),
        (lambda: Repeat([Linear(), A], 2), "kernels of Gram matrices"),
        (lambda: Repeat([], 2), "made of kernels"),
        (lambda: Repeat(A, 0), "depth"),
        (lambda: Repeat(A, 2.5), "depth"),
    ],
)
def test_what_does_not_compose(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Cubed(PointwiseKernel):
    def evaluate(self, kxy, kxx, kyy):
        return kxy**3

    def evaluate_diagonal(self, kxx):
        return kxx**3


def test_an_own_pointwise_kernel_says_only_its_values():
    assert_same(Cubed()(GRAM), jax.tree.map(lambda block: block**3, GRAM))
    np.testing.assert_allclose(
        Cubed().derivative(GRAM.ti, jnp.diag(GRAM.ii), GRAM.tt[:, None]), 3 * GRAM.ti**2
    )
    np.testing.assert_allclose(Cubed().derivative_diagonal(GRAM.tt), 3 * GRAM.tt**2)
