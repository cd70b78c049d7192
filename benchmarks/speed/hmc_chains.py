"""Chains of the `hmc` suite: the package's own, and NumPyro's on the models of ``hmc_baselines``.

The chains of a row run side by side, with one thread of BLAS each. Seconds of compilation are those
that JAX reports.
"""

import dataclasses
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import arviz  # noqa: F401  its import belongs to no run
import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
from numpyro.infer import NUTS, init_to_sample

import dkp
from benchmarks.speed import hmc_problem
from benchmarks.speed.hmc_baselines import MODELS, factor_name
from benchmarks.speed.hmc_problem import LENGTHSCALES, NOISE, Bottleneck
from dkp.inference.markov.posterior import MCMCPosterior

__all__ = ["CompileClock", "Sampled", "sample_baseline", "sample_ours"]

Ended = Literal["finished", "sampling", "warm-up"]
_SLICE = 50  # draws whose factors are in memory at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampled:
    """Chains of one method on one posterior.

    Attributes:
        sampler: its name.
        functionals: (chains, draws) each.
        ended: "finished", or in what the time limit fell; in warm-up, the later half of the
            transitions stands for draws.
        gradients: of kept draws.
        divergences: among them.
        compile_s: seconds in which something was compiled.
        warmup_s: all other seconds before the kept draws.
        sampling_s: seconds of kept draws.
    """

    sampler: str
    functionals: dict[str, np.ndarray]
    ended: Ended
    gradients: int
    divergences: int
    compile_s: float
    warmup_s: float
    sampling_s: float


class CompileClock:
    """Collects the times that JAX spends on tracing, lowering and compiling; a context."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []

    def __enter__(self) -> "CompileClock":
        jax.monitoring.register_event_time_span_listener(self.note)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_time_span_listener(self.note)

    def note(self, event: str, start_time: float, end_time: float, **_: Any) -> None:
        """What JAX calls: times are those of ``time.time``."""
        if event.startswith("/jax/core/compile"):
            self._spans.append((start_time, end_time))

    def seconds(self, begin: float, end: float) -> float:
        """Seconds between two times in which something was compiled; spans may overlap."""
        total, reached = 0.0, begin
        for first, last in sorted(self._spans):
            first, last = max(first, reached), min(last, end)
            if last > first:
                total, reached = total + last - first, last
        return total


def sample_ours(
    bottleneck: Bottleneck,
    n: int,
    *,
    chains: int,
    warmup: int,
    draws: int,
    seed: int,
    **options: Any,
) -> tuple[Sampled, MCMCPosterior]:
    """Chains of ``dkp.sample_hmc`` with `options`, and the posterior that it returns."""
    data, model = hmc_problem.load(n), hmc_problem.model(bottleneck)
    options = {"chain_method": "parallel", "progress": False, **options}
    with CompileClock() as compiling, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say is in the row
        began, key = time.time(), jax.random.key(seed)
        posterior = dkp.sample_hmc(
            model, data, key=key, chains=chains, warmup=warmup, draws=draws, **options
        )
        ended = time.time()
    compile_s = compiling.seconds(began, ended)
    sampled = Sampled(
        sampler=f"dkp, {posterior.method}",
        functionals=_functionals_of_ours(posterior),
        ended="finished",
        gradients=int(posterior.stats["n_steps"].sum()),
        divergences=posterior.divergences,
        compile_s=compile_s,
        warmup_s=ended - began - compile_s - posterior.seconds,
        sampling_s=posterior.seconds,
    )
    return sampled, posterior


def _functionals_of_ours(posterior: Any) -> dict[str, np.ndarray]:
    y = posterior.data.y[:, 0]

    @jax.jit
    def evaluate(values: Any, factors: Any) -> dict[str, jax.Array]:
        def one(draw: Any) -> dict[str, jax.Array]:
            values, factors = draw
            rows = [posterior.coordinates.in_data_order(factor) for factor in factors]
            return hmc_problem.functionals(jax.tree.map(jnp.squeeze, values), rows, y)

        return jax.lax.map(one, (values, factors))

    parts = []
    for start in range(0, posterior.n_draws, _SLICE):
        part = dataclasses.replace(posterior, z=posterior.z[:, start : start + _SLICE])
        stack = part.chains()
        found = evaluate(stack.values, stack.factors)
        parts.append({name: np.asarray(a).reshape(part.n_chains, -1) for name, a in found.items()})
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Transition:
    """One of one chain: position, gradients, whether it diverged, and the seconds it took."""

    z: Any
    gradients: int
    divergences: int
    seconds: float


def sample_baseline(
    name: str, n: int, *, chains: int, warmup: int, draws: int, time_limit: float, seed: int
) -> Sampled:
    """NUTS of NumPyro as it comes, on a model of ``MODELS``, from draws of the prior.

    Args:
        time_limit: seconds of warm-up and sampling after which the chains are stopped.
    """
    data = hmc_problem.load(n)
    arguments = (jnp.asarray(data.x), jnp.asarray(data.y[:, 0]))
    kernel = NUTS(MODELS[name], init_strategy=init_to_sample)
    with CompileClock() as compiling:
        began, keys = time.time(), jax.random.split(jax.random.key(seed), chains)
        states = [kernel.init(key, warmup, None, arguments, {}) for key in keys]
        step = jax.jit(lambda state: kernel.sample(state, arguments, {})).lower(states[0]).compile()
        with ThreadPoolExecutor(chains) as pool:
            runs = list(
                pool.map(lambda state: _run(step, state, warmup + draws, time_limit), states)
            )
        stopped = time.time()
    kept, ended = _kept(runs, warmup, draws)
    compile_s = compiling.seconds(began, stopped)
    sampling_s = max(sum(t.seconds for t in run) for run in kept)
    return Sampled(
        sampler="NumPyro, nuts",
        functionals=_functionals_of_baseline(kernel, arguments, kept),
        ended=ended,
        gradients=sum(t.gradients for run in kept for t in run),
        divergences=sum(t.divergences for run in kept for t in run),
        compile_s=compile_s,
        warmup_s=stopped - began - compile_s - sampling_s,
        sampling_s=sampling_s,
    )


def _run(step: Any, state: Any, total: int, time_limit: float) -> list[_Transition]:
    """Transitions of one chain."""
    done: list[_Transition] = []
    while len(done) < total and sum(t.seconds for t in done) < time_limit:
        began = time.time()
        state = jax.block_until_ready(step(state))
        seconds, gradients, divergences = (
            time.time() - began,
            int(state.num_steps),
            int(state.diverging),
        )
        z = jax.tree.map(np.asarray, state.z)
        done.append(_Transition(z=z, gradients=gradients, divergences=divergences, seconds=seconds))
    return done


def _kept(
    runs: list[list[_Transition]], warmup: int, draws: int
) -> tuple[list[list[_Transition]], Ended]:
    """Those of every chain that count as draws, as many of each, and how the run ended."""
    done = min(map(len, runs))
    if done <= warmup:
        return [run[done // 2 : done] for run in runs], "warm-up"
    return [run[warmup:done] for run in runs], "finished" if done == warmup + draws else "sampling"


def _functionals_of_baseline(
    kernel: Any, arguments: Any, runs: list[list[_Transition]]
) -> dict[str, np.ndarray]:
    constrain = kernel.postprocess_fn(arguments, {})

    @jax.jit
    def evaluate(z: Any) -> dict[str, jax.Array]:
        sites = constrain(z)
        factors = [sites[factor_name(i)] for i in (1, 2)]
        return hmc_problem.functionals(
            {name: sites[name] for name in (*LENGTHSCALES, NOISE)}, factors, arguments[1]
        )

    found = [[evaluate(t.z) for t in run] for run in runs]
    return {
        name: np.array([[values[name] for values in chain] for chain in found])
        for name in found[0][0]
    }
