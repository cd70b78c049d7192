"""Exact posteriors by Markov chain Monte Carlo: ``dkp.sample_hmc``."""

import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from dkp._core import checks
from dkp._core.machine import allowed_memory, one_blas_thread
from dkp._core.progress import Progress
from dkp._core.types import PRNGKeyArray
from dkp.data.dataset import Dataset
from dkp.inference.checkpoint import checkpoint_of
from dkp.inference.checks import Problem
from dkp.inference.coordinates import Coordinates
from dkp.inference.markov.chains import CHAIN_METHODS, Chains
from dkp.inference.markov.initial import check_init, initial_points
from dkp.inference.markov.posterior import MCMCPosterior
from dkp.inference.markov.session import Session
from dkp.inference.markov.summaries import functionals_of
from dkp.inference.markov.transitions import METHODS, Method, identity_metric
from dkp.inference.markov.warmup import metric_rank
from dkp.inference.variational.posterior import VariationalPosterior
from dkp.model.hyperparameters import Hyperparameter, substitute
from dkp.model.process import DeepKernelProcess

__all__ = ["LARGEST_N", "sample_hmc", "with_priors"]

LARGEST_N = 1_000
"""Points beyond which a transition, dozens of factorisations of N x N matrices, takes minutes."""


def sample_hmc(
    model: DeepKernelProcess,
    data: Dataset,
    *,
    key: PRNGKeyArray,
    chains: int = 4,
    warmup: int = 1000,
    draws: int = 1000,
    thin: int = 1,
    method: str = "nuts",
    init: VariationalPosterior | None = None,
    target_acceptance: float | None = None,
    max_tree_depth: int | None = None,
    trajectory_length: float | None = None,
    chain_method: str = "auto",
    max_memory: float | None = None,
    progress: bool | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: float = 60.0,
) -> MCMCPosterior:
    """Draw from the exact posterior of a deep kernel process by Markov chain Monte Carlo.

    All data points are their own inducing points. The chains move Bartlett factors, whose law does
    not depend on the kernel, in coordinates whose prior is close to N(0, I); Gaussian noise is
    integrated out with the outputs. A step of the two methods that follow gradients costs one
    Cholesky factorisation of an N x N matrix a layer and its derivative.

    Args:
        model: any bottlenecks, any likelihood. Hyperparameters: a number stands; a distribution is
            inferred; ``learn`` stands at the value that `init` found, or gets a log-normal prior
            around its start (a normal one where it may be negative), with a warning.
        data: standardised; up to 1000 points.
        key: for everything random.
        chains: independent chains. warmup: transitions of each that tune step size and metric, and
            are dropped.
        draws: kept draws of each chain. thin: transitions for every kept draw.
        method: ``"nuts"``; ``"hmc"`` (random trajectory lengths); ``"ess"`` (elliptical slice
            sampling) and ``"pcn"`` (preconditioned Crank-Nicolson), which need no gradient and suit
            wide bottlenecks and much noise.
        init: start from draws of a variational posterior of the same model and data; from the prior
            by default.
        target_acceptance: mean acceptance for which warm-up tunes the step size, in (0, 1); higher
            is safer and slower. By default 0.8, and 0.25 for pcn.
        max_tree_depth: doublings of a NUTS trajectory, at most; 10 by default. Trees end by
            themselves after half a turn, which takes about pi / step_size steps in whitened
            coordinates: a smaller number saves gradients where it cuts the last doubling, and costs
            many effective draws where it cuts two.
        trajectory_length: mean time of integration of hmc; pi / 2 by default, a quarter turn of a
            direction of unit scale. Longer ones pay where hyperparameters move slowly. No
            trajectory has more than 1000 steps.
        chain_method: ``"parallel"`` (threads), ``"vectorized"``, ``"sequential"``, or ``"auto"``:
            threads on processors, vectorised on accelerators.
        max_memory: bytes that the draws may take; half of what is free by default.
        progress: show a progress bar; by default on terminals and in notebooks.
        checkpoint: a file for the state of the chains, draws included. A call that was killed, made
            again with the same arguments, goes on from there, and ends as it would have, to the
            last bit on the same machine; one that had finished returns at once. SIGTERM saves and
            stops.
        every: seconds between two checkpoints.

    Returns:
        the posterior. Ctrl-C during sampling returns the draws so far.

    Warns:
        RuntimeWarning: float32 data; learned hyperparameters without `init`; and at the end for
            divergences, R-hat above 1.01, few effective draws and chains that did not move.

    Raises:
        ValueError: for arguments out of range, too many points, draws that do not fit into memory,
            or a bottleneck that cannot be treated.

    Source: Ober & Aitchison 2021 (arXiv 2107.10125), Bartlett factors; the methods are cited in
    ``dkp.inference.markov.transitions``.

    Examples:
        >>> import warnings
        >>> import jax
        >>> import dkp
        >>> kernel = dkp.kernels.SquaredExponential(1.0, 1.0)
        >>> model = dkp.DeepKernelProcess(
        ...     layers=[kernel, dkp.Wishart(2), kernel], likelihood=dkp.likelihoods.Gaussian(0.1)
        ... )
        >>> data = dkp.Dataset.from_arrays([[0.0], [1.0], [2.0], [3.0]], [0.0, 1.0, 0.0, 1.0])
        >>> with warnings.catch_warnings(action="ignore"):  # so few draws are not to be trusted
        ...     posterior = dkp.sample_hmc(
        ...         model, data, key=jax.random.key(0), chains=1, warmup=2, draws=2, method="pcn"
        ...     )
        >>> print(posterior.stopped, posterior.n_draws)
        finished 2
    """
    problem = Problem.of(model, data)
    checks.random_key("key", key)
    numbers = {"chains": chains, "warmup": warmup, "draws": draws, "thin": thin}
    chains, warmup, draws, thin = (
        checks.positive_int(name, number) for name, number in numbers.items()
    )
    checks.one_of("chain_method", chain_method, CHAIN_METHODS)
    sampler = _sampler(method, target_acceptance, max_tree_depth, trajectory_length)
    _check_size(data)
    if init is not None:
        check_init(problem, init)
    target = Coordinates.of(with_priors(problem, init), data, features=not sampler.uses_gradient)
    if target.size == 0:
        raise ValueError(
            "Expected a model with something to sample. Got one of which all hyperparameters are "
            "numbers, without a "
            "bottleneck, and whose outputs are integrated out: use dkp.condition."
        )
    _check_memory(chains * draws * target.size * data.x.dtype.itemsize, max_memory)
    _warn_single_precision(data)
    key_start, key_run = jax.random.split(key)
    rank = metric_rank(warmup, chains, target.size) if sampler.uses_gradient else 0
    metric = identity_metric(target.size, data.x.dtype, rank)
    points = initial_points(target, key_start, chains, init)
    run = Chains(target, sampler, points, key_run, metric, step_size=0.1, chain_method=chain_method)
    bar = Progress(warmup + draws * thin, label=f"sample_hmc, {method}", enabled=progress)
    options = {
        "method": repr(sampler),
        "warmup": warmup,
        "draws": draws,
        "thin": thin,
        "chain_method": chain_method,
    }
    # The starting points are part of the call: they come from `init` where there is one.
    call = ("sample_hmc", (target.model, points), [target.data], [key], options)
    with one_blas_thread(), bar, checkpoint_of(checkpoint, every, *call) as file:
        session = Session(run, rank=rank, thin=thin, checkpoint=file)
        stopped = session.run(warmup, draws * thin, bar)
    kept = session.kept
    found, jitter = _functionals(target, kept.z())
    posterior = MCMCPosterior(
        model=target.model,  # the user's, but learned values stand in it
        coordinates=target,
        z=kept.z(),
        method=method,
        stats=kept.stats(),
        functionals=found,
        jitter=jitter,
        divergences=kept.divergences,
        stopped=stopped,
        warmup_seconds=session.warmup_seconds,
        seconds=session.seconds,
    )
    for text in posterior.warnings:
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    return posterior


def with_priors(problem: Problem, init: VariationalPosterior | None) -> DeepKernelProcess:
    """The model without learned hyperparameters.

    They stand where `init` has them, or get a default prior.

    Warns:
        RuntimeWarning: when hyperparameters get a default prior.
    """
    learned, model = problem.learned, problem.model
    if init is not None:
        return substitute(model, {name: init.hyperparameters[name] for name in learned})
    if learned:
        warnings.warn(
            f"{', '.join(learned)} are learn(), which has no prior: each gets a log-normal one "
            "with scale 1 around its start (or a standard normal one around it where it may be "
            "negative). Give them distributions or numbers, or pass init=dkp.fit_vi(…) to keep the "
            "values that it found.",
            RuntimeWarning,
            stacklevel=3,
        )
    return substitute(model, {name: _default_prior(h, problem.data) for name, h in learned.items()})


def _default_prior(h: Hyperparameter, data: Dataset) -> dist.Distribution:
    start = h.initial(data.x, data.rates)
    one = jnp.ones_like(start)
    if h.domain == "real":
        return dist.Normal(start, one)
    return (
        dist.Uniform(0 * one, one)
        if h.domain == "unit_interval"
        else dist.LogNormal(jnp.log(start), one)
    )


def _sampler(
    method: str,
    target_acceptance: float | None,
    max_tree_depth: int | None,
    trajectory_length: float | None,
) -> Method:
    kind = METHODS[checks.one_of("method", method, METHODS)]
    options: dict[str, float | int] = {}
    if target_acceptance is not None:
        if kind().target_acceptance is None:
            raise ValueError(
                f"Expected no target_acceptance with method={method!r}, which has no step size to "
                "tune. Got "
                f"{target_acceptance}."
            )
        if not 0 < checks.positive_number("target_acceptance", target_acceptance) < 1:
            raise ValueError(
                f"Expected target_acceptance to lie between 0 and 1. Got {target_acceptance}."
            )
        options["target_acceptance"] = float(target_acceptance)
    if max_tree_depth is not None:
        if method != "nuts":
            raise ValueError(
                f"Expected max_tree_depth=None with method={method!r}: only NUTS builds trees. "
                f"Got {max_tree_depth}."
            )
        options["max_depth"] = checks.positive_int("max_tree_depth", max_tree_depth)
    if trajectory_length is not None:
        if method != "hmc":
            raise ValueError(
                f"Expected trajectory_length=None with method={method!r}: only hmc has one. Got "
                f"{trajectory_length}."
            )
        options["trajectory"] = checks.positive_number("trajectory_length", trajectory_length)
    return kind(**options)


def _check_size(data: Dataset) -> None:
    if data.n > LARGEST_N:
        raise ValueError(
            f"Expected at most {LARGEST_N} data points: sample_hmc has no inducing points, and "
            "its cost grows with the "
            f"cube of their number. Got {data.n}: take a subset, or use dkp.fit_vi."
        )


def _check_memory(needed: int, max_memory: float | None) -> None:
    limit = allowed_memory(max_memory)
    if needed > limit:
        raise ValueError(
            f"Expected draws that fit into {limit / 1e9:.3g} GB. Got chains x draws x coordinates "
            "of "
            f"{needed / 1e9:.3g} GB: keep fewer draws (thin=…), or raise max_memory."
        )


def _warn_single_precision(data: Dataset) -> None:
    if data.x.dtype == jnp.float32:
        warnings.warn(
            "The data are float32: energies of about 1e3 are then known to 1e-4 only, and step "
            "sizes suffer. Set "
            "jax.config.update('jax_enable_x64', True) first, or Dataset.from_arrays(…, "
            "dtype='float64').",
            RuntimeWarning,
            stacklevel=3,
        )


def _functionals(target: Coordinates, z: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
    chains, draws, size = z.shape
    found, jitter = functionals_of(target, jnp.asarray(z.reshape(-1, size)))
    return {
        name: np.asarray(a).reshape(chains, draws, *a.shape[1:]) for name, a in found.items()
    }, float(jitter)
