"""Tables of the speed of steps and of kernel matrices, for the page of results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import store
from benchmarks.speed.timing import markdown

__all__ = ["sections"]

_NETWORKS = {
    "dense": "three dense ReLU layers, 784 features",
    "flatten": "three 3x3 convolutions, 8x8x1, `Flatten`",
    "pool": "the same, `GlobalAvgPool`",
}


def sections(out: Path) -> dict[str, str]:
    """The tables of ``<out>/speed``, by the names of their markers; without those that have no
    record."""
    tables: dict[str, Callable[[list[dict[str, Any]]], str]] = {
        "vi": _steps,
        "scaling": _scaling,
        "kernels": _kernels,
    }
    paths = {name: out / "speed" / f"{name}.json" for name in tables}
    return {
        f"speed-{name}": tables[name](store.read(path)["rows"])
        for name, path in paths.items()
        if path.exists()
    }


def _steps(rows: list[dict[str, Any]]) -> str:
    titles = ["kernel", "dtype", "draws a step", "ms, fastest", "ms, median", "compile, s", "ratio"]
    lines = [
        [
            r["kernel"],
            r["dtype"],
            r["samples"],
            f"{r['step_ms_min']:.0f}",
            f"{r['step_ms_median']:.0f}",
            f"{r['compile_s']:.1f}",
            f"{r['ratio']:.0f}",
        ]
        for r in rows
    ]
    return markdown(titles, lines)


def _scaling(rows: list[dict[str, Any]]) -> str:
    titles = ["N", "ms, fastest", "peak memory, MB", "data, MB"]
    lines = [
        [
            f"{r['n']:,}",
            f"{r['step_ms_min']:.0f}",
            f"{r['peak_mb']:.0f}",
            f"{r['data_mb']:.1f}",
        ]
        for r in rows
    ]
    return markdown(titles, lines)


def _kernels(rows: list[dict[str, Any]]) -> str:
    titles = ["network", "N", "s, fastest", "s, neural-tangents", "times as fast"]
    titles += ["ratio to x xᵀ", "compile, s", "peak memory, MB"]
    lines = [
        [
            _NETWORKS[r["network"]],
            r["n"],
            f"{r['seconds_min']:.3f}",
            r["reference_s"] or "",
            f"{r['speedup']:.1f}" if r["speedup"] else "",
            # beside the product of small images, a call's own time is all that the ratio shows
            f"{r['ratio']:.1f}" if r["network"] == "dense" else "",
            f"{r['compile_s']:.1f}",
            f"{r['peak_mb']:.0f}",
        ]
        for r in rows
    ]
    return markdown(titles, lines)
