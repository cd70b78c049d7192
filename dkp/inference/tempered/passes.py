"""Runs of tempered sequential Monte Carlo.

One chooses temperatures and moves, and others follow them.

What they do is kept in a :class:`Journal`, from which a call that was killed goes on.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dkp._core.record import record
from dkp._core.types import Array, Float, Int, PRNGKeyArray
from dkp.inference.checkpoint import Checkpoint
from dkp.inference.coordinates import Coordinates
from dkp.inference.tempered.moves import (
    Moved,
    Particles,
    Reference,
    fit_reference,
    move_chains,
    prior_particles,
)

__all__ = ["LENGTH", "Journal", "Plan", "Run", "Stage", "pilot", "run"]

LENGTH = 16  # states of a chain
_EFFECTIVE = 0.5  # share of the particles that survive a change of temperature


@record
class Stage:
    """A temperature, and the moves that are made there."""

    temperature: float
    reference: Reference
    angle: float


@record
class Run:
    """What one pass from the prior to the posterior gives."""

    z: np.ndarray
    log_evidence: float
    variance: float
    acceptance: float
    correlation: float


@record
class Plan:
    """How a run is made."""

    coordinates: Coordinates
    chains: int
    move: str
    batch: int

    def move_chains(
        self,
        key: PRNGKeyArray,
        particles: Particles,
        weights: np.ndarray,
        stage: "Stage",
        gain: float,
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


@record
class Walk:
    """Where a pass is.

    Attributes:
        particles: after so many stages.
        slopes: of the chains that ended there.
        angle: of a rotation.
        numbers: what every stage gave, a row each: log of the mean weight, its relative variance,
            acceptance, correlation.
    """

    particles: Particles
    slopes: np.ndarray | None = None
    angle: float = 0.5
    numbers: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 4)))


class Journal:
    """What a call has done so far.

    That is the stages of its pilot, the runs that are over, and the pass that is not.

    It starts from what the checkpoint holds, and keeps to its batches: others round differently.
    """

    def __init__(self, plan: Plan, checkpoint: Checkpoint | None = None) -> None:
        self.plan = plan
        self._checkpoint = checkpoint
        self.stages: list[Stage] = []
        self.runs: list[Run] = []
        self.walk: Walk | None = None
        self._began = time.perf_counter()
        found = None if checkpoint is None else checkpoint.found("passes")
        if found is not None:
            self._restore(found)

    @property
    def seconds(self) -> float:
        """Of all attempts together."""
        return time.perf_counter() - self._began

    @property
    def pilot_is_over(self) -> bool:
        return bool(self.stages) and self.stages[-1].temperature == 1

    def write(self, walk: Walk | None) -> None:
        """Note where the pass is, or that it is over.

        It goes to the file, when it is time for one.
        """
        self.walk = walk
        if self._checkpoint is not None and self._checkpoint.is_due:
            self.save()

    def save(self) -> None:
        """Write the file, where there is one."""
        if self._checkpoint is None:
            return
        self._checkpoint.save(
            "passes",
            {
                "stages": self.stages,
                "runs": self.runs,
                "walk": self.walk,
                "batch": self.plan.batch,
                "seconds": self.seconds,
            },
        )

    def _restore(self, found: dict[str, Any]) -> None:
        self.plan = dataclasses.replace(self.plan, batch=found["batch"])
        self._began -= found["seconds"]
        self.stages, self.runs, self.walk = found["stages"], found["runs"], found["walk"]


def pilot(journal: Journal, key: PRNGKeyArray, report: Callable[..., None]) -> None:
    """From the prior to the posterior, choosing every temperature and its moves on the way.

    These are the stages of the journal.
    """
    if journal.pilot_is_over:
        return
    walk = journal.walk or Walk(particles=journal.plan.prior(jax.random.fold_in(key, 0)))
    while not journal.pilot_is_over:
        temperature = journal.stages[-1].temperature if journal.stages else 0.0
        likelihood = np.asarray(walk.particles.likelihood, float)
        following = _next_temperature(likelihood, temperature)
        weights = _weights(likelihood, following - temperature)[0]
        reference = fit_reference(walk.particles, weights / weights.sum(), walk.slopes)
        stage = Stage(temperature=following, reference=reference, angle=walk.angle)
        key_stage = jax.random.fold_in(key, 1 + len(journal.stages))
        chains = journal.plan.move_chains(key_stage, walk.particles, weights, stage, 1.0)
        slopes = None if chains.slopes is None else np.asarray(chains.slopes, float)
        walk = Walk(particles=chains.particles, slopes=slopes, angle=float(chains.angle))
        journal.stages.append(dataclasses.replace(stage, angle=walk.angle))
        journal.write(None if journal.pilot_is_over else walk)
        report(temperature=following)


def run(journal: Journal, key: PRNGKeyArray, report: Callable[..., None]) -> None:
    """From the prior to the posterior, by the temperatures and the moves of the pilot.

    It is one more run of the journal.
    """
    walk = journal.walk or Walk(particles=journal.plan.prior(jax.random.fold_in(key, 0)))
    for number in range(len(walk.numbers), len(journal.stages)):
        stage = journal.stages[number]
        temperature = journal.stages[number - 1].temperature if number else 0.0
        weights, shift = _weights(
            np.asarray(walk.particles.likelihood, float), stage.temperature - temperature
        )
        variance = _relative_variance(weights.reshape(LENGTH, journal.plan.chains))
        chains = journal.plan.move_chains(
            jax.random.fold_in(key, 1 + number), walk.particles, weights, stage, 0.0
        )
        correlation = _correlation(
            np.asarray(chains.particles.likelihood).reshape(LENGTH, journal.plan.chains)
        )
        row = [shift + math.log(weights.mean()), variance, float(chains.acceptance), correlation]
        walk = Walk(particles=chains.particles, numbers=np.vstack([walk.numbers, row]))
        journal.write(walk)
        report(temperature=stage.temperature, log_evidence=float(walk.numbers[:, 0].sum()))
    logs, variances, acceptances, correlations = walk.numbers.T
    found = Run(
        z=np.asarray(walk.particles.z),
        log_evidence=float(logs.sum()),
        variance=float(variances.sum()),
        acceptance=float(acceptances.min()),
        correlation=float(correlations.max()),
    )
    journal.runs.append(found)
    journal.write(None)


def _weights(
    likelihood: Float[np.ndarray, " S"], step: float
) -> tuple[Float[np.ndarray, " S"], float]:
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
    """Where the weights have the effective number of particles that is wanted, or 1.

    They are p(y | z)^(next - now).
    """
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
            "Expected a finite log-likelihood at some draw from the prior. Got none at "
            f"{len(likelihood)} draws: "
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
