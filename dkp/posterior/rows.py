"""Latent functions at many points, with random numbers that depend on a row alone."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dkp._core.compiled import compiled
from dkp._core.types import Array, Float, Key, PRNGKeyArray
from dkp.model.process import DeepKernelProcess
from dkp.posterior.draw import Draw, latent_moments

__all__ = ["in_chunks", "moments_row_by_row", "normals_row_by_row"]


def moments_row_by_row(
    model: DeepKernelProcess,
    n_outputs: int,
    draws: Draw,
    key: PRNGKeyArray,
    x: Float[Array, "B *space D"],
    chunk: int,
) -> tuple[Float[Array, "S B Q"], Float[Array, "S B Q"]]:
    """:func:`latent_moments` for a stack of draws, with random numbers of its own for every row.

    They depend on the contents of the row alone, so that the result depends neither on the other
    rows nor on `chunk`, the number of rows computed at a time.
    """
    parts = [
        _moments(model, n_outputs, draws, key, rows)
        for rows in _padded_chunks(x, min(chunk, len(x)))
    ]
    mean, variance = (
        jnp.concatenate(blocks, axis=1)[:, : len(x)] for blocks in zip(*parts, strict=True)
    )
    return mean, variance


def in_chunks(function: Callable[[Array], Any], x: Float[Array, "B *space D"], chunk: int) -> Any:
    """``function(x)``, an array or several with one row a point, from `chunk` rows at a time."""
    parts = [function(x[start : start + chunk]) for start in range(0, len(x), chunk)]
    return jax.tree.map(lambda *blocks: jnp.concatenate(blocks), *parts)


@compiled(static_argnums=(1,))
def _moments(
    model: DeepKernelProcess, n_outputs: int, draws: Draw, key: PRNGKeyArray, x: Array
) -> tuple[Array, Array]:
    row_keys = _row_keys(key, x)

    def one_draw(index_and_draw: tuple[Array, Draw]) -> tuple[Array, Array]:
        index, draw = index_and_draw

        def one_row(row_key: PRNGKeyArray, row: Array) -> tuple[Array, Array]:
            mean, variance = latent_moments(
                model, draw, jax.random.fold_in(row_key, index), row[None], n_outputs
            )
            return mean[0], variance[0]

        return jax.vmap(one_row)(row_keys, x)

    return jax.lax.map(one_draw, (jnp.arange(draws.inducing.shape[0]), draws))


@functools.partial(jax.jit, static_argnums=(2, 3))
def normals_row_by_row(
    key: PRNGKeyArray, x: Float[Array, "B *space D"], n: int, size: int
) -> Float[Array, "S B Q"]:
    """n sets of `size` standard normal numbers for every row of x.

    They depend on the contents of the row alone.
    """
    row_keys = _row_keys(key, x)
    return jax.vmap(lambda row_key: jax.random.normal(row_key, (n, size), x.dtype), out_axes=1)(
        row_keys
    )


def _row_keys(key: PRNGKeyArray, x: Float[Array, "B *space D"]) -> Key[Array, " B"]:
    return jax.vmap(_row_key, in_axes=(None, 0))(key, x)


def _row_key(key: PRNGKeyArray, row: Float[Array, "*space D"]) -> PRNGKeyArray:
    """A key that depends on the contents of a row.

    Two 32-bit hashes of its bits are folded into `key`.
    """
    # -0.0 + 0.0 is 0.0
    bits = jax.lax.bitcast_convert_type(row + jnp.zeros_like(row), jnp.uint32).reshape(-1)
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
