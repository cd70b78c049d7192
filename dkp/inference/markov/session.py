"""A session of chains: warm-up, sampling, and what is kept.

It knows what a checkpoint needs to go on with it.
"""

import contextlib
import time
from typing import Any

import numpy as np

from dkp._core.progress import Progress
from dkp._core.records import Leaves
from dkp.inference.checkpoint import Checkpoint
from dkp.inference.markov.chains import Chains, Chunk
from dkp.inference.markov.warmup import estimate_metric, schedule

__all__ = ["Kept", "Session"]


class Kept:
    """Draws and statistics of the transitions that are kept, every `thin`-th."""

    def __init__(self, thin: int) -> None:
        self._thin, self.done = thin, 0
        self._chunks: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
        self.divergences = 0

    def add(self, chunk: Chunk) -> None:
        n = chunk.z.shape[1]
        rows = np.flatnonzero((self.done + np.arange(1, n + 1)) % self._thin == 0)
        info = chunk.info
        stats = {
            "acceptance_rate": info.acceptance,
            "diverging": info.diverging,
            "energy": info.energy,
            "n_steps": info.steps,
            "tree_depth": info.depth,
            "step_size": chunk.step_size,
        }
        self._chunks.append((chunk.z[:, rows], {name: a[:, rows] for name, a in stats.items()}))
        self.done += n
        self.divergences += int(info.diverging.sum())

    @property
    def n(self) -> int:
        """Kept draws of each chain."""
        return sum(z.shape[1] for z, _ in self._chunks)

    def z(self) -> np.ndarray:
        return np.concatenate([z for z, _ in self._chunks], axis=1)

    def stats(self) -> dict[str, np.ndarray]:
        names = self._chunks[0][1] if self._chunks else {}
        return {
            name: np.concatenate([stats[name] for _, stats in self._chunks], axis=1)
            for name in names
        }

    @property
    def saved(self) -> dict[str, Any]:
        """All that was kept, for :meth:`restore`."""
        chunks = [(self.z(), self.stats())] if self._chunks else []
        return {"done": self.done, "divergences": self.divergences, "chunks": chunks}

    def restore(self, saved: dict[str, Any]) -> None:
        self.done, self.divergences = saved["done"], saved["divergences"]
        self._chunks = saved["chunks"]


class Session:
    """Warm-up and sampling of some chains.

    Args:
        rank: of the metric that warm-up learns; 0 where it learns none.
        thin: transitions for every kept draw.
    """

    def __init__(
        self, chains: Chains, *, rank: int, thin: int, checkpoint: Checkpoint | None = None
    ) -> None:
        self._chains, self._rank, self._checkpoint = chains, rank, checkpoint
        self.kept = Kept(thin)
        self.warmup_seconds = self.seconds = 0.0
        # of warm-up: windows that are over, and transitions in the one that is not
        self._window, self._within = 0, 0
        self._points: list[tuple[np.ndarray, np.ndarray]] = []  # draws and gradients of that window
        self._restore()

    def run(self, warmup: int, total: int, bar: Progress) -> str:
        """Warm up, make `total` transitions, and say how it ended.

        It is "finished", or "interrupted" with some draws kept.

        Ctrl-C before any draw is kept ends the call.
        """
        began = time.perf_counter() - self.warmup_seconds
        self._warm_up(warmup, began, bar)
        began = time.perf_counter() - self.seconds
        stopped = self._sample(total, began, bar.offset(warmup))
        self._save()
        return stopped

    def _warm_up(self, warmup: int, began: float, bar: Progress) -> None:
        windows = schedule(warmup)
        done = sum(window.length for window in windows[: self._window]) + self._within
        for window in windows[self._window :]:
            with contextlib.closing(
                self._chains.run(window.length - self._within, adapting=True)
            ) as chunks:
                for chunk in chunks:
                    if window.learns and self._rank:
                        self._points.append((chunk.z, chunk.gradient))
                    done, self._within = done + chunk.z.shape[1], self._within + chunk.z.shape[1]
                    self.warmup_seconds = time.perf_counter() - began
                    self._offer()
                    bar.update(done, steps=float(chunk.info.steps.mean()))
            if self._points:
                metric = estimate_metric(*self._window_so_far(), self._rank)
                if metric is not None:
                    self._chains.metric = metric
                    self._chains.restart_step_size()
            self._window, self._within, self._points = self._window + 1, 0, []

    def _window_so_far(self) -> tuple[np.ndarray, np.ndarray]:
        """Draws and gradients of the window that is not over."""
        z, gradient = (np.concatenate(parts, axis=1) for parts in zip(*self._points, strict=True))
        return z, gradient

    def _sample(self, total: int, began: float, bar: Progress) -> str:
        try:
            with contextlib.closing(
                self._chains.run(total - self.kept.done, adapting=False)
            ) as chunks:
                for chunk in chunks:
                    self.kept.add(chunk)
                    self.seconds = time.perf_counter() - began
                    self._offer()
                    steps = float(chunk.info.steps.mean())
                    bar.update(self.kept.done, steps=steps, divergences=self.kept.divergences)
        except KeyboardInterrupt:
            if self.kept.n == 0:
                raise
            return "interrupted"
        return "finished"

    # --- checkpoints ------------------------------------------------------------------------------

    def _offer(self) -> None:
        if self._checkpoint is not None and self._checkpoint.is_due:
            self._save()

    def _save(self) -> None:
        if self._checkpoint is None:
            return
        self._checkpoint.save(
            "chains",
            {
                "chains": Leaves(self._chains.state),
                "window": self._window,
                "within": self._within,
                "points": [self._window_so_far()] if self._points else [],
                "kept": self.kept.saved,
                "seconds": [self.warmup_seconds, self.seconds],
            },
        )

    def _restore(self) -> None:
        found = None if self._checkpoint is None else self._checkpoint.found("chains")
        if found is None:
            return
        self._chains.state = found["chains"].like(self._chains.state)
        self._window, self._within = found["window"], found["within"]
        self._points = found["points"]
        self.kept.restore(found["kept"])
        self.warmup_seconds, self.seconds = found["seconds"]
