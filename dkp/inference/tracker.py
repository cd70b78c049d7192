"""What the host remembers of an optimisation loop between its chunks, and what it returns."""

import math
from typing import Any

import numpy as np

from dkp._core.record import record
from dkp._core.records import Leaves

__all__ = ["LoopResult", "Tracker"]


@record
class LoopResult:
    """Where a loop ended.

    Attributes:
        parameters: of the best chunk.
        trace: loss of every step run.
        skipped: steps that were not finite and changed nothing.
        jitter: the largest added to a diagonal.
        stopped: "finished", "converged", "interrupted", or "failed" where every step was skipped.
        seconds: of the loop, compilation included.
    """

    parameters: Any
    trace: np.ndarray
    skipped: int
    jitter: float
    stopped: str
    seconds: float


_NUMBERS = ("skipped", "jitter", "recent", "_best_loss", "_waited")


class Tracker:
    """What the host remembers between chunks."""

    def __init__(self, parameters: Any, patience: int | None) -> None:
        self.best = parameters
        self.patience = patience
        self.skipped = 0
        self.jitter = 0.0
        self.recent = math.nan
        self._best_loss = math.inf
        self._waited = 0
        self._losses: list[np.ndarray] = []

    @property
    def trace(self) -> np.ndarray:
        return np.concatenate(self._losses) if self._losses else np.zeros(0)

    @property
    def has_converged(self) -> bool:
        return self.patience is not None and self._waited >= self.patience

    @property
    def saved(self) -> dict[str, Any]:
        """All that it knows, for :meth:`restore`."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return {"best": Leaves(self.best), "losses": self.trace, **numbers}

    def restore(self, saved: dict[str, Any]) -> None:
        self.best, self._losses = saved["best"].like(self.best), [saved["losses"]]
        for name in _NUMBERS:
            setattr(self, name, saved[name])

    def result(self, stopped: str, seconds: float) -> LoopResult:
        if len(self.trace) and self.skipped == len(self.trace):
            stopped = "failed"
        return LoopResult(
            parameters=self.best,
            trace=self.trace,
            skipped=self.skipped,
            jitter=self.jitter,
            stopped=stopped,
            seconds=seconds,
        )

    def record(self, parameters: Any, info: dict[str, np.ndarray]) -> bool:
        """Take in one chunk; True when there is no more to gain."""
        losses = np.asarray(info["loss"], float)
        finite = losses[np.isfinite(losses)]
        self._losses.append(losses)
        self.skipped += int(np.sum(info["skipped"]))
        self.jitter = max(self.jitter, float(np.nanmax(info["jitter"], initial=0.0)))
        if finite.size == 0:
            return False
        self.recent = float(np.mean(finite))
        noise = float(np.std(finite)) / math.sqrt(finite.size)
        self._waited = 0 if self.recent < self._best_loss - noise else self._waited + 1
        if self.recent < self._best_loss:
            self._best_loss, self.best = self.recent, parameters
        return self.has_converged
