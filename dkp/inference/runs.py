"""Runs of tempered sequential Monte Carlo: one that chooses temperatures and moves, and others that follow them."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dkp._types import Array, Float, Int, PRNGKeyArray
from dkp.inference.coordinates import Coordinates
from dkp.inference.tempering import Moved, Particles, Reference, fit_reference, move_chains, prior_particles

__all__ = ["LENGTH", "Plan", "Run", "Stage", "pilot", "run"]

LENGTH = 16  # states of a chain
_EFFECTIVE = 0.5  # share of the particles that survive a change of temperature


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """A temperature, and the moves that are made there."""

    temperature: float
    reference: Reference
    angle: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What one pass from the prior to the posterior gives."""

    z: np.ndarray
    log_evidence: float
    variance: float
    acceptance: float
    correlation: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How a run is made."""

    coordinates: Coordinates
    chains: int
    move: str
    batch: int

    def move_chains(
        self, key: PRNGKeyArray, particles: Particles, weights: np.ndarray, stage: "Stage", gain: float
    ) -> Moved:
        """Resample the particles, and move them at the temperature of the stage."""
        key_start, key_move = jax.random.split(key)
        start = particles.take(_resample(key_start, weights, self.chains))
        dtype = self.coordinates.dtype
        numbers = (jnp.asarray(number, dtype) for number in (stage.temperature, stage.angle, gain))
        options = (self.move, LENGTH, self.batch)
        return move_chains(self.coordinates, key_move, start, stage.reference, *numbers, *options)

    def prior(self, key: PRNGKeyArray) -> Particles:
        """Particles at temperature 0."""
        return prior_particles(self.coordinates, key, self.chains * LENGTH, self.batch)


def pilot(plan: Plan, key: PRNGKeyArray, report: Callable[..., None]) -> list[Stage]:
    """From the prior to the posterior, choosing every temperature and its moves on the way."""
    particles, slopes, temperature, angle = plan.prior(jax.random.fold_in(key, 0)), None, 0.0, 0.5
    stages: list[Stage] = []
    while temperature < 1:
        likelihood = np.asarray(particles.likelihood, float)
        following = _next_temperature(likelihood, temperature)
        weights = _weights(likelihood, following - temperature)[0]
        reference = fit_reference(particles, weights / weights.sum(), slopes)
        stage = Stage(temperature=following, reference=reference, angle=angle)
        chains = plan.move_chains(jax.random.fold_in(key, 1 + len(stages)), particles, weights, stage, 1.0)
        particles, temperature, angle = chains.particles, following, float(chains.angle)
        slopes = None if chains.slopes is None else np.asarray(chains.slopes, float)
        stages.append(dataclasses.replace(stage, angle=angle))
        report(temperature=temperature)
    return stages


def run(plan: Plan, stages: Sequence[Stage], key: PRNGKeyArray, report: Callable[..., None]) -> Run:
    """From the prior to the posterior, by given temperatures and moves."""
    particles, total, variance, temperature = plan.prior(jax.random.fold_in(key, 0)), 0.0, 0.0, 0.0
    acceptance, correlation = [], []
    for number, stage in enumerate(stages, start=1):
        weights, shift = _weights(np.asarray(particles.likelihood, float), stage.temperature - temperature)
        total += shift + math.log(weights.mean())
        variance += _relative_variance(weights.reshape(LENGTH, plan.chains))
        chains = plan.move_chains(jax.random.fold_in(key, number), particles, weights, stage, 0.0)
        particles, temperature = chains.particles, stage.temperature
        acceptance.append(float(chains.acceptance))
        correlation.append(_correlation(np.asarray(particles.likelihood).reshape(LENGTH, plan.chains)))
        report(temperature=temperature, log_evidence=total)
    return Run(
        z=np.asarray(particles.z),
        log_evidence=total,
        variance=variance,
        acceptance=min(acceptance),
        correlation=max(correlation),
    )


def _weights(likelihood: Float[np.ndarray, " S"], step: float) -> tuple[Float[np.ndarray, " S"], float]:
    """p(y | z)^step up to a factor, and the logarithm of that factor."""
    logs = step * likelihood
    _check_finite(likelihood)
    return np.exp(logs - logs.max()), float(logs.max())


def _resample(key: PRNGKeyArray, weights: Float[np.ndarray, " S"], n: int) -> Int[Array, " M"]:
    """Systematic: a particle of relative weight w is chosen n w times, rounded up or down."""
    places = (np.arange(n) + float(jax.random.uniform(key))) / n
    shares = np.cumsum(weights) / np.sum(weights)
    return jnp.asarray(np.minimum(np.searchsorted(shares, places, side="right"), len(weights) - 1))


def _next_temperature(likelihood: np.ndarray, now: float) -> float:
    """Where the weights p(y | z)^(next - now) have the effective number of particles that is wanted, or 1."""
    _check_finite(likelihood)
    finite = likelihood[np.isfinite(likelihood)]
    relative = finite - finite.max()

    def enough(step: float) -> bool:
        weights = np.exp(step * relative)
        return bool(weights.sum() ** 2 >= _EFFECTIVE * len(finite) * np.sum(weights**2))

    if enough(1 - now):
        return 1.0
    low, high = math.log(1 - now) - 60, math.log(1 - now)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if enough(math.exp(middle)) else (low, middle)
    return max(now + math.exp(low), math.nextafter(now, 1))


def _check_finite(likelihood: Float[np.ndarray, " S"]) -> None:
    if not np.any(np.isfinite(likelihood)):
        raise ValueError(
            f"Expected a finite log-likelihood at some draw from the prior. Got none at {len(likelihood)} draws: "
            "the noise may be too small for the numbers' precision."
        )


def _relative_variance(weights: Float[np.ndarray, "T M"]) -> float:
    """Squared relative error of the mean weight, from the means of chains that are independent."""
    means = weights.mean(axis=0)
    return float(means.var(ddof=1) / len(means) / means.mean() ** 2)


def _correlation(likelihood: Float[np.ndarray, "T M"]) -> float:
    """Correlation of successive states of a chain."""
    before, after = likelihood[:-1].ravel(), likelihood[1:].ravel()
    if np.ptp(before) == 0 or np.ptp(after) == 0:
        return 1.0
    return float(np.corrcoef(before, after)[0, 1])
