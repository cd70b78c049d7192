"""Time and memory of one step of variational inference, next to one batched matrix product."""

import dataclasses
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from benchmarks.speed.timing import MEGABYTE, markdown, measure, peak_bytes, run_rows, write_suite

__all__ = ["SUITES", "Case", "run_case", "run_suite", "table"]

Dtype = Literal["float64", "float32"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One row: the data, the model, and how a step is made.

    depth: kernels, with a bottleneck between any two. guide: of Wishart bottlenecks, whose width is
    d.
    """

    n: int = 455
    d: int = 13
    batch_size: int = 455
    n_inducing: int = 100
    samples: int = 10
    kernel: str = "relu"
    dtype: Dtype = "float64"
    depth: int = 3
    bottleneck: Literal["inverse-wishart", "wishart"] = "inverse-wishart"
    guide: str = "auto"


_GUIDED: list[tuple[Literal["inverse-wishart", "wishart"], str]] = [
    ("inverse-wishart", "auto"),
    ("wishart", "standard"),
    ("wishart", "a"),
    ("wishart", "b"),
    ("wishart", "ab"),
    ("wishart", "features"),
]

SUITES = {
    "vi": [
        Case(kernel=kernel, dtype=dtype, samples=samples)
        for kernel in ("relu", "squared-exponential")
        for dtype in get_args(Dtype)
        for samples in (10, 1)
    ],
    "depth": [
        Case(kernel="squared-exponential", dtype=dtype, depth=5, bottleneck=bottleneck, guide=guide)
        for dtype in get_args(Dtype)
        for bottleneck, guide in _GUIDED
    ],
    "scaling": [Case(n=n, dtype="float32") for n in (1_000, 10_000, 100_000, 1_000_000)],
}


def run_case(text: str, repeats: int) -> None:
    """Time one case, given as JSON, in this process and print the row as one line of JSON."""
    import jax

    case = Case(**json.loads(text))
    data, data_bytes = _data(case)
    before = peak_bytes()
    step, state = _vi_step(case, _model(case), data)
    timing = measure(
        lambda s: jax.block_until_ready(step(s)), state, _matrix_product(case), repeats
    )
    fastest, product = min(timing.steps), min(timing.products)
    row = {
        **dataclasses.asdict(case),
        "step_ms_min": fastest * 1e3,
        "step_ms_median": statistics.median(timing.steps) * 1e3,
        "compile_s": timing.first - fastest,
        "product_ms_min": product * 1e3,
        "ratio": fastest / product,
        "peak_mb": peak_bytes() / MEGABYTE,
        "peak_before_model_mb": before / MEGABYTE,
        "data_mb": data_bytes / MEGABYTE,
        "peak_beyond_data_mb": (peak_bytes() - data_bytes) / MEGABYTE,
        "device": jax.devices()[0].device_kind,
    }
    print(json.dumps(row))


def run_suite(name: str, out: Path, *, repeats: int = 20) -> Path:
    """Time every case of a suite, print the table, and write it to ``<out>/speed/<name>.json``.

    Raises:
        RuntimeError: when a row fails, with what its process said.
    """
    rows = run_rows(name, SUITES[name], repeats, out)
    path = write_suite(name, out, rows)
    print(table(rows))
    return path


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    titles = ["kernel", "depth", "bottlenecks", "guide", "dtype", "samples", "N", "batch"]
    titles += ["ms_min", "ms_median", "compile_s", "ratio", "MB", "MB-data"]
    lines = []
    for r in rows:
        sizes = [
            r.get(name, "")
            for name in ("kernel", "depth", "bottleneck", "guide", "dtype", "samples")
        ]
        sizes += [r["n"], r["batch_size"]]
        times = [
            f"{r[name]:.1f}" for name in ("step_ms_min", "step_ms_median", "compile_s", "ratio")
        ]
        memory = [f"{r[name]:.0f}" for name in ("peak_mb", "peak_beyond_data_mb")]
        lines.append([*sizes, *times, *memory])
    return markdown(titles, lines)


def _model(case: Case) -> Any:
    """Bottlenecks between kernels of one sort."""
    import dkp
    from dkp import kernels, likelihoods

    kernel = {
        "relu": lambda: kernels.ArcCosine(1),
        "squared-exponential": kernels.SquaredExponential,
    }[case.kernel]
    wishart = case.bottleneck == "wishart"

    def bottleneck() -> Any:
        return dkp.Wishart(width=case.d) if wishart else dkp.InverseWishart(delta=dkp.learn(10.0))

    bottlenecks = [part for _ in range(case.depth - 1) for part in (kernel(), bottleneck())]
    return dkp.DeepKernelProcess(
        layers=[kernels.Linear(ard=True), *bottlenecks, kernel()],
        likelihood=likelihoods.Gaussian(noise=dkp.learn(0.1)),
    )


def _data(case: Case) -> tuple[Any, int]:
    """Synthetic data, and the bytes of one copy of it."""
    import dkp
    from benchmarks.tables.datasets import synthetic

    x, y = synthetic(case.n, case.d, dtype=case.dtype)
    return dkp.Dataset.from_arrays(x, y), x.nbytes + y.nbytes


def _matrix_product(case: Case) -> Callable[[], Any]:
    """The yardstick: ten products of 100 x 100 by 100 x 455."""
    import jax

    left = jax.random.normal(jax.random.key(0), (10, 100, 100), case.dtype)
    right = jax.random.normal(jax.random.key(1), (10, 100, 455), case.dtype)
    product = jax.jit(lambda a, b: a @ b)
    return lambda: product(left, right).block_until_ready()


def _vi_step(case: Case, model: Any, data: Any) -> tuple[Callable[[Any], Any], Any]:
    """The step to time and its first state, with ``state = step(state)``: the only place that knows
    the engine.

    Doubly stochastic even when the batch is all the data: rows are gathered, and the output
    Gaussian process is not collapsed.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from dkp.data.batches import Batches
    from dkp.inference import minimise
    from dkp.inference.variational import fit, rates
    from dkp.inference.variational.objectives import NegativeElbo

    key, optimizer = jax.random.key(0), rates.natural_outputs(optax.adam(0.01), 1000)
    family, parameters, _ = fit.prepare(
        model,
        data,
        key=key,
        n_inducing=case.n_inducing,
        batch_size=case.batch_size,
        collapse=False,
        guide=case.guide,
    )
    one_step = minimise.make_step(
        NegativeElbo(family=family, n=data.n, samples=case.samples), optimizer
    )
    rows = jnp.asarray(Batches(case.n, case.batch_size, 0).rows(0, 100))

    @jax.jit
    def step(state: Any, rows: Any, x: Any, y: Any) -> Any:
        chosen = rows[state.step % len(rows)]
        return one_step(
            state, jax.random.fold_in(key, state.step), (x[chosen], y[chosen], None, None)
        )[0]

    state = minimise.LoopState(
        parameters=parameters, optimizer=optimizer.init(parameters), step=jnp.zeros((), jnp.int32)
    )
    return lambda s: step(s, rows, data.x, data.y), state
