"""Finite Bayesian networks: draws from their prior, and exact posterior sampling by repriorisation.

A network with Gaussian weights, hidden features h(x) of the last hidden layer and a Gaussian
likelihood of noise s has readout features T = [sqrt(weight_var / n) h, sqrt(bias_var) 1],
(N, n + 1). Given the hidden weights phi, the readout can be integrated out, and the posterior of
phi is

    p(phi | y) proportional to exp(-Phi(phi)) N(phi; 0, I),
    Phi = - sum_c log N(y_c; 0, T T^T + s^2 I)

whose distance from the prior falls with the width: the wider the network, the better a move that
leaves the prior invariant works. The readout is drawn exactly, given phi:
w = A^-1 T^T y + s L^-T e, A = T^T T + s^2 I = L L^T.

Source: Hron, Novak, Pennington & Sohl-Dickstein 2022 (arXiv 2206.07673); moves: Pezzetti, Favaro &
Peluchetti 2024 (arXiv 2408.14325), with the exact Phi, which their code leaves out in its pCNL.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dkp._core import checks
from dkp._core.types import Array, Float, PRNGKeyArray, Scalar
from dkp.linalg.cholesky import cholesky, log_determinant

__all__ = ["Chain", "Network", "Repriorised"]

MOVES = ("pcn", "pcnl", "hmc")


@dataclasses.dataclass(frozen=True)
class Network:
    """A fully connected network of plain JAX in the NTK parametrisation.

    Args:
        widths: of the hidden layers, at least one.
        activation: an elementwise function, such as ``jax.nn.gelu``.
        weight_var: of all layers, positive.
        bias_var: of all layers; it may be 0.

    Raises:
        ValueError: for widths that are not positive, and variances out of range.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from dkp.theory.finite import Network
        >>> network = Network((8, 8), jnp.tanh)
        >>> network.sample_outputs(jax.random.key(0), jnp.ones((3, 2)), 5).shape
        (5, 3)
    """

    widths: tuple[int, ...]
    activation: Callable[[Array], Array]
    weight_var: float = 1.0
    bias_var: float = 0.0

    def __post_init__(self) -> None:
        for n in self.widths:
            checks.positive_int("widths", n)
        if not self.widths:
            raise ValueError("Expected at least one hidden layer. Got none.")
        checks.positive_number("weight_var", self.weight_var)
        checks.nonnegative_number("bias_var", self.bias_var)

    def size(self, n_features: int) -> int:
        """Number of hidden weights and biases."""
        return sum(
            (a + 1) * b for a, b in zip((n_features, *self.widths[:-1]), self.widths, strict=True)
        )

    def hidden(self, phi: Float[Array, " K"], x: Float[Array, "N D"]) -> list[Float[Array, "N n"]]:
        """Features of every hidden layer, for weights and biases `phi`.

        These are N(0, 1) under the prior.
        """
        features, found, used = x, [], 0
        for n in self.widths:
            fan_in = features.shape[1]
            w = phi[used : used + fan_in * n].reshape(fan_in, n)
            b = phi[used + fan_in * n : used + (fan_in + 1) * n]
            used += (fan_in + 1) * n
            before = (
                math.sqrt(self.weight_var / fan_in) * features @ w
                + math.sqrt(self.bias_var) * b[None, :]
            )
            features = self.activation(before)
            found.append(features)
        return found

    def readout_features(
        self, phi: Float[Array, " K"], x: Float[Array, "N D"]
    ) -> Float[Array, "N n1"]:
        """T: the features that a readout with N(0, 1) weights multiplies."""
        last = self.hidden(phi, x)[-1]
        ones = jnp.ones((len(last), 1), last.dtype)
        return jnp.concatenate(
            [math.sqrt(self.weight_var / last.shape[1]) * last, math.sqrt(self.bias_var) * ones], 1
        )

    def sample_grams(
        self, key: PRNGKeyArray, x: Float[Array, "N D"], n: int
    ) -> tuple[Float[Array, "S N N"], ...]:
        """Draws from the prior of h h^T / n of every hidden layer."""
        keys = jax.random.split(key, checks.positive_int("n", n))

        def one(key: PRNGKeyArray) -> tuple[Array, ...]:
            phi = jax.random.normal(key, (self.size(x.shape[1]),), x.dtype)
            return tuple(h @ h.T / h.shape[1] for h in self.hidden(phi, x))

        return jax.jit(lambda keys: jax.lax.map(one, keys))(keys)

    def sample_outputs(
        self, key: PRNGKeyArray, x: Float[Array, "N D"], n: int
    ) -> Float[Array, "S N"]:
        """Draws from the prior of one output at x."""
        keys = jax.random.split(key, checks.positive_int("n", n))

        def one(key: PRNGKeyArray) -> Array:
            key_phi, key_out = jax.random.split(key)
            t = self.readout_features(
                jax.random.normal(key_phi, (self.size(x.shape[1]),), x.dtype), x
            )
            return t @ jax.random.normal(key_out, (t.shape[1],), x.dtype)

        return jax.jit(lambda keys: jax.lax.map(one, keys))(keys)


class Chain(NamedTuple):
    """States of a Markov chain of hidden weights.

    Attributes:
        phi: the weights, (S, K).
        potential: Phi of each, (S,).
        acceptance: its mean.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from dkp.theory.finite import Network, Repriorised
        >>> network = Network((4,), jnp.tanh)
        >>> posterior = Repriorised(network, jnp.eye(2), jnp.ones((2, 1)), noise=0.5)
        >>> chain = posterior.sample(jax.random.key(0), 3, step=0.1)
        >>> chain.phi.shape, chain.potential.shape
        ((3, 12), (3,))
    """

    phi: Float[Array, "S K"]
    potential: Float[Array, " S"]
    acceptance: float


@dataclasses.dataclass(frozen=True)
class Repriorised:
    """The posterior of a network's hidden weights, given data, with the readout integrated out.

    Args:
        network: its hidden layers.
        x: inputs (N, D).
        y: targets (N, C).
        noise: s, its standard deviation.

    Raises:
        ValueError: when x and y differ in length, or the noise is not positive.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from dkp.theory.finite import Network, Repriorised
        >>> network = Network((4,), jnp.tanh)
        >>> posterior = Repriorised(network, jnp.eye(2), jnp.ones((2, 1)), noise=0.5)
        >>> posterior.size
        12
        >>> posterior.potential(jnp.zeros(posterior.size)).shape
        ()
    """

    network: Network
    x: Float[Array, "N D"]
    y: Float[Array, "N C"]
    noise: float

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(
                f"Expected as many rows of x as of y. Got {len(self.x)} and {len(self.y)}."
            )
        checks.positive_number("noise", self.noise)

    @property
    def size(self) -> int:
        """Number of hidden weights and biases."""
        return self.network.size(self.x.shape[1])

    def potential(self, phi: Float[Array, " K"]) -> Scalar:
        """Phi: minus the log-likelihood with the readout integrated out."""
        t = self.network.readout_features(phi, self.x)
        factor = cholesky(t @ t.T + self.noise**2 * jnp.eye(len(t), dtype=t.dtype))
        scaled = factor.inverse @ self.y
        n, c = self.y.shape
        return (
            c * (log_determinant(factor.tril) + n * jnp.log(2 * jnp.pi)) + jnp.sum(scaled**2)
        ) / 2

    def readout(self, key: PRNGKeyArray, phi: Float[Array, " K"]) -> Float[Array, "n1 C"]:
        """A draw of the readout's weights (its bias last), given the hidden ones."""
        t = self.network.readout_features(phi, self.x)
        factor = cholesky(t.T @ t + self.noise**2 * jnp.eye(t.shape[1], dtype=t.dtype))
        e = jax.random.normal(key, (t.shape[1], self.y.shape[1]), t.dtype)
        return factor.inverse.T @ (factor.inverse @ (t.T @ self.y) + self.noise * e)

    def sample(
        self,
        key: PRNGKeyArray,
        n: int,
        *,
        move: str = "pcn",
        step: float,
        leaps: int = 10,
        thin: int = 1,
    ) -> Chain:
        """A Markov chain that leaves the posterior invariant, from a draw of the prior.

        Args:
            n: states that are kept, after the first.
            move: "pcn", phi' = sqrt(1 - b^2) phi + b e; "pcnl", the same with a gradient, a
                semi-implicit Langevin step; "hmc", leapfrog steps.
            step: b in (0, 1], delta in (0, 2], or the size of a leapfrog step.
            leaps: leapfrog steps of a move of "hmc".
            thin: moves for every state that is kept.

        Raises:
            ValueError: for an unknown move, and numbers out of range.
        """
        checks.one_of("move", move, MOVES)
        most = {"pcn": 1.0, "pcnl": 2.0, "hmc": math.inf}[move]
        if checks.positive_number("step", step) > most:
            raise ValueError(f"Expected step of at most {most} for {move}. Got {step}.")
        n, thin, leaps = (
            checks.positive_int(k, v) for k, v in (("n", n), ("thin", thin), ("leaps", leaps))
        )
        propose = {"pcn": _pcn, "pcnl": _pcnl, "hmc": functools.partial(_hmc, leaps=leaps)}[move]
        evaluate = (
            jax.value_and_grad(self.potential)
            if move != "pcn"
            else _without_gradient(self.potential)
        )

        def transition(state: Any, key: PRNGKeyArray) -> tuple[Any, Array]:
            key_move, key_accept = jax.random.split(key)
            new, log_ratio = propose(key_move, state, evaluate, step)
            accept = jnp.log(jax.random.uniform(key_accept, (), state[0].dtype)) < log_ratio
            accept &= jnp.isfinite(log_ratio)
            probability = jnp.where(
                jnp.isfinite(log_ratio), jnp.exp(jnp.minimum(log_ratio, 0)), 0.0
            )
            return jax.tree.map(lambda a, b: jnp.where(accept, a, b), new, state), probability

        def kept(state: Any, keys: Array) -> tuple[Any, Any]:
            state, probability = jax.lax.scan(transition, state, keys)
            return state, (state[0], state[1], jnp.mean(probability))

        @jax.jit
        def chain(key: PRNGKeyArray) -> Any:
            key_start, key_moves = jax.random.split(key)
            phi = jax.random.normal(key_start, (self.size,), self.x.dtype)
            keys = jax.random.split(key_moves, n * thin).reshape(n, thin)
            return jax.lax.scan(kept, (phi, *evaluate(phi)), keys)[1]

        phi, potential, probability = chain(key)
        return Chain(phi=phi, potential=potential, acceptance=float(np.mean(probability)))


State = tuple[Array, Array, Array]
"""phi, Phi and its gradient."""


def _without_gradient(
    potential: Callable[[Array], Scalar],
) -> Callable[[Array], tuple[Array, Array]]:
    return lambda phi: (potential(phi), jnp.zeros_like(phi))


def _pcn(key: PRNGKeyArray, state: State, evaluate: Any, b: float) -> tuple[State, Scalar]:
    phi, value, _ = state
    new = math.sqrt(1 - b**2) * phi + b * jax.random.normal(key, phi.shape, phi.dtype)
    found = (new, *evaluate(new))
    return found, value - found[1]


def _pcnl(key: PRNGKeyArray, state: State, evaluate: Any, delta: float) -> tuple[State, Scalar]:
    phi, value, g = state
    e = jax.random.normal(key, phi.shape, phi.dtype)
    new = ((2 - delta) * phi - 2 * delta * g + math.sqrt(8 * delta) * e) / (2 + delta)
    found = (new, *evaluate(new))
    _, value_new, g_new = found
    ratio = value - value_new - jnp.sum((phi - new) * (g + g_new)) / 2
    ratio += delta / 4 * (jnp.sum((phi + new) * (g - g_new)) + jnp.sum(g**2) - jnp.sum(g_new**2))
    return found, ratio


def _hmc(
    key: PRNGKeyArray, state: State, evaluate: Any, step: float, leaps: int
) -> tuple[State, Scalar]:
    momentum = jax.random.normal(key, state[0].shape, state[0].dtype)

    def leap(_: Array, carry: tuple[State, Array]) -> tuple[State, Array]:
        (phi, _, g), p = carry
        p = p - step / 2 * (g + phi)
        phi = phi + step * p
        value, g = evaluate(phi)
        return (phi, value, g), p - step / 2 * (g + phi)

    new, p = jax.lax.fori_loop(0, leaps, leap, (state, momentum))
    before = state[1] + (jnp.sum(state[0] ** 2) + jnp.sum(momentum**2)) / 2
    return new, before - new[1] - (jnp.sum(new[0] ** 2) + jnp.sum(p**2)) / 2
