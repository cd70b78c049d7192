"""Time and memory of kernel matrices of infinite networks.

They stand next to the product x x^T of the same points.

The NNGP and the tangent kernel of all pairs of N points, together, in float32; a call after the
first. `reference_s` is neural-tangents 0.6.5 on jax 0.4.30 doing the same, jitted, on a quiet
machine with two cores.
"""

import dataclasses
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from benchmarks.speed.timing import MEGABYTE, markdown, measure, peak_bytes, run_rows, write_suite

__all__ = ["SUITES", "Case", "exponents", "run_case", "run_suite", "table"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One row: a network, the number of its points, and what neural-tangents took."""

    network: Literal["dense", "flatten", "pool"]
    n: int
    reference_s: float | None = None
    tangent: bool = True
    once: bool = False
    dtype: Literal["float32"] = "float32"


SUITES = {
    "kernels": [
        *(
            Case(network="dense", n=n, reference_s=s)
            for n, s in ((1000, 0.045), (2000, 0.35), (4000, 0.87))
        ),
        *(Case(network="flatten", n=n, reference_s=s) for n, s in ((200, 0.17), (400, 0.72))),
        *(Case(network="pool", n=n, reference_s=s) for n, s in ((30, 1.6), (60, 5.7), (100, 15.6))),
    ],
    "kernels-large": [Case(network="dense", n=20_000, tangent=False, once=True)],
}


def run_case(text: str, repeats: int) -> None:
    """Time one case, given as JSON, in this process and print the row as one line of JSON."""
    import jax

    case = Case(**json.loads(text))
    points = _points(case)
    before, peaks = peak_bytes(), []
    kernel = _kernel(case, points)

    def step(_: None) -> None:
        kernel()
        peaks.append(peak_bytes())

    repeats, warmup = (1, 0) if case.once else (repeats, 3)
    timing = measure(step, None, _matrix_product(points), repeats, warmup=warmup)
    fastest, product = min(timing.steps), min(timing.products)
    result_bytes = (2 if case.tangent else 1) * case.n**2 * points.itemsize
    row = {
        **dataclasses.asdict(case),
        "seconds_min": fastest,
        "seconds_median": statistics.median(timing.steps),
        "compile_s": timing.first - fastest,
        "product_s_min": product,
        "ratio": fastest / product,
        "speedup": case.reference_s / fastest if case.reference_s else None,
        "result_mb": result_bytes / MEGABYTE,
        # Of the first call, which compiles: no product has been made by then.
        "peak_mb": peaks[0] / MEGABYTE,
        "peak_before_mb": before / MEGABYTE,
        "peak_beyond_result_mb": (peaks[0] - before - result_bytes) / MEGABYTE,
        "device": jax.devices()[0].device_kind,
    }
    print(json.dumps(row))


def run_suite(name: str, out: Path, *, repeats: int = 20) -> Path:
    """Time every case of a suite, print the table, and write it to ``<out>/speed/<name>.json``.

    Raises:
        RuntimeError: when a row fails, with what its process said.
    """
    rows = run_rows(name, SUITES[name], repeats, out)
    powers = exponents(rows)
    path = write_suite(name, out, rows, exponents=powers)
    print(table(rows))
    for network, power in powers.items():
        print(f"\n{network}: time ~ N^{power:.2f}")
    return path


def exponents(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The p of time ~ N^p of every network with several N, by least squares on logarithms of the
    fastest times.
    """
    import numpy as np

    found = {}
    for network in dict.fromkeys(row["network"] for row in rows):
        sizes, seconds = zip(
            *((r["n"], r["seconds_min"]) for r in rows if r["network"] == network), strict=True
        )
        if len(sizes) > 1:
            found[network] = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    titles = ["network", "N", "s_min", "s_median", "reference_s", "speedup", "ratio", "compile_s"]
    lines = []
    for r in rows:
        reference = [r["reference_s"], f"{r['speedup']:.1f}"] if r["reference_s"] else ["", ""]
        times = [f"{r['seconds_min']:.3f}", f"{r['seconds_median']:.3f}", *reference]
        memory = [f"{r[name]:.0f}" for name in ("peak_mb", "peak_before_mb", "result_mb")]
        lines.append(
            [r["network"], r["n"], *times, f"{r['ratio']:.1f}", f"{r['compile_s']:.1f}", *memory]
        )
    return markdown([*titles, "MB", "MB before", "MB result"], lines)


def _layers(network: str) -> list[Any]:
    """Three hidden layers of rectifiers."""
    from dkp import kernels

    if network == "dense":
        hidden = [kernels.Affine(2.0, 0.01), kernels.ReLU()]
        return [*(3 * hidden), kernels.Affine(1.0, 0.01)]
    hidden = [kernels.Conv(3, weight_var=2.0, bias_var=0.01), kernels.ReLU()]
    end = kernels.Flatten() if network == "flatten" else kernels.GlobalAvgPool()
    return [*(3 * hidden), end, kernels.Affine(1.0, 0.01)]


def _points(case: Case) -> Any:
    """Of the size of MNIST for vectors, of the scikit-learn digits for images."""
    import numpy as np

    shape = (784,) if case.network == "dense" else (8, 8, 1)
    return np.random.default_rng(0).standard_normal((case.n, *shape), case.dtype)


def _kernel(case: Case, points: Any) -> Callable[[], Any]:
    import dkp

    function = dkp.nngp_and_ntk_kernels if case.tangent else dkp.nngp_kernel
    layers = _layers(case.network)
    return lambda: function(layers, points)


def _matrix_product(points: Any) -> Callable[[], Any]:
    """The yardstick: x x^T of the same points, as vectors."""
    import jax

    x = jax.numpy.asarray(points.reshape(len(points), -1))
    product = jax.jit(lambda x: x @ x.T)
    return lambda: product(x).block_until_ready()
