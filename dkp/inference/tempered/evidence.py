"""The evidence of a model: log p(y | x) with bottlenecks and hyperparameters integrated out.

A pilot run of :mod:`dkp.inference.tempered.moves` chooses the temperatures and the moves. The runs
after it, which use what it chose and nothing else of it, each give an unbiased estimate of the
evidence, however few their particles: their mean is the answer, and their spread its error. (A run
that adapts is biased: its particles have chosen the moves that they make. Measured: 1 nat at 256
particles and a spread of 0.5.) Without anything to integrate out the evidence is exact.
"""

import functools
import math
import os
from typing import Any, cast

import jax
import numpy as np

from dkp._core import checks
from dkp._core.machine import allowed_memory
from dkp._core.progress import Progress
from dkp._core.record import record
from dkp._core.types import Float, PRNGKeyArray
from dkp.data.dataset import Dataset
from dkp.inference.checkpoint import checkpoint_of
from dkp.inference.checks import Problem
from dkp.inference.coordinates import Coordinates
from dkp.inference.draws_posterior import DrawsPosterior
from dkp.inference.gaussian.condition import condition
from dkp.inference.tempered.moves import MOVES
from dkp.inference.tempered.passes import LENGTH, Journal, Plan, pilot, run
from dkp.model.process import DeepKernelProcess
from dkp.posterior.protocol import Posterior

__all__ = ["Evidence", "combine_runs", "evidence_plan", "log_evidence"]

_MATRICES = 30  # of N x N, for every bottleneck and the outputs, while a gradient is computed
_BATCH_BYTES = 500_000_000


@record
class Evidence:
    """An estimate of log p(y | x), in nats: all data, standardised targets.

    Attributes:
        log_evidence: log of the mean of the estimates of the runs.
        standard_error: of `log_evidence`, 0 where it is exact.
        posterior: the particles of all runs, a chain each; or the exact posterior.
        temperatures: from 0 to 1.
        runs: log evidence of every run.
        within: the error of a run, computed from its own chains.
        acceptance: lowest mean acceptance of a temperature.
        correlation: largest correlation of the log-likelihood of successive states of a chain.
        seconds: of all runs, compilation included.

    Examples:
        >>> import jax
        >>> import dkp
        >>> model = dkp.DeepKernelProcess(
        ...     layers=[dkp.kernels.SquaredExponential(1.0, 1.0)],
        ...     likelihood=dkp.likelihoods.Gaussian(0.1),
        ... )
        >>> data = dkp.Dataset.from_arrays([[0.0], [1.0], [2.0], [3.0]], [0.0, 1.0, 0.0, 1.0])
        >>> evidence = dkp.log_evidence(model, data, key=jax.random.key(0))
        >>> print(f"{evidence.log_evidence:.3f} +- {evidence.standard_error:.3f}")
        -28.080 +- 0.000
    """

    log_evidence: float
    standard_error: float
    posterior: Posterior
    temperatures: Float[np.ndarray, " T"]
    runs: Float[np.ndarray, " R"]
    within: Float[np.ndarray, " R"]
    acceptance: float
    correlation: float
    seconds: float

    def summary(self) -> dict[str, Any]:
        """What to look at before trusting the estimate: the error, and whether the runs agree."""
        return {
            "log_evidence": self.log_evidence,
            "standard_error": self.standard_error,
            "runs": self.runs.tolist(),
            "error_within_runs": self.within.tolist(),
            "temperatures": len(self.temperatures),
            "lowest_acceptance": self.acceptance,
            "largest_correlation": self.correlation,
            "seconds": self.seconds,
        }


def log_evidence(
    model: DeepKernelProcess,
    data: Dataset,
    *,
    key: PRNGKeyArray,
    particles: int = 1024,
    runs: int = 4,
    move: str = "hmc",
    max_memory: float | None = None,
    progress: bool | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: float = 60.0,
) -> Evidence:
    """Estimate log p(y | x) = log of the integral of p(y | network) over the prior of networks.

    The standard error is the largest of three: sd(Z_r) / (mean(Z_r) sqrt R) and sd(log Z_r) / sqrt
    R for the estimates Z_r of the R runs, and the error that the chains within the runs show. The
    first two rest on R numbers, so two standard errors are an interval of 86% for four runs, and of
    91% for eight, where the third is smaller.

    Args:
        model: with a number or a distribution for every hyperparameter.
        data: training data.
        key: for everything random.
        particles: points that stand for the network at every temperature, rounded up to a multiple
            of 16, at least 64. The variance falls with 1 / particles once there are enough; below,
            runs disagree.
        runs: independent passes after the pilot, at least 2.
        move: "hmc", or "pcn", which needs no gradients and many more particles.
        max_memory: bytes that particles and matrices may take; half of what is free by default.
        progress: show a progress bar; None shows it on a terminal and in a notebook only.
        checkpoint: a file for the state of the call, as in :func:`dkp.fit_vi`.
        every: seconds between two checkpoints, which are written between two temperatures.

    Raises:
        ValueError: for learned hyperparameters, numbers out of range, a model that does not fit the
            data, or one whose likelihood is no finite number at any draw from the prior.

    Source: Del Moral, Doucet & Jasra 2006; Dau & Chopin 2022 (arXiv 2011.02328).

    Examples:
        >>> import jax
        >>> import dkp
        >>> model = dkp.DeepKernelProcess(
        ...     layers=[dkp.kernels.SquaredExponential(1.0, 1.0)],
        ...     likelihood=dkp.likelihoods.Gaussian(0.1),
        ... )
        >>> data = dkp.Dataset.from_arrays([[0.0], [1.0], [2.0], [3.0]], [0.0, 1.0, 0.0, 1.0])
        >>> evidence = dkp.log_evidence(model, data, key=jax.random.key(0))
        >>> print(evidence.standard_error)
        0.0
    """
    checks.random_key("key", key)
    plan = evidence_plan(
        model, data, particles=particles, runs=runs, move=move, max_memory=max_memory
    )
    if plan is None:
        return _exact(model, data)
    options = {"chains": plan.chains, "move": plan.move, "runs": runs}
    call = ("log_evidence", plan.coordinates.model, [plan.coordinates.data], [key], options)
    with checkpoint_of(checkpoint, every, *call) as file:
        journal = Journal(plan, file)
        with Progress(1 + runs, label="log_evidence", enabled=progress) as bar:
            pilot(journal, jax.random.fold_in(key, 0), functools.partial(bar.update, 0))
            for r in range(1 + len(journal.runs), 1 + runs):
                run(journal, jax.random.fold_in(key, r), functools.partial(bar.update, r))
            bar.update(1 + runs)
        journal.save()
    return _combine(journal)


def evidence_plan(
    model: DeepKernelProcess,
    data: Dataset,
    *,
    particles: int = 1024,
    runs: int = 4,
    move: str = "hmc",
    max_memory: float | None = None,
) -> Plan | None:
    """What :func:`log_evidence` will do; None where the evidence is known in closed form.

    Raises:
        ValueError: for everything that is known to go wrong before anything runs.
    """
    problem = Problem.of(model, data)
    particles, runs = checks.positive_int("particles", particles), checks.positive_int("runs", runs)
    checks.one_of("move", move, MOVES)
    _check_none_learned(problem)
    coordinates = Coordinates.of(model, data)
    if coordinates.size == 0:
        return None
    if runs < 2:
        raise ValueError(
            f"Expected runs to be at least 2, since their spread gives the error. Got {runs}."
        )
    chains = max(-(-particles // LENGTH), 4)
    batch = _batch(coordinates, chains, runs, allowed_memory(max_memory))
    return Plan(coordinates=coordinates, chains=chains, move=move, batch=batch)


def combine_runs(
    logs: Float[np.ndarray, " R"], within: Float[np.ndarray, " R"]
) -> tuple[float, float]:
    """Log of the mean of exp(logs), and its standard error: see :func:`log_evidence`.

    Args:
        logs: of the estimates of independent runs.
        within: relative errors of the estimates, by themselves.
    """
    ratios = np.exp(logs - logs.max())
    # Relative spread of the estimates: at most sqrt R, so that of the logarithms speaks up where
    # runs disagree.
    spreads = (ratios.std(ddof=1) / ratios.mean(), logs.std(ddof=1), math.sqrt(np.mean(within**2)))
    return float(logs.max() + np.log(ratios.mean())), float(max(spreads) / math.sqrt(len(logs)))


def _combine(journal: Journal) -> Evidence:
    runs, coordinates = journal.runs, journal.plan.coordinates
    logs = np.asarray([run.log_evidence for run in runs])
    within = np.sqrt([run.variance for run in runs])
    value, error = combine_runs(logs, within)
    z = np.stack([run.z for run in runs])
    posterior = DrawsPosterior(model=coordinates.model, coordinates=coordinates, z=z)
    return Evidence(
        log_evidence=value,
        standard_error=error,
        posterior=cast(Posterior, posterior),
        temperatures=np.asarray([0.0, *(stage.temperature for stage in journal.stages)]),
        runs=logs,
        within=within,
        acceptance=min(run.acceptance for run in runs),
        correlation=max(run.correlation for run in runs),
        seconds=journal.seconds,
    )


def _exact(model: DeepKernelProcess, data: Dataset) -> Evidence:
    posterior = condition(model, data)
    value = posterior.log_marginal_likelihood
    return Evidence(
        log_evidence=value,
        standard_error=0.0,
        posterior=cast(Posterior, posterior),
        temperatures=np.asarray([0.0, 1.0]),
        runs=np.asarray([value]),
        within=np.zeros(1),
        acceptance=1.0,
        correlation=0.0,
        seconds=posterior.seconds,
    )


def _check_none_learned(problem: Problem) -> None:
    if problem.learned:
        raise ValueError(
            "Expected a number or a distribution for every hyperparameter, since evidence is an "
            "integral over a prior. "
            f"Got learn() for {', '.join(problem.learned)}: give it a prior, such as "
            "dist.LogNormal(0.0, 1.0), or a number."
        )


def _batch(coordinates: Coordinates, chains: int, runs: int, limit: float) -> int:
    """How many likelihoods are computed at the same time.

    Raises:
        ValueError: when the particles, or one likelihood, do not fit into memory.
    """
    itemsize, n = coordinates.dtype.itemsize, coordinates.data.n
    one = itemsize * (_MATRICES * (1 + len(coordinates.model.bottlenecks)) * n**2)
    kept = itemsize * chains * LENGTH * coordinates.size * (runs + 4)
    if kept + one > limit:
        raise ValueError(
            f"Expected to need at most {limit:.2g} bytes. Got {kept + one:.2g}: {kept:.2g} for "
            f"{chains * LENGTH} particles of {coordinates.size} numbers in {runs} runs, and "
            f"{one:.2g} for the "
            f"matrices of {n} points: take fewer particles or points, or raise max_memory."
        )
    return int(np.clip(min(_BATCH_BYTES, limit - kept) // one, 1, chains))
