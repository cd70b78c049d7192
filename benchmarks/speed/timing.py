"""What all suites of speed share.

Each row is a process of its own, interleaved with a matrix product as the unit.

A fresh process gives a row its own peak memory and floating-point width; the ratio to an operation
that is timed in turn with it means the same on a busy machine.
"""

import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import store

__all__ = ["MEGABYTE", "Timing", "markdown", "measure", "peak_bytes", "run_rows", "write_suite"]

MEGABYTE = 1e6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds: of the first step, which compiles, then of every later step and matrix product."""

    first: float
    steps: list[float]
    products: list[float]


def measure(
    step: Callable[[Any], Any],
    state: Any,
    product: Callable[[], Any],
    repeats: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    warmup: int = 3,
) -> Timing:
    """Time `step`, with `state = step(state)`, interleaved with `product`.

    Args:
        step: what is timed, such as one optimiser step; returns when its result is ready.
        state: the state to start from.
        product: the operation to compare with; returns when its result is ready.
        repeats: how many of each are timed.
        clock: seconds.
        warmup: how many of each are done before, beside the first step.
    """

    def timed(call: Callable[..., Any], *args: Any) -> tuple[float, Any]:
        start = clock()
        result = call(*args)
        return clock() - start, result

    first, state = timed(step, state)
    steps, products = [], []
    for i in range(-warmup, repeats):
        step_seconds, state = timed(step, state)
        product_seconds, _ = timed(product)
        if i >= 0:
            steps.append(step_seconds)
            products.append(product_seconds)
    return Timing(first=first, steps=steps, products=products)


def run_rows(
    name: str,
    cases: Sequence[Any],
    repeats: int,
    out: Path,
    *,
    environment: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Time every case of the suite `name`, each in a process of its own.

    Until all are done, those that are stand in ``<out>/speed/<name>.partial.json``, so that an
    interruption loses none.

    Args:
        environment: of those processes; that of this one by default.

    Raises:
        RuntimeError: when a row fails, with what its process said.
    """
    rows: list[dict[str, Any]] = []
    for case in cases:
        rows.append(
            _in_fresh_process(
                name, case, repeats, os.environ if environment is None else environment
            )
        )
        _write(f"{name}.partial", out, rows)
        print(f"{name}: {len(rows)} of {len(cases)} rows", file=sys.stderr, flush=True)
    return rows


def write_suite(name: str, out: Path, rows: list[dict[str, Any]], **more: Any) -> Path:
    """Write the rows, and on what they depend, to ``<out>/speed/<name>.json``."""
    path = _write(name, out, rows, **more)
    path.with_name(f"{name}.partial.json").unlink(missing_ok=True)
    return path


def markdown(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def peak_bytes() -> int:
    """Largest resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _write(name: str, out: Path, rows: list[dict[str, Any]], **more: Any) -> Path:
    record = {
        "suite": name,
        "date": store.now(),
        "versions": store.versions(),
        "cores": os.cpu_count(),
        **more,
    }
    path = out / "speed" / f"{name}.json"
    store.write(path, {**record, "rows": rows})
    return path


def _in_fresh_process(
    name: str, case: Any, repeats: int, environment: Mapping[str, str]
) -> dict[str, Any]:
    text = json.dumps(dataclasses.asdict(case))
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "speed-one",
        name,
        text,
        "--repeats",
        str(repeats),
    ]
    environment = {**environment, "JAX_ENABLE_X64": str(case.dtype == "float64")}
    done = subprocess.run(
        command, check=False, cwd=store.ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"Expected a timing of {case}. Got exit status "
            f"{done.returncode}:\n{done.stderr[-4000:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])
