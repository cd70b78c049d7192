"""Markov transitions that leave p(z | y) invariant.

They are NUTS, HMC, elliptical slice sampling and preconditioned Crank-Nicolson.

All of them move a point z of :class:`~dkp.inference.coordinates.Coordinates`, whose prior is close
to N(0, I). The first two follow gradients in a metric learned in warm-up; the last two propose from
the normal prior and need none.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from dkp._core.types import Array, Bool, Float, Int, PRNGKeyArray, Scalar
from dkp.inference.coordinates import Coordinates

__all__ = [
    "ESS",
    "HMC",
    "METHODS",
    "NUTS",
    "PCN",
    "Info",
    "Method",
    "Metric",
    "State",
    "identity_metric",
]


class State(NamedTuple):
    """Where a chain is.

    Attributes:
        z: the point.
        log_density: logarithm of the density that the method needs at z.
        gradient: of it, where the method needs that.
    """

    z: Float[Array, " K"]
    log_density: Scalar
    gradient: Float[Array, " K"]


class Metric(NamedTuple):
    """Covariance estimate diag(scale) (I + V (diag(eigenvalues) - I) V^T) diag(scale).

    The columns of V, `vectors`, are orthonormal.
    """

    scale: Float[Array, " K"]
    vectors: Float[Array, "K R"]
    eigenvalues: Float[Array, " R"]


class Info(NamedTuple):
    """What happened in one transition.

    Attributes:
        acceptance: probability of acceptance, or its mean over a trajectory.
        diverging: whether the trajectory diverged.
        energy: minus the log of the joint density (of position and momentum, for HMC and NUTS).
        steps: evaluations of the density (or of its gradient).
        depth: of the tree of NUTS.
    """

    acceptance: Scalar
    diverging: Bool[Array, ""]
    energy: Scalar
    steps: Int[Array, ""]
    depth: Int[Array, ""]


@runtime_checkable
class Method(Protocol):
    """One kind of transition; `step_size` and `metric` are tuned in warm-up."""

    name: str
    uses_gradient: bool
    target_acceptance: float | None
    """Acceptance for which warm-up tunes the step size; None for methods that have none."""

    def init(self, target: Coordinates, z: Float[Array, " K"]) -> State:
        """The state at z."""
        ...

    def step(
        self,
        target: Coordinates,
        key: PRNGKeyArray,
        state: State,
        step_size: Scalar,
        metric: Metric,
    ) -> tuple[State, Info]:
        """One transition."""
        ...


def identity_metric(size: int, dtype: Any, rank: int = 0) -> Metric:
    """The metric before anything is known: the prior's."""
    vectors = jnp.eye(size, rank, dtype=dtype)
    return Metric(jnp.ones(size, dtype), vectors, jnp.ones(rank, dtype))


class _Hamiltonian:
    """Follows the gradient of the log-density in a metric."""

    uses_gradient = True

    def init(self, target: Coordinates, z: Float[Array, " K"]) -> State:
        return State(z, *jax.value_and_grad(target.log_posterior)(z))


class _FromPrior:
    """Proposes from N(0, I): the density that counts is the one relative to it."""

    uses_gradient = False

    def init(self, target: Coordinates, z: Float[Array, " K"]) -> State:
        return State(z, _excess(target, z), jnp.zeros_like(z))


@dataclasses.dataclass(frozen=True)
class NUTS(_Hamiltonian):
    """The no-U-turn sampler, BlackJAX's implementation.

    Attributes:
        target_acceptance: for which warm-up tunes the step size.
        max_depth: largest number of doublings of the trajectory. Most directions of whitened
            coordinates have the unit scale of the prior, in which half a turn takes pi / step_size
            steps.

    Source: Hoffman & Gelman 2014.
    """

    target_acceptance: float = 0.8
    max_depth: int = 10
    name = "nuts"

    def step(
        self,
        target: Coordinates,
        key: PRNGKeyArray,
        state: State,
        step_size: Scalar,
        metric: Metric,
    ) -> tuple[State, Info]:
        from blackjax.mcmc import nuts
        from blackjax.mcmc.hmc import HMCState

        start: Any = HMCState
        kernel: Any = nuts.build_kernel()
        new, info = kernel(
            key,
            start(*state),
            target.log_posterior,
            step_size,
            _inverse_mass(metric),
            self.max_depth,
        )
        return State(*new), Info(
            acceptance=info.acceptance_rate,
            diverging=info.is_divergent,
            energy=info.energy,
            steps=info.num_integration_steps,
            depth=info.num_trajectory_expansions,
        )


@dataclasses.dataclass(frozen=True)
class HMC(_Hamiltonian):
    """Hamiltonian Monte Carlo with a trajectory of random length.

    It is uniform between 0 and twice `trajectory`.

    Attributes:
        target_acceptance: for which warm-up tunes the step size.
        trajectory: mean time of integration. In the metric of warm-up the posterior has about unit
            scale, and a quarter turn, pi / 2, makes draws of a normal law independent.
        max_steps: largest number of steps in a trajectory.
    """

    target_acceptance: float = 0.8
    trajectory: float = 1.5708
    max_steps: int = 1000
    name = "hmc"

    def step(
        self,
        target: Coordinates,
        key: PRNGKeyArray,
        state: State,
        step_size: Scalar,
        metric: Metric,
    ) -> tuple[State, Info]:
        from blackjax.mcmc import hmc

        start: Any = hmc.HMCState
        key_length, key_step = jax.random.split(key)
        time = 2 * self.trajectory * jax.random.uniform(key_length, dtype=state.z.dtype)
        steps = jnp.clip(jnp.ceil(time / step_size), 1, self.max_steps).astype(jnp.int32)
        kernel: Any = hmc.build_kernel()
        new, info = kernel(
            key_step, start(*state), target.log_posterior, step_size, _inverse_mass(metric), steps
        )
        return State(*new), Info(
            acceptance=info.acceptance_rate,
            diverging=info.is_divergent,
            energy=info.energy,
            steps=steps,
            depth=jnp.zeros((), jnp.int32),
        )


@dataclasses.dataclass(frozen=True)
class ESS(_FromPrior):
    """Elliptical slice sampling, BlackJAX's implementation: no step size, no gradient.

    The ellipse passes through z and a draw of N(0, I); what the density has beyond that normal law
    is sliced.

    Source: Murray, Adams & MacKay 2010.
    """

    target_acceptance: float | None = None
    name = "ess"

    def step(
        self,
        target: Coordinates,
        key: PRNGKeyArray,
        state: State,
        step_size: Scalar,
        metric: Metric,
    ) -> tuple[State, Info]:
        from blackjax.mcmc import elliptical_slice

        kernel: Any = elliptical_slice.build_kernel(jnp.ones_like(state.z), jnp.zeros_like(state.z))
        start = elliptical_slice.EllipSliceState(state.z, state.log_density)
        new, info = kernel(key, start, lambda z: _excess(target, z))
        steps = jnp.asarray(info.subiter, jnp.int32)
        return State(new.position, new.logdensity, state.gradient), _without_gradient(
            jnp.ones_like(new.logdensity), new.position, new.logdensity, steps
        )


@dataclasses.dataclass(frozen=True)
class PCN(_FromPrior):
    """Preconditioned Crank-Nicolson: z' = sqrt(1 - b^2) z + b e, e ~ N(0, I).

    It leaves N(0, I) invariant; b = step_size / sqrt(1 + step_size^2).

    Source: Cotter, Roberts, Stuart & White 2013; for wide networks Pezzetti, Favaro & Peluchetti
    2024 (arXiv 2408.14325).
    """

    target_acceptance: float = 0.25
    name = "pcn"

    def step(
        self,
        target: Coordinates,
        key: PRNGKeyArray,
        state: State,
        step_size: Scalar,
        metric: Metric,
    ) -> tuple[State, Info]:
        key_noise, key_accept = jax.random.split(key)
        # b = 1: where all is accepted the tuner goes on until squares overflow
        step_size = jnp.minimum(step_size, 1e3)
        noise = jax.random.normal(key_noise, state.z.shape, state.z.dtype)
        proposal = (state.z + step_size * noise) / jnp.sqrt(1 + step_size**2)
        excess = _excess(target, proposal)
        acceptance = jnp.minimum(jnp.exp(jnp.minimum(excess - state.log_density, 0)), 1)
        accepted = jax.random.uniform(key_accept, dtype=acceptance.dtype) < acceptance
        z, log_density = (
            jnp.where(accepted, new, old)
            for new, old in ((proposal, state.z), (excess, state.log_density))
        )
        return State(z, log_density, state.gradient), _without_gradient(
            acceptance, z, log_density, jnp.ones((), jnp.int32)
        )


METHODS: dict[str, type] = {"nuts": NUTS, "hmc": HMC, "ess": ESS, "pcn": PCN}


def _excess(target: Coordinates, z: Array) -> Scalar:
    """Log-density of z relative to N(0, I)."""
    correction, likelihood = target.log_densities(z)
    return correction + likelihood


def _without_gradient(acceptance: Scalar, z: Array, excess: Scalar, steps: Array) -> Info:
    return Info(
        acceptance=acceptance,
        diverging=jnp.zeros((), bool),
        energy=jnp.sum(z**2) / 2 - excess,
        steps=steps,
        depth=jnp.zeros((), jnp.int32),
    )


def _inverse_mass(metric: Metric) -> Any:
    from blackjax.mcmc.metrics import LowRankInverseMassMatrix

    return LowRankInverseMassMatrix(metric.scale, metric.vectors, metric.eigenvalues)
