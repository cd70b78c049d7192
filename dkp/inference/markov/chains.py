"""Running Markov chains: compiled chunks of transitions, side by side.

A host looks in between them.

Chains run in threads on processors (one thread each, as many at a time as there are cores) and
vectorised on accelerators. The random numbers of a transition depend on its chain and its number
alone.
"""

import concurrent.futures
import contextlib
import functools
import os
import queue
import threading
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dkp._core.compiled import compiled
from dkp._core.machine import this_configuration
from dkp._core.types import Array, Bool, Float, Int, PRNGKeyArray
from dkp.inference.coordinates import Coordinates
from dkp.inference.markov.transitions import Info, Method, Metric, State

__all__ = ["CHAIN_METHODS", "ChainState", "Chains", "Chunk"]

_NO_TARGET = 0.5  # for methods without a step size, whose tuner turns idle
CHAIN_METHODS = ("auto", "parallel", "sequential", "vectorized")


class ChainState(NamedTuple):
    """State of one chain.

    It is its point, the averaging of its step size, its key, and the transitions behind it.
    """

    state: State
    tuner: Any
    key: PRNGKeyArray
    transitions: Int[Array, ""]


class Chunk(NamedTuple):
    """What `length` transitions of all chains left behind, on the host.

    The first axis counts chains.
    """

    z: Float[np.ndarray, "C T K"]
    gradient: Float[np.ndarray, "C T K"]
    info: Info
    step_size: Float[np.ndarray, "C T"]


class Chains:
    """Several chains of one method, advanced together.

    Args:
        starts: one point a chain, (C, K).
        chain_method: one of ``CHAIN_METHODS``.
        length: transitions in a compiled chunk.
    """

    def __init__(
        self,
        target: Coordinates,
        method: Method,
        starts: Float[Array, "C K"],
        key: PRNGKeyArray,
        metric: Metric,
        *,
        step_size: float,
        chain_method: str = "auto",
        length: int = 25,
    ) -> None:
        self._target, self._method, self._length = target, method, length
        self._vectorised = _is_vectorised(chain_method)
        self._workers = 1 if chain_method == "sequential" else min(len(starts), os.cpu_count() or 1)
        self.metric = metric
        keys = jax.random.split(key, len(starts))
        states = [
            _start(target, method, z, k, step_size) for z, k in zip(starts, keys, strict=True)
        ]
        self._states = (
            [jax.tree.map(lambda *a: jnp.stack(a), *states)] if self._vectorised else states
        )

    @property
    def state(self) -> Any:
        """All that changes: the chains and their metric."""
        return self._states, self.metric

    @state.setter
    def state(self, state: Any) -> None:
        self._states, self.metric = state

    def restart_step_size(self) -> None:
        """Begin to tune again, from the step size reached: after a change of the metric."""
        restart = _restart if not self._vectorised else jax.vmap(_restart)
        self._states = [chain._replace(tuner=restart(chain.tuner)) for chain in self._states]

    def run(self, total: int, *, adapting: bool) -> Generator[Chunk, None, None]:
        """Make `total` transitions of every chain, chunk by chunk.

        Chains in threads do not wait for one another: one that is ahead goes on with its next
        chunk, while the slowest decides when a chunk of all chains is complete. Close the generator
        where it may not come to its end. Ctrl-C leaves the chains as they were after the last such
        chunk.
        """
        lengths = [min(self._length, total - start) for start in range(0, total, self._length)]
        steps = self._side_by_side if len(self._states) > 1 else self._alone
        with contextlib.closing(steps(lengths, adapting)) as finished:  # its threads end with it
            for results in finished:
                self._states = [chain for chain, _ in results]
                chunks = [chunk for _, chunk in results]
                yield (
                    chunks[0] if self._vectorised else jax.tree.map(lambda *a: np.stack(a), *chunks)
                )

    def _alone(
        self, lengths: Sequence[int], adapting: bool
    ) -> Generator[list[tuple[ChainState, Chunk]], None, None]:
        for n in lengths:
            yield [self._run(self._states[0], n, adapting)]

    def _side_by_side(
        self, lengths: Sequence[int], adapting: bool
    ) -> Generator[list[tuple[ChainState, Chunk]], None, None]:
        """Each chunk of each chain is a task.

        It puts the next one of its chain behind those that wait.
        """
        configured, stopped = this_configuration(), threading.Event()
        finished: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in self._states]
        tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for index, chain in enumerate(self._states):
            tasks.put((index, 0, chain))

        def work() -> None:
            while (task := tasks.get()) is not None and not stopped.is_set():
                index, number, chain = task
                try:
                    with configured():
                        result = self._run(chain, lengths[number], adapting)
                except BaseException as error:  # raised again where the results are asked for
                    finished[index].put(error)
                    return
                finished[index].put(result)
                if number + 1 < len(lengths):
                    tasks.put((index, number + 1, result[0]))

        with concurrent.futures.ThreadPoolExecutor(self._workers) as pool:
            for _ in range(self._workers):
                pool.submit(work)
            try:
                for _ in lengths:
                    results = [chain.get() for chain in finished]
                    for result in results:
                        if isinstance(result, BaseException):
                            raise result
                    yield results
            finally:
                stopped.set()
                for _ in range(self._workers):
                    tasks.put(None)

    def _run(self, chain: ChainState, n: int, adapting: bool) -> tuple[ChainState, Chunk]:
        """n transitions of one chain, or of all where they are vectorised."""
        fixed = (self._target, self._method, self._length, self._vectorised)
        new, chunk = _chunk(*fixed, chain, self.metric, jnp.asarray(n), jnp.asarray(adapting))
        steps = (slice(None), slice(n)) if self._vectorised else slice(n)
        return new, jax.tree.map(lambda a: np.asarray(a)[steps], chunk)


def _is_vectorised(chain_method: str) -> bool:
    if chain_method == "auto":
        return jax.default_backend() != "cpu"
    return chain_method == "vectorized"


@compiled(static_argnums=(1,))
def _start(
    target: Coordinates, method: Method, z: Array, key: PRNGKeyArray, step_size: Array | float
) -> ChainState:
    tuner = _averaging(method.target_acceptance)[0](jnp.asarray(step_size, z.dtype))
    return ChainState(method.init(target, z), tuner, key, jnp.zeros((), jnp.int32))


def _averaging(target_acceptance: float | None) -> Any:
    """Dual averaging (Nesterov 2009; Hoffman & Gelman 2014): init, update, final."""
    from blackjax.adaptation.step_size import dual_averaging_adaptation

    return dual_averaging_adaptation(_NO_TARGET if target_acceptance is None else target_acceptance)


@jax.jit
def _restart(tuner: Any) -> Any:
    return _averaging(None)[0](jnp.exp(tuner.log_step_size_avg))


def _advance(
    target: Coordinates,
    method: Method,
    length: int,
    chain: ChainState,
    metric: Metric,
    n: Int[Array, ""],
    adapting: Bool[Array, ""],
) -> tuple[ChainState, Chunk]:
    _, update, final = _averaging(method.target_acceptance)

    def transition(chain: ChainState) -> tuple[ChainState, Any]:
        step_size: Any = jnp.where(adapting, jnp.exp(chain.tuner.log_step_size), final(chain.tuner))
        key = jax.random.fold_in(chain.key, chain.transitions)
        state, info = method.step(target, key, chain.state, step_size, metric)
        tuner, used = chain.tuner, step_size
        if method.target_acceptance is None:
            used = jnp.full_like(step_size, jnp.nan)
        else:
            tuned = update(chain.tuner, info.acceptance)
            tuner = jax.tree.map(
                lambda new, old: jnp.where(adapting, new, old).astype(old.dtype), tuned, tuner
            )
        return ChainState(state, tuner, chain.key, chain.transitions + 1), (
            state.z,
            state.gradient,
            info,
            used,
        )

    empty = jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(transition, chain)[1]
    )

    def body(chain: ChainState, i: Array) -> tuple[ChainState, Any]:
        # one program for every n
        return jax.lax.cond(i < n, transition, lambda chain: (chain, empty), chain)

    chain, outputs = jax.lax.scan(body, chain, jnp.arange(length))
    return chain, Chunk(*outputs)


@compiled(static_argnums=(1, 2, 3))
def _chunk(
    target: Coordinates,
    method: Method,
    length: int,
    vectorised: bool,
    chain: ChainState,
    *shared: Any,
) -> tuple[ChainState, Chunk]:
    one = functools.partial(_advance, target, method, length)
    return (
        jax.vmap(one, in_axes=(0, None, None, None))(chain, *shared)
        if vectorised
        else one(chain, *shared)
    )
