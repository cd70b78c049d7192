"""What every engine returns: something that draws networks, conditioned on the data.

A draw fixes the hyperparameters, the Gram factors at the inducing points and the law of the outputs; the function
values at any point follow from it by :func:`latent_moments`, in the same way for every engine.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from dkp._compiled import compiled
from dkp._types import Array, Float, Key, PRNGKeyArray
from dkp._value import value
from dkp.bottlenecks import Bottleneck
from dkp.data import Dataset
from dkp.distributions.outputs import OutputLaw
from dkp.linalg.blocks import Gram, Inputs
from dkp.linalg.cholesky import cholesky
from dkp.model import DeepKernelProcess, propagate
from dkp.priors import resolve

__all__ = [
    "Draw",
    "JointlyGaussian",
    "Posterior",
    "in_chunks",
    "latent_moments",
    "moments_row_by_row",
    "normals_row_by_row",
    "resolve_draw",
]


@value
class Draw:
    """One posterior draw of a network (or a stack of draws, along a leading axis of every array).

    values: hyperparameters by name. inducing: (P, D), or images (P, H, W, D). factors: S_l of every bottleneck, any
    root of its Gram matrix, G = S S^T, with rows as in `inducing`.
    outputs: law of f; None where the posterior itself computes the latent functions. f: latent functions at the
    inducing points, (P, Q), where they are part of the draw.
    """

    values: dict[str, Array]
    inducing: Float[Array, "..."]
    factors: tuple[Array, ...]
    outputs: OutputLaw | None = None
    f: Float[Array, "..."] | None = None


@runtime_checkable
class Posterior(Protocol):
    """A posterior over deep kernel processes."""

    @property
    def model(self) -> DeepKernelProcess:
        """The model as the user wrote it."""
        ...

    @property
    def data(self) -> Dataset:
        """The data that it is conditioned on."""
        ...

    def sample(self, key: PRNGKeyArray, n: int) -> Draw:
        """A stack of n independent draws; a posterior that is known exactly may return a single one."""
        ...

    def latent_moments(
        self, draws: Draw, key: PRNGKeyArray, x: Float[Array, "B *space D"], chunk: int
    ) -> tuple[Float[Array, "S B Q"], Float[Array, "S B Q"]]:
        """Mean and variance of the latent functions at standardised points, given each draw of a stack."""
        ...

    def summary(self) -> dict[str, Any]:
        """What a user should look at before trusting the fit."""
        ...


@runtime_checkable
class JointlyGaussian(Protocol):
    """A posterior under which the latent functions at several points are jointly Gaussian."""

    def latent_covariance(self, x: Float[Array, "B *space D"]) -> Float[Array, "B B"]:
        """Covariance at standardised points, in standardised units, the same for every output."""
        ...


def resolve_draw(model: DeepKernelProcess, draw: Draw, n_outputs: int) -> DeepKernelProcess:
    """The model with the hyperparameters of one draw."""
    return resolve(model, draw.values, draw.inducing.dtype, draw.inducing.shape[-1], n_outputs)


def latent_moments(
    model: DeepKernelProcess, draw: Draw, key: PRNGKeyArray, x: Float[Array, "B *space D"], n_outputs: int
) -> tuple[Float[Array, "B Q"], Float[Array, "B Q"]]:
    """Mean and variance of the latent functions at `x`, given one draw; `key` is for the data blocks of the Grams."""

    def bottleneck(index: int, layer: Bottleneck, kernel: Gram) -> Gram:
        layer_key = jax.random.fold_in(key, index)
        return layer.condition(layer_key, kernel, cholesky(kernel.ii), draw.factors[index - 1])

    resolved = resolve_draw(model, draw, n_outputs)
    gram = propagate(resolved.layers, Inputs(i=draw.inducing, t=x), bottleneck)
    assert draw.outputs is not None
    return draw.outputs.moments(gram)


def moments_row_by_row(
    model: DeepKernelProcess,
    n_outputs: int,
    draws: Draw,
    key: PRNGKeyArray,
    x: Float[Array, "B *space D"],
    chunk: int,
) -> tuple[Float[Array, "S B Q"], Float[Array, "S B Q"]]:
    """:func:`latent_moments` for a stack of draws, with random numbers of its own for every row of x.

    They depend on the contents of the row alone, so that the result depends neither on the other rows nor on `chunk`,
    the number of rows computed at a time.
    """
    parts = [_moments(model, n_outputs, draws, key, rows) for rows in _padded_chunks(x, min(chunk, len(x)))]
    mean, variance = (jnp.concatenate(blocks, axis=1)[:, : len(x)] for blocks in zip(*parts, strict=True))
    return mean, variance


def in_chunks(function: Callable[[Array], Any], x: Float[Array, "B *space D"], chunk: int) -> Any:
    """``function(x)``, an array or several with one row a point, from `chunk` rows of x at a time."""
    parts = [function(x[start : start + chunk]) for start in range(0, len(x), chunk)]
    return jax.tree.map(lambda *blocks: jnp.concatenate(blocks), *parts)


@compiled(static_argnums=(1,))
def _moments(model: DeepKernelProcess, n_outputs: int, draws: Draw, key: PRNGKeyArray, x: Array) -> tuple[Array, Array]:
    row_keys = _row_keys(key, x)

    def one_draw(index_and_draw: tuple[Array, Draw]) -> tuple[Array, Array]:
        index, draw = index_and_draw

        def one_row(row_key: PRNGKeyArray, row: Array) -> tuple[Array, Array]:
            mean, variance = latent_moments(model, draw, jax.random.fold_in(row_key, index), row[None], n_outputs)
            return mean[0], variance[0]

        return jax.vmap(one_row)(row_keys, x)

    return jax.lax.map(one_draw, (jnp.arange(draws.inducing.shape[0]), draws))


@functools.partial(jax.jit, static_argnums=(2, 3))
def normals_row_by_row(key: PRNGKeyArray, x: Float[Array, "B *space D"], n: int, size: int) -> Float[Array, "S B Q"]:
    """n sets of `size` standard normal numbers for every row of x, which depend on the contents of the row alone."""
    row_keys = _row_keys(key, x)
    return jax.vmap(lambda row_key: jax.random.normal(row_key, (n, size), x.dtype), out_axes=1)(row_keys)


def _row_keys(key: PRNGKeyArray, x: Float[Array, "B *space D"]) -> Key[Array, " B"]:
    return jax.vmap(_row_key, in_axes=(None, 0))(key, x)


def _row_key(key: PRNGKeyArray, row: Float[Array, "*space D"]) -> PRNGKeyArray:
    """A key that depends on the contents of a row: two 32-bit hashes of its bits are folded into `key`."""
    bits = jax.lax.bitcast_convert_type(row + jnp.zeros_like(row), jnp.uint32).reshape(-1)  # -0.0 + 0.0 is 0.0
    position = jax.random.bits(key, (2, bits.size), jnp.uint32)
    for_each = _mix(bits[None, :] ^ position)
    first, second = jnp.sum(for_each, axis=1, dtype=jnp.uint32)
    return jax.random.fold_in(jax.random.fold_in(key, first), second)


def _mix(word: Array) -> Array:
    """The finaliser of MurmurHash3: every bit of the result depends on every bit of the word."""
    word = (word ^ (word >> 16)) * jnp.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * jnp.uint32(0xC2B2AE35)
    return word ^ (word >> 16)


def _padded_chunks(rows: Array, size: int) -> list[Array]:
    missing = -len(rows) % size
    padded = jnp.concatenate([rows, jnp.broadcast_to(rows[:1], (missing, *rows.shape[1:]))])
    return [padded[start : start + size] for start in range(0, len(padded), size)]
