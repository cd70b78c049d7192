"""What a variational fit starts with: its options, its family, parameters and minibatches."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import optax

from dkp._core import checks
from dkp._core.types import Array, PRNGKeyArray
from dkp.data.batches import Batches
from dkp.data.dataset import Dataset
from dkp.guides import GuideChoice, choose_guides
from dkp.inference.variational.family import VariationalFamily
from dkp.inference.variational.first_stage import inducing_points
from dkp.model.process import DeepKernelProcess

__all__ = ["FitOptions", "check_inducing", "prepare"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Options of :func:`fit_vi`, which says what they are."""

    n_inducing: int = 100
    batch_size: int | None = None
    steps: int = 2000
    samples: int = 1
    optimizer: optax.GradientTransformation | None = None
    start_steps: int = 500
    collapse: bool | None = None
    guide: GuideChoice | Sequence[GuideChoice] = "auto"
    stick_the_landing: bool = True
    chunk: int = 50
    patience: int | None = None
    progress: bool | None = None
    checkpoint: str | os.PathLike[str] | None = None
    every: float = 60.0

    def check(self) -> None:
        """Raise ValueError for numbers out of range."""
        for name in ("n_inducing", "steps", "samples", "chunk"):
            checks.positive_int(name, getattr(self, name))
        for name in ("patience", "batch_size"):
            if getattr(self, name) is not None:
                checks.positive_int(name, getattr(self, name))
        if self.start_steps:
            checks.positive_int("start_steps", self.start_steps)
        checks.positive_number("every", self.every)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result, as text: an optimiser of the user's own has no name."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        without = ("progress", "checkpoint", "every", "optimizer")
        return {n: repr(v) for n, v in fields.items() if n not in without} | {
            "own": self.optimizer is not None
        }


def check_inducing(inducing: Sequence[Array]) -> None:
    """Raise ValueError unless all data sets have as many inducing points as each other."""
    numbers = {len(points) for points in inducing}
    if len(numbers) > 1:
        raise ValueError(
            "Expected as many distinct rows as inducing points in all data sets. Got "
            f"{sorted(numbers)} inducing "
            "points: take fewer, or fit the data sets one by one."
        )


def prepare(
    model: DeepKernelProcess,
    data: Dataset,
    *,
    key: PRNGKeyArray,
    n_inducing: int,
    batch_size: int | None = None,
    collapse: bool | None = None,
    guide: GuideChoice | Sequence[GuideChoice] = "auto",
    stick_the_landing: bool = True,
) -> tuple[VariationalFamily, dict[str, Any], Batches | None]:
    """The family, its parameters before any fitting, and the minibatches.

    There are no minibatches (None) for the full batch.
    """
    checks.positive_int("n_inducing", n_inducing)
    full = batch_size is None or checks.positive_int("batch_size", batch_size) >= data.n
    possible = full and model.likelihood.is_gaussian and data.is_plain
    if collapse and not possible:
        raise ValueError(
            "Expected Gaussian noise, complete targets without weights and the full batch with "
            "collapse=True. Got "
            "another likelihood, missing targets, weights or minibatches."
        )
    family = VariationalFamily(
        model=model,
        n_features=data.d,
        n_outputs=data.n_outputs,
        collapsed=possible if collapse is None else collapse,
        guides=choose_guides(model.bottlenecks, guide),
        stick_the_landing=stick_the_landing,
    )
    key_points, key_batches = jax.random.split(key)
    inducing = inducing_points(data, n_inducing, key_points)
    for layer in model.bottlenecks:
        layer.check_points(len(inducing))
    parameters = family.init(data, inducing)
    seed = int(jax.random.randint(key_batches, (), 0, 2**31 - 1))
    return (
        family,
        parameters,
        None if full or batch_size is None else Batches(data.n, batch_size, seed),
    )
