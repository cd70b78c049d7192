"""Gram matrices of posterior draws, and what they say about the representation that was learned.

A draw holds its Gram matrices at the inducing points exactly, as factors S with G = S S^T. What the
same network would do without randomness (the limit of an infinitely wide network, in which nothing
is learned) is computed beside them for comparison.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dkp._core import checks
from dkp._core.compiled import compiled
from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.bottlenecks.base import Bottleneck
from dkp.gram.alignment import centred_alignment
from dkp.gram.gram import Gram, Inputs
from dkp.linalg.cholesky import cholesky
from dkp.model.process import DeepKernelProcess
from dkp.model.propagate import propagate
from dkp.posterior.draw import Draw, resolve_draw
from dkp.posterior.protocol import Posterior

__all__ = ["GramDraws", "gram_draws", "gram_summaries", "grams_at", "label_alignment"]


class GramDraws(NamedTuple):
    """Gram matrices at the inducing points, one a draw.

    Attributes:
        learned: G_1, G_2, … after each bottleneck, and last the kernel matrix K of the outputs.
        fixed: the same matrices of the deterministic network with the same hyperparameters, in
            which every bottleneck returns what enters it.
    """

    learned: tuple[Float[Array, "S P P"], ...]
    fixed: tuple[Float[Array, "S P P"], ...]


def gram_draws(posterior: Posterior, draws: Draw) -> GramDraws:
    """Gram matrices of `draws` at their inducing points, beside those of the deterministic network.

    Args:
        draws: a stack, ``posterior.sample(key, n)``.
    """

    def one(draw: Draw) -> GramDraws:
        layers = resolve_draw(posterior.model, draw, posterior.data.n_outputs).layers
        points = Inputs(i=draw.inducing)
        learned = _walk(
            layers, points, lambda index, layer, kernel: Gram(ii=_product(draw.factors[index - 1]))
        )
        fixed = _walk(layers, points, lambda index, layer, kernel: kernel)
        return GramDraws(*(tuple(gram.ii for gram in grams) for grams in (learned, fixed)))

    return jax.jit(lambda stack: jax.lax.map(one, stack))(draws)


def grams_at(
    posterior: Posterior, draws: Draw, x: Float[Array, "B *space D"], *, key: PRNGKeyArray
) -> tuple[Array, ...]:
    """Gram matrices of `draws` at any standardised points together, (S, B, B) each.

    One for each bottleneck, and last the kernel matrix K of the outputs.

    Given a draw, they come from the joint conditional prior of the points. Cost cubic in P + B.
    """
    keys = jax.random.split(key, draws.inducing.shape[0])
    for layer in posterior.model.bottlenecks:
        layer.check_points(draws.inducing.shape[1] + len(x))
    return _grams_at(posterior.model, posterior.data.n_outputs, draws, x, keys)


@compiled(static_argnums=(1,))
def _grams_at(
    model: DeepKernelProcess, n_outputs: int, draws: Draw, x: Array, keys: Array
) -> tuple[Array, ...]:
    def one(pair: tuple[Draw, PRNGKeyArray]) -> tuple[Array, ...]:
        draw, key = pair
        p = draw.inducing.shape[0]

        def bottleneck(index: int, layer: Bottleneck, kernel: Gram) -> Gram:
            factor = layer.extend(
                jax.random.fold_in(key, index), kernel.ii, draw.factors[index - 1]
            )
            return Gram(ii=factor @ factor.T)

        layers = resolve_draw(model, draw, n_outputs).layers
        joint = _walk(layers, Inputs(i=jnp.concatenate([draw.inducing, x])), bottleneck)
        return tuple(gram.ii[p:, p:] for gram in joint)

    return jax.lax.map(one, (draws, keys))


def gram_summaries(factor: Any) -> dict[str, Float[np.ndarray, " S"]]:
    """Log-determinant, trace and effective rank of Gram matrices G = S S^T.

    They come from the singular values s of the factors.

    log_det is the sum of log s^2: for a singular G (M < P), of its non-zero eigenvalues.
    effective_rank is exp(H(p)) with the entropy H of p = s^2 / sum s^2, between 1 and P: Roy &
    Vetterli 2007, The effective rank, definition 1.

    Args:
        factor: S, (S, P, M), full rank.

    Raises:
        ValueError: when it does not have three axes or is not finite.

    Examples:
        >>> import numpy as np
        >>> from dkp.diagnostics.grams import gram_summaries
        >>> summaries = gram_summaries(np.eye(3)[None])
        >>> print({name: values.round(3).tolist() for name, values in summaries.items()})
        {'log_det': [0.0], 'trace': [3.0], 'effective_rank': [3.0]}
    """
    values = checks.finite_array("factor", factor, ndim=3)
    eigenvalues = np.linalg.svd(values, compute_uv=False) ** 2
    trace = eigenvalues.sum(axis=-1)
    share = eigenvalues / trace[:, None]
    entropy = -np.sum(share * np.log(np.where(share > 0, share, 1.0)), axis=-1)
    return {
        "log_det": np.log(eigenvalues).sum(axis=-1),
        "trace": trace,
        "effective_rank": np.exp(entropy),
    }


def label_alignment(
    posterior: Posterior, draws: Draw, *, key: PRNGKeyArray
) -> Float[np.ndarray, "S L"]:
    """Centred alignment of every layer's Gram matrix with the label kernel y y^T.

    At the training points; one row a draw.

    The columns are the matrices of :func:`gram_draws`. A Gram matrix at the data is projected on
    the inducing points, G_ti G_ii^-1 G_it: exact where the inducing points are the data.

    Args:
        key: for the data blocks of the Gram matrices.
    """
    data = posterior.data

    def one(key: PRNGKeyArray, draw: Draw) -> Array:
        def bottleneck(index: int, layer: Bottleneck, kernel: Gram) -> Gram:
            return layer.condition(
                jax.random.fold_in(key, index), kernel, cholesky(kernel.ii), draw.factors[index - 1]
            )

        layers = resolve_draw(posterior.model, draw, data.n_outputs).layers
        grams = _walk(layers, Inputs(i=draw.inducing, t=data.x), bottleneck)
        return jnp.stack(
            [centred_alignment(_projected(gram), jnp.nan_to_num(data.y)) for gram in grams]
        )

    keys = jax.random.split(key, draws.inducing.shape[0])
    return np.asarray(
        jax.jit(lambda *stacks: jax.lax.map(lambda pair: one(*pair), stacks))(keys, draws)
    )


def _walk(layers: Any, points: Inputs, bottleneck: Any) -> list[Gram]:
    """What leaves every bottleneck, and the last Gram matrix."""
    grams: list[Gram] = []

    def remember(index: int, layer: Bottleneck, kernel: Gram) -> Gram:
        grams.append(bottleneck(index, layer, kernel))
        return grams[-1]

    last = propagate(layers, points, remember)
    return [*grams, last]


def _product(factor: Float[Array, "P M"]) -> Float[Array, "P P"]:
    return factor @ factor.T


def _projected(gram: Gram) -> Float[Array, "N P"]:
    """F with F F^T = G_ti G_ii^-1 G_it."""
    assert gram.ti is not None
    return gram.ti @ cholesky(gram.ii).inverse.T
