"""The table of claims: what is computed, one file a claim, and the Markdown."""

import dataclasses
import importlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import store
from benchmarks.speed.timing import markdown

__all__ = ["CLAIMS", "run_claims", "table"]

CLAIMS = {
    "kernel-variance": "prior.kernel_variance",
    "gradient-descent": "linear.gradient_descent",
    "langevin": "linear.langevin",
    "evidence-over-width": "linear.evidence_over_width",
    "residual-network": "residual.residual_network",
    "learned-representations": "bottleneck.learned_representations",
    "acceleration": "bottleneck.acceleration",
    "approaches-prior": "repriorised.approaches_prior",
    "mixing": "repriorised.mixing",
    "best-width": "bottleneck.best_width",
}
"""Module and function of each; imported when they are computed, since they need more than the
tables do."""


def run_claims(out: Path, *, only: Sequence[str] = (), again: bool = False) -> None:
    """Compute claims that have no file yet, and print each as it is done.

    Raises:
        ValueError: for a claim that is not known.
    """
    for name in only or CLAIMS:
        if name not in CLAIMS:
            raise ValueError(f"Expected claims among {', '.join(CLAIMS)}. Got {name!r}.")
        path = out / "claims" / f"{name}.json"
        if again or not path.exists():
            began = time.perf_counter()
            module, _, function = CLAIMS[name].rpartition(".")
            finding = getattr(importlib.import_module(f"benchmarks.claims.{module}"), function)()
            seconds = time.perf_counter() - began
            record = {"seconds": seconds, "date": store.now(), "versions": store.versions()}
            store.write(path, dataclasses.asdict(finding) | record)
        print(_line(name, store.read(path)), flush=True)


def table(out: Path) -> str:
    """All claims that have been computed, as Markdown."""
    records = [
        store.read(path) for name in CLAIMS if (path := out / "claims" / f"{name}.json").exists()
    ]
    if not records:
        return ""
    titles = ("claim", "paper", "computed", "found", "reproduced", "where it deviates", "seconds")
    shown = ("claim", "paper", "computed", "number", "reproduced", "deviation")
    rows = [
        [
            *(_cell(_verdict(r) if name == "reproduced" else r[name]) for name in shown),
            f"{r['seconds']:.0f}",
        ]
        for r in records
    ]
    dates = sorted(r["date"][:10] for r in records)
    return (
        f"{markdown(titles, rows)}\n\n{dates[0]} to {dates[-1]}. {store.listed_versions(records)}."
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")  # as in |beta|; a bar ends a cell


def _verdict(record: dict[str, Any]) -> str:
    return "yes" if record["reproduced"] else "no"


def _line(name: str, record: dict[str, Any]) -> str:
    shown = {key: record[key] for key in ("number", "deviation") if record[key]}
    return (
        f"{name}: reproduced: {_verdict(record)}, {record['seconds']:.0f} s. "
        f"{json.dumps(shown, ensure_ascii=False)}"
    )
