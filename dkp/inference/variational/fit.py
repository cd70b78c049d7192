"""Variational inference: ``dkp.fit_vi``."""

import dataclasses
import os
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

from dkp._core import checks
from dkp._core.progress import Progress
from dkp._core.types import Array, Key, PRNGKeyArray
from dkp.data.dataset import Dataset
from dkp.guides import GuideChoice
from dkp.inference.checkpoint import checkpoint_of
from dkp.inference.checks import Problem
from dkp.inference.minimise import Saved, minimise_many
from dkp.inference.tracker import LoopResult
from dkp.inference.variational.family import VariationalFamily
from dkp.inference.variational.first_stage import first_stage
from dkp.inference.variational.objectives import NegativeElbo
from dkp.inference.variational.posterior import VariationalPosterior
from dkp.inference.variational.prepare import FitOptions, check_inducing, prepare
from dkp.inference.variational.rates import (
    FROM_KERNEL,
    FROM_KERNEL_NOT_GAUSSIAN,
    FROM_NOTHING,
    FROM_SUBSET,
    default_optimizer,
    natural_outputs,
    warmup_steps,
)
from dkp.model.process import DeepKernelProcess

__all__ = ["fit_vi", "fit_vi_many"]


def fit_vi(
    model: DeepKernelProcess,
    data: Dataset,
    *,
    key: PRNGKeyArray,
    n_inducing: int = FitOptions.n_inducing,
    batch_size: int | None = FitOptions.batch_size,
    steps: int = FitOptions.steps,
    samples: int = FitOptions.samples,
    optimizer: optax.GradientTransformation | None = FitOptions.optimizer,
    start_steps: int = FitOptions.start_steps,
    collapse: bool | None = FitOptions.collapse,
    guide: GuideChoice | Sequence[GuideChoice] = FitOptions.guide,
    stick_the_landing: bool = FitOptions.stick_the_landing,
    chunk: int = FitOptions.chunk,
    patience: int | None = FitOptions.patience,
    progress: bool | None = FitOptions.progress,
    checkpoint: str | os.PathLike[str] | None = FitOptions.checkpoint,
    every: float = FitOptions.every,
) -> VariationalPosterior:
    """Fit a deep kernel process by maximising the evidence lower bound (ELBO).

    The fit has two stages: `start_steps` steps on the network without noise in its bottlenecks,
    then `steps` steps on the ELBO. Ctrl-C ends either stage and returns the best state so far. With
    a Wishart bottleneck the first stage is another: a matrix of low rank cannot be the kernel
    matrix without noise, and features that are fitted without their noise hide the data as soon as
    it is there. Its steps are on the ELBO of a subset of 2000 rows, if there are more of them and
    the outputs can be integrated out; else there is none.

    Args:
        model: any layers that have a variational guide, any likelihood.
        data: standardised data.
        key: for everything random.
        n_inducing: number of inducing points; fewer where there are fewer distinct rows.
        batch_size: rows a step; all of them by default.
        steps: of the second stage.
        samples: draws a step.
        optimizer: of the second stage; by default that of :func:`default_optimizer`.
        start_steps: of the first stage; 0 skips it.
        collapse: integrate the outputs out in closed form. By default this is done wherever it can
            be: Gaussian noise and the full batch.
        guide: of the bottlenecks: a name, a guide, or one of these for each. "standard", "a", "b"
            and "ab" are generalised Wishart laws, without and with mixing of rows and columns;
            "features" is the posterior of a deep Gaussian process; "inverse-wishart" is for inverse
            Wishart bottlenecks. A single one is for all bottlenecks that it fits. "auto" takes "ab"
            for Wishart bottlenecks; the summary says what was taken.
        stick_the_landing: for guides whose divergence has no closed form, see
            :class:`VariationalFamily`.
        chunk: steps between two looks at the trace (progress, best state, early stopping, Ctrl-C).
        patience: stop early after so many chunks without an improvement beyond the noise of the
            trace; never, by default.
        progress: show a progress bar; by default on terminals and in notebooks.
        checkpoint: a file for the state of the fit. A call that was killed, made again with the
            same arguments, goes on from there, and ends as it would have, to the last bit on the
            same machine; one that had finished returns at once. SIGTERM saves and stops.
        every: seconds between two checkpoints.

    Returns:
        the posterior, with the ELBO trace, the jitter used and the steps skipped.

    Warns:
        RuntimeWarning: when more than a tenth of the steps were skipped, because the bound or its
            gradient was not finite.

    Raises:
        ValueError: for arguments out of range, a bottleneck without a guide, or ``collapse=True``
            where it is not possible.

    Source: Aitchison, Yang & Ober 2021 (arXiv 2010.01590); outputs: Titsias 2009 and Ober &
    Aitchison 2021 (arXiv 2005.08140).

    Examples:
        >>> import jax
        >>> import dkp
        >>> model = dkp.DeepKernelProcess(
        ...     layers=[dkp.kernels.SquaredExponential(1.0, 1.0)],
        ...     likelihood=dkp.likelihoods.Gaussian(0.1),
        ... )
        >>> data = dkp.Dataset.from_arrays([[0.0], [1.0], [2.0], [3.0]], [0.0, 1.0, 0.0, 1.0])
        >>> posterior = dkp.fit_vi(
        ...     model, data, key=jax.random.key(0), n_inducing=2, steps=2, start_steps=0
        ... )
        >>> print(posterior.stopped)
        finished
    """
    options = FitOptions(
        n_inducing=n_inducing,
        batch_size=batch_size,
        steps=steps,
        samples=samples,
        optimizer=optimizer,
        start_steps=start_steps,
        collapse=collapse,
        guide=guide,
        stick_the_landing=stick_the_landing,
        chunk=chunk,
        patience=patience,
        progress=progress,
        checkpoint=checkpoint,
        every=every,
    )
    return _fit(model, [data], [key], options)[0]


def fit_vi_many(
    model: DeepKernelProcess,
    datasets: Sequence[Dataset],
    *,
    key: PRNGKeyArray | Key[Array, " S"],
    **options: Any,
) -> list[VariationalPosterior]:
    """:func:`fit_vi` of one model to several data sets of one shape, side by side in one program.

    Splits of a data set, or bootstrap samples: on an accelerator their fits take little longer than
    one. Memory is that of one fit times their number. Each is what :func:`fit_vi` with its own key
    would give, up to rounding.

    Args:
        model: the same for all.
        datasets: equal in their numbers of rows, features and outputs.
        key: for everything random: one, of which the data set i gets ``jax.random.split(key,
            len(datasets))[i]``, or a stack of one for each.
        options: of :func:`fit_vi`.

    Raises:
        ValueError: when shapes, or the numbers of distinct inducing points, differ; and as in
            :func:`fit_vi`.

    Examples:
        >>> import jax
        >>> import dkp
        >>> model = dkp.DeepKernelProcess(
        ...     layers=[dkp.kernels.SquaredExponential(1.0, 1.0)],
        ...     likelihood=dkp.likelihoods.Gaussian(0.1),
        ... )
        >>> data = dkp.Dataset.from_arrays([[0.0], [1.0], [2.0], [3.0]], [0.0, 1.0, 0.0, 1.0])
        >>> posteriors = dkp.fit_vi_many(
        ...     model, [data, data], key=jax.random.key(0), n_inducing=2, steps=2, start_steps=0
        ... )
        >>> print(len(posteriors))
        2
    """
    if not datasets:
        raise ValueError("Expected at least one data set. Got none.")
    shapes = {(d.x.shape, d.y.shape) for d in datasets if isinstance(d, Dataset)}
    if len(shapes) != 1:
        raise ValueError(
            f"Expected data sets of one shape. Got {sorted(shapes)}: fit them one by one."
        )
    several = checks.is_typed_key(key) and key.shape == (len(datasets),)
    keys = list(key if several else jax.random.split(key, len(datasets)))
    return _fit(model, datasets, keys, FitOptions(**options))


def _fit(
    model: DeepKernelProcess,
    datasets: Sequence[Dataset],
    keys: Sequence[PRNGKeyArray],
    options: FitOptions,
) -> list[VariationalPosterior]:
    for data, key in zip(datasets, keys, strict=True):
        Problem.of(model, data)
        checks.random_key("key", key)
    options.check()
    keys_prepare, keys_start, keys_fit = zip(
        *(jax.random.split(key, 3) for key in keys), strict=True
    )
    prepared = [
        prepare(
            model,
            data,
            key=key,
            n_inducing=options.n_inducing,
            batch_size=options.batch_size,
            collapse=options.collapse,
            guide=options.guide,
            stick_the_landing=options.stick_the_landing,
        )
        for data, key in zip(datasets, keys_prepare, strict=True)
    ]
    families, parameters, batches = zip(*prepared, strict=True)
    check_inducing([p["inducing"] for p in parameters])
    family, batches = families[0], None if batches[0] is None else batches
    stage = first_stage(family, datasets, options.start_steps)
    start_steps = 0 if stage is None else options.start_steps
    warmup = 0 if stage is not None or family.collapsed else warmup_steps(options.steps)
    rate = FROM_NOTHING if stage is None else _rate_after_start(family)
    paces = family.paces(parameters[0])
    optimizer = options.optimizer or default_optimizer(
        options.steps, paces=paces, rate=rate, warmup=warmup
    )
    label = Progress(start_steps + options.steps, label="fit_vi", enabled=options.progress)
    call = ("fit_vi", model, list(datasets), list(keys), options.identity)
    with label as bar, checkpoint_of(options.checkpoint, options.every, *call) as file:
        saved = (
            {stage: Saved(file, stage) for stage in ("start", "fit")} if file is not None else {}
        )
        if stage is not None and not (file is not None and file.found("fit")):
            loop = {
                "steps": start_steps,
                "chunk": options.chunk,
                "progress": bar,
                "saved": saved.get("start"),
            }
            starts = stage(family, parameters, datasets, keys=keys_start, batches=batches, **loop)
            if starts[0].stopped == "interrupted":
                ends = [dataclasses.replace(start, trace=np.zeros(0)) for start in starts]
                return [
                    _posterior(family, data, end) for data, end in zip(datasets, ends, strict=True)
                ]
            parameters = [start.parameters for start in starts]
        results = minimise_many(
            NegativeElbo(family=family, n=datasets[0].n, samples=options.samples),
            parameters,
            natural_outputs(optimizer, options.steps),
            keys=keys_fit,
            steps=options.steps,
            data=[data.rows for data in datasets],
            batches=batches,
            chunk=options.chunk,
            patience=options.patience,
            progress=bar.offset(start_steps),
            saved=saved.get("fit"),
        )
    posteriors = [
        _posterior(family, data, result) for data, result in zip(datasets, results, strict=True)
    ]
    for text in dict.fromkeys(text for posterior in posteriors for text in posterior.warnings):
        warnings.warn(text, RuntimeWarning, stacklevel=3)
    return posteriors


def _rate_after_start(family: VariationalFamily) -> float:
    if not family.starts_deterministic:
        return FROM_SUBSET
    return FROM_KERNEL if family.model.likelihood.is_gaussian else FROM_KERNEL_NOT_GAUSSIAN


def _posterior(
    family: VariationalFamily, data: Dataset, result: LoopResult
) -> VariationalPosterior:
    return VariationalPosterior(
        family=family,
        parameters=result.parameters,
        data=data,
        elbo_trace=-result.trace,
        jitter=result.jitter,
        skipped=result.skipped,
        stopped=result.stopped,
        seconds=result.seconds,
    )
