"""The optimisation loop: it knows no model, only a loss, an optax optimiser and a key.

Steps run in jitted chunks under ``lax.scan``. A step whose loss or gradient is not finite changes
nothing and is counted. Between chunks the host looks at the trace: it reports progress, keeps the
best state, stops early, and answers Ctrl-C by returning what there is.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dkp._core.compiled import compiled
from dkp._core.progress import Progress
from dkp._core.record import value
from dkp._core.records import Leaves
from dkp._core.types import Array, Key, PRNGKeyArray
from dkp.data.batches import Batches
from dkp.inference.checkpoint import Checkpoint
from dkp.inference.tracker import LoopResult, Tracker

__all__ = ["LoopState", "Saved", "make_step", "minimise", "minimise_many"]

Loss = Callable[[Any, PRNGKeyArray, Any], tuple[Array, dict[str, Array]]]


@value
class LoopState:
    """Parameters and optimiser state after `step` steps."""

    parameters: Any
    optimizer: Any
    step: Array


def make_step(
    loss: Loss, optimizer: optax.GradientTransformation
) -> Callable[..., tuple[LoopState, dict[str, Array]]]:
    """``step(state, key, batch) -> (state, info)``.

    A step with a loss or gradient that is not finite is skipped.
    """

    def step(state: LoopState, key: PRNGKeyArray, batch: Any) -> tuple[LoopState, dict[str, Array]]:
        (value, info), gradient = jax.value_and_grad(loss, has_aux=True)(
            state.parameters, key, batch
        )
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.parameters)
        proposed = LoopState(
            parameters=optax.apply_updates(state.parameters, updates),
            optimizer=optimizer_state,
            step=state.step,
        )
        good = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(gradient))
        kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), proposed, state)
        info = {**info, "loss": value, "skipped": ~good}
        return dataclasses.replace(kept, step=state.step + 1), info

    return step


def minimise(
    loss: Loss,
    parameters: Any,
    optimizer: optax.GradientTransformation,
    *,
    key: PRNGKeyArray,
    steps: int,
    data: Any,
    batches: Batches | None = None,
    chunk: int = 100,
    patience: int | None = None,
    progress: Progress | None = None,
    saved: "Saved | None" = None,
) -> LoopResult:
    """Run `steps` steps of `optimizer` on ``loss(parameters, key, batch)``.

    Args:
        loss: returns the loss and a dictionary of scalars, of which ``jitter`` is reported.
        data: a tuple of arrays with the data points on the first axis; the batch is a tuple of
            their rows.
        batches: minibatches, or None for all the data in every step.
        chunk: steps per jitted call.
        patience: stop after so many chunks without an improvement beyond the noise of the trace;
            None never stops early.
        saved: where the loop starts and what it saves.
    """
    chunk_of = _Chunk(optimizer=optimizer, steps=steps, length=chunk, stacked=False)
    loss = _as_tree(loss)
    state = LoopState(
        parameters=parameters, optimizer=optimizer.init(parameters), step=jnp.zeros((), jnp.int32)
    )
    tracker = Tracker(parameters, patience)

    def advance(state: LoopState, start: int) -> tuple[LoopState, bool]:
        rows = None if batches is None else jnp.asarray(batches.rows(start, start + chunk))
        state, info = _run(chunk_of, loss, state, key, rows, data)
        kept = min(chunk, steps - start)
        return state, tracker.record(
            state.parameters, {n: np.asarray(a)[:kept] for n, a in info.items()}
        )

    return _drive(advance, state, [tracker], steps, chunk, progress, saved)[0]


def minimise_many(
    loss: Loss,
    parameters: Sequence[Any],
    optimizer: optax.GradientTransformation,
    *,
    keys: Sequence[PRNGKeyArray],
    steps: int,
    data: Sequence[Any],
    batches: Sequence[Batches] | None = None,
    chunk: int = 100,
    patience: int | None = None,
    progress: Progress | None = None,
    saved: "Saved | None" = None,
) -> list[LoopResult]:
    """:func:`minimise` for several problems of one shape, vectorised.

    One program makes a step of all of them.

    Each problem has its own parameters, key, data and batches, skips its own steps and keeps its
    own best state. With `patience` all stop when the last one has converged.
    """
    count = len(parameters)
    if count == 1:
        alone = None if batches is None else batches[0]
        settings: Any = {
            "steps": steps,
            "chunk": chunk,
            "patience": patience,
            "progress": progress,
            "saved": saved,
        }
        return [
            minimise(
                loss, parameters[0], optimizer, key=keys[0], data=data[0], batches=alone, **settings
            )
        ]
    chunk_of = _Chunk(optimizer=optimizer, steps=steps, length=chunk, stacked=True)
    loss = _as_tree(loss)
    stacked, stacked_keys, stacked_data = _stack(parameters), jnp.stack(keys), _stack(data)
    state = LoopState(
        parameters=stacked,
        optimizer=jax.vmap(optimizer.init)(stacked),
        step=jnp.zeros(count, jnp.int32),
    )
    trackers = [Tracker(p, patience) for p in parameters]

    def advance(state: LoopState, start: int) -> tuple[LoopState, bool]:
        rows = (
            None
            if batches is None
            else jnp.asarray(np.stack([b.rows(start, start + chunk) for b in batches]))
        )
        state, info = _run(chunk_of, loss, state, stacked_keys, rows, stacked_data)
        kept, host = min(chunk, steps - start), {n: np.asarray(a) for n, a in info.items()}
        converged = [
            tracker.record(
                jax.tree.map(lambda a, i=i: a[i], state.parameters),
                {n: a[i, :kept] for n, a in host.items()},
            )
            for i, tracker in enumerate(trackers)
        ]
        return state, all(converged)

    return _drive(advance, state, trackers, steps, chunk, progress, saved)


def _drive(
    advance: Callable[[LoopState, int], tuple[LoopState, bool]],
    state: LoopState,
    trackers: "Sequence[Tracker]",
    steps: int,
    chunk: int,
    progress: Progress | None,
    saved: "Saved | None",
) -> list[LoopResult]:
    """Advance chunk by chunk until the steps are done, all has converged, or Ctrl-C."""
    done, spent = 0, 0.0
    if saved is not None:
        state, done, spent = saved.restore(state, trackers)
    started = time.perf_counter() - spent
    stopped = "converged" if all(t.has_converged for t in trackers) else "finished"
    try:
        while done < steps and stopped == "finished":
            state, converged = advance(state, done)
            done += chunk
            stopped = "converged" if converged else "finished"
            if saved is not None and saved.checkpoint.is_due:
                saved.save(state, trackers, done, time.perf_counter() - started)
            if progress is not None:
                progress.update(
                    min(done, steps), elbo=-float(np.mean([t.recent for t in trackers]))
                )
    except KeyboardInterrupt:
        stopped = "interrupted"
    seconds = time.perf_counter() - started
    if saved is not None:
        saved.save(state, trackers, done, seconds)
    return [tracker.result(stopped, seconds) for tracker in trackers]


@dataclasses.dataclass(frozen=True)
class Saved:
    """A loop in a checkpoint: one stage of an engine."""

    checkpoint: Checkpoint
    stage: str

    def restore(
        self, state: LoopState, trackers: "Sequence[Tracker]"
    ) -> tuple[LoopState, int, float]:
        """The state, the steps behind it and the seconds that they took: as saved, or as given."""
        found = self.checkpoint.found(self.stage)
        if found is None:
            return state, 0, 0.0
        for tracker, saved in zip(trackers, found["trackers"], strict=True):
            tracker.restore(saved)
        return found["state"].like(state), found["done"], found["seconds"]

    def save(
        self, state: LoopState, trackers: "Sequence[Tracker]", done: int, seconds: float
    ) -> None:
        self.checkpoint.save(
            self.stage,
            {
                "state": Leaves(state),
                "done": done,
                "seconds": seconds,
                "trackers": [tracker.saved for tracker in trackers],
            },
        )


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """`length` steps of an optimiser, as long as there are `steps`, for one problem or a stack."""

    optimizer: optax.GradientTransformation
    steps: int
    length: int
    stacked: bool


def _as_tree(loss: Loss) -> Any:
    """A loss as an argument of programs: those that hold no arrays are part of the program."""
    return jax.tree_util.Partial(loss) if jax.tree_util.all_leaves([loss]) else loss


@compiled(static_argnums=(0,))
def _run(
    chunk: _Chunk,
    loss: Any,
    state: LoopState,
    key: Key[Array, "*stack"],
    rows: Array | None,
    data: Any,
) -> tuple[LoopState, dict[str, Array]]:
    """The state after a chunk, and what its steps say.

    Args:
        rows: of the batch of each step.
    """
    run = functools.partial(_run_one, chunk, loss)
    return (jax.vmap(run) if chunk.stacked else run)(state, key, rows, data)


def _run_one(
    chunk: _Chunk, loss: Any, state: LoopState, key: PRNGKeyArray, rows: Array | None, data: Any
) -> tuple[LoopState, dict[str, Array]]:
    step = make_step(loss, chunk.optimizer)

    def body(state: LoopState, row: Array | None) -> tuple[LoopState, dict[str, Array]]:
        batch = data if row is None else jax.tree.map(lambda a: a[row], data)
        return step(state, jax.random.fold_in(key, state.step), batch)

    shapes = jax.eval_shape(body, state, None if rows is None else rows[0])[1]
    unused = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)

    def active(state: LoopState, row: Array | None) -> tuple[LoopState, dict[str, Array]]:
        # The last chunk may be longer than what is left: one compiled program serves all.
        return jax.lax.cond(
            state.step < chunk.steps, lambda: body(state, row), lambda: (state, unused)
        )

    return jax.lax.scan(active, state, rows, length=chunk.length)


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
