"""From the prior to the posterior by degrees: tempered sequential Monte Carlo.

It moves in the coordinates z of networks.

    pi_b(z) = N(z; 0, I) exp(correction(z)) p(y | z)^b / Z_b,   Z_b / Z_a = E_{pi_a} p(y | z)^(b-a)

Particles of pi_a are weighted and resampled, and the ones that are kept start Markov chains that
leave pi_b invariant: all states of all chains are the particles of pi_b (waste-free).

A move works in u, with z = m + C^(1/2) u for a Gaussian N(m, C) fitted to the particles, where pi_b
is N(u; 0, I) exp(psi(u)). Rotations of (u, momentum) leave the normal part unchanged, exactly:

- "hmc": rotations, together a quarter of a turn, between kicks of the momentum along the gradient
  of psi, so that only psi has a discretisation error;
- "pcn": one rotation without a kick, the preconditioned Crank-Nicolson move, which needs no
  gradient.

C is the identity but for some directions: all of them where there are few coordinates, else those
of the largest gradients, at the temperature before.

Source: waste-free: Dau & Chopin 2022 (arXiv 2011.02328); rotations: Shahbaba, Lan, Johnson & Neal
2014 (arXiv 1106.5941); pCN: Cotter, Roberts, Stuart & White 2013; directions: Cui, Law & Marzouk
2016 (arXiv 1411.3688).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dkp._core.compiled import compiled
from dkp._core.record import value
from dkp._core.types import Array, Bool, Float, PRNGKeyArray, Scalar
from dkp.inference.coordinates import Coordinates

__all__ = [
    "MOVES",
    "Moved",
    "Particles",
    "Reference",
    "fit_reference",
    "move_chains",
    "prior_particles",
]

MOVES = ("hmc", "pcn")

_DIRECTIONS = 64
_SCALES = (1e-4, 2.0)
_INFLATION = 1.1  # tails of the Gaussian that are too light hold chains up
_ACCEPTANCE = {"pcn": 0.3, "hmc": 0.75}
_MOST_LEAPS = 32
_LARGEST = math.pi / 2  # the angle after which a draw from the Gaussian has forgotten where it was


@value
class Particles:
    """Points z (S, K), or one of them, with their corrections and log-likelihoods."""

    z: Float[Array, "*batch K"]
    correction: Float[Array, "*batch"]
    likelihood: Float[Array, "*batch"]

    def take(self, rows: Array) -> "Particles":
        """Some of them."""
        return Particles(
            z=self.z[rows], correction=self.correction[rows], likelihood=self.likelihood[rows]
        )


@value
class Reference:
    """N(m, C) with C = I + U (diag(s^2) - I) U^T for orthonormal columns U."""

    mean: Float[Array, " K"]
    basis: Float[Array, "K R"]
    scale: Float[Array, " R"]

    def forward(self, u: Float[Array, " K"]) -> Float[Array, " K"]:
        """z = m + C^(1/2) u."""
        return self.mean + u + self.basis @ ((self.scale - 1) * (u @ self.basis))

    def inverse(self, z: Float[Array, " K"]) -> Float[Array, " K"]:
        """u = C^(-1/2) (z - m)."""
        return self._shrink(z - self.mean)

    def slope(self, u: Float[Array, " K"], slope: Float[Array, " K"]) -> Float[Array, " K"]:
        """Gradient in z of what a density has beside N(z; 0, I).

        It is made from the gradient in u of what the density has beside N(u; 0, I).
        """
        return self._shrink(slope - u) + self.forward(u)

    def _shrink(self, vector: Array) -> Array:
        return vector + self.basis @ ((1 / self.scale - 1) * (vector @ self.basis))


@value
class Moved:
    """States of M chains at T times as T x M particles, time by time, and how they moved.

    Attributes:
        particles: the states.
        slopes: gradients of the last states, (M, K), of log pi_b without its normal part; None for
            moves without gradients.
        acceptance: mean of the chains.
        angle: of a rotation, as it was adapted.
    """

    particles: Particles
    slopes: Float[Array, "M K"] | None
    acceptance: Scalar
    angle: Scalar


def _batched(function: Callable[..., Any], batch: int) -> Callable[..., Any]:
    """``vmap(function)``, `batch` at a time."""
    return lambda *args: jax.lax.map(lambda one: function(*one), args, batch_size=batch)


@compiled(static_argnums=(2, 3))
def prior_particles(coordinates: Coordinates, key: PRNGKeyArray, n: int, batch: int) -> Particles:
    """Draws from the prior."""

    def one(key: PRNGKeyArray) -> Particles:
        z = coordinates.sample_prior(key)
        correction, likelihood = coordinates.log_densities(z)
        return Particles(z=z, correction=correction, likelihood=likelihood)

    return _batched(one, batch)(jax.random.split(key, n))


def fit_reference(
    particles: Particles, weights: Float[np.ndarray, " S"], slopes: np.ndarray | None
) -> Reference:
    """A Gaussian with the mean and the covariance of weighted particles, along some directions.

    Args:
        weights: add up to 1.
        slopes: gradients that span the directions, (M, K), where there are too many coordinates to
            take all; without gradients the Gaussian is N(0, I) then.
    """
    z = np.asarray(particles.z, float)
    basis = _directions(z.shape[1], slopes)
    projected = z @ basis
    mean = weights @ projected
    centred = projected - mean
    covariance = (centred * weights[:, None]).T @ centred
    # Few particles know variances better than correlations.
    trust = 1 / (1 + basis.shape[1] * np.sum(weights**2))
    covariance = trust * covariance + (1 - trust) * np.diag(np.diag(covariance))
    values, rotation = np.linalg.eigh(covariance)
    scale = np.clip(_INFLATION * np.sqrt(np.maximum(values, 0)), *_SCALES)
    dtype = particles.z.dtype
    mean, basis = basis @ mean, basis @ rotation
    return Reference(
        mean=jnp.asarray(mean, dtype),
        basis=jnp.asarray(basis, dtype),
        scale=jnp.asarray(scale, dtype),
    )


def _directions(size: int, slopes: np.ndarray | None) -> np.ndarray:
    """Orthonormal columns, (K, R)."""
    if size <= _DIRECTIONS:
        return np.eye(size)
    if slopes is None:
        return np.zeros((size, 0))
    good = slopes[np.all(np.isfinite(slopes), axis=1)]
    return np.linalg.svd(good, full_matrices=False)[2][:_DIRECTIONS].T


@value
class _State:
    """A point u, or one for every chain, psi(u) with its gradient, and what z is worth.

    Here z = m + C^(1/2) u.
    """

    u: Float[Array, "*batch K"]
    psi: Float[Array, "*batch"]
    slope: Float[Array, "*batch K"]
    point: Particles


@compiled(static_argnums=(7, 8, 9))
def move_chains(
    coordinates: Coordinates,
    key: PRNGKeyArray,
    start: Particles,
    reference: Reference,
    power: Scalar,
    angle: Scalar,
    gain: Scalar,
    move: str,
    length: int,
    batch: int,
) -> Moved:
    """Run a Markov chain from every particle of `start`; see the head of this module.

    Args:
        power: b.
        angle: of a rotation, to start from.
        gain: how fast the angle adapts to the acceptance; where it does, the chains leave pi_b
            invariant only nearly.
        move: "hmc" or "pcn".
        length: states of every chain, with the one where it starts.
        batch: chains that are moved at the same time.
    """
    evaluate = functools.partial(_evaluate, coordinates, reference, power, move)

    def sweep(carry: tuple[_State, Scalar], step: tuple[PRNGKeyArray, Array]) -> tuple[Any, Any]:
        (states, angle), (key, index) = carry, step
        first = index == 0  # evaluates the start: a rotation by nothing, accepted
        turn = jnp.where(first, jnp.zeros_like(angle), angle)
        leaps = jnp.where(first, 1, _leaps(move, angle))
        move_one = functools.partial(_transition, evaluate, turn, leaps, first)
        keys = jax.random.split(key, start.z.shape[0])
        states, probability = _batched(move_one, batch)(keys, states)
        acceptance = jnp.mean(probability)
        adapted = jnp.minimum(angle * jnp.exp(gain * (acceptance - _ACCEPTANCE[move])), _LARGEST)
        angle = jnp.where(first, angle, adapted)
        return (states, angle), (states.point, acceptance)

    zeros = jnp.zeros_like(start.likelihood)
    states = _State(
        u=jax.vmap(reference.inverse)(start.z),
        psi=zeros,
        slope=jnp.zeros_like(start.z),
        point=start,
    )
    steps = (jax.random.split(key, length), jnp.arange(length))
    (states, angle), (points, acceptance) = jax.lax.scan(sweep, (states, angle), steps)
    slopes = None if move == "pcn" else jax.vmap(reference.slope)(states.u, states.slope)
    particles = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), points)
    return Moved(
        particles=particles, slopes=slopes, acceptance=jnp.mean(acceptance[1:]), angle=angle
    )


def _leaps(move: str, angle: Scalar) -> Array:
    """How many rotations make a quarter of a turn.

    After it a Gaussian has forgotten where it was.
    """
    return (
        jnp.asarray(1)
        if move == "pcn"
        else jnp.clip(jnp.round(_LARGEST / angle), 1, _MOST_LEAPS).astype(int)
    )


def _evaluate(
    coordinates: Coordinates, reference: Reference, power: Scalar, move: str, u: Array
) -> _State:
    def psi(u: Array) -> tuple[Scalar, Particles]:
        z = reference.forward(u)
        correction, likelihood = coordinates.log_densities(z)
        value = correction + power * likelihood + (jnp.sum(u**2) - jnp.sum(z**2)) / 2
        return value, Particles(z=z, correction=correction, likelihood=likelihood)

    if move == "pcn":
        density, point = psi(u)
        return _State(u=u, psi=density, slope=jnp.zeros_like(u), point=point)
    (density, point), slope = jax.value_and_grad(psi, has_aux=True)(u)
    return _State(u=u, psi=density, slope=slope, point=point)


def _transition(
    evaluate: Callable[[Array], _State],
    angle: Scalar,
    leaps: Array,
    first: Bool[Array, ""],
    key: PRNGKeyArray,
    state: _State,
) -> tuple[_State, Scalar]:
    key_momentum, key_accept = jax.random.split(key)
    momentum = jax.random.normal(key_momentum, state.u.shape, state.u.dtype)

    def leap(_: Array, carry: tuple[_State, Array]) -> tuple[_State, Array]:
        state, p = carry
        p = p + angle / 2 * state.slope
        state, p = (
            evaluate(jnp.cos(angle) * state.u + jnp.sin(angle) * p),
            jnp.cos(angle) * p - jnp.sin(angle) * state.u,
        )
        return state, p + angle / 2 * state.slope

    new, end = jax.lax.fori_loop(0, leaps, leap, (state, momentum))
    change = _energy(new, end) - _energy(state, momentum)
    # A likelihood or a gradient that is no number makes the change one that is not accepted.
    probability = jnp.where(
        jnp.isfinite(change), jnp.exp(jnp.minimum(change, 0)), jnp.zeros_like(change)
    )
    accept = first | (jax.random.uniform(key_accept, (), state.u.dtype) < probability)
    return jax.tree.map(functools.partial(jnp.where, accept), new, state), probability


def _energy(state: _State, momentum: Array) -> Scalar:
    """Log-density of a point and its momentum."""
    return state.psi - (jnp.sum(state.u**2) + jnp.sum(momentum**2)) / 2
