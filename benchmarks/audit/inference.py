"""Variational inference judged by Markov chains and by the evidence.

The data are subsets of the small UCI sets.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import store
from benchmarks.speed.timing import markdown

__all__ = ["DATASETS", "audit_each", "described", "distance", "run_audit", "section", "table"]

DATASETS = ("yacht", "boston", "energy", "concrete", "wine")
ROWS, TEST_ROWS, POINTS = 100, 100, 10
DELTA = 10.0


def run_audit(names: tuple[str, ...], out: Path, *, again: bool = False) -> Path:
    """Audit each set that has no record yet, print the table, and return the records' directory.

    Args:
        names: of ``DATASETS``.
        out: directory of all records; these stand in ``<out>/audit/<name>.json``.
        again: repeat finished ones.
    """
    return audit_each(names, out / "audit", audit, lambda: section(out), again=again)


def section(out: Path) -> str | None:
    """The table of the records in ``<out>/audit``, and on what they depend; or None."""
    return described(out / "audit", table)


def audit_each(
    names: Sequence[str],
    directory: Path,
    audit: Callable[[str], dict[str, Any]],
    section: Callable[[], str | None],
    *,
    again: bool,
) -> Path:
    """Write ``<directory>/<name>.json`` for each set that has no record yet.

    Print the table so far, and return the directory.
    """
    for name in names:
        path = directory / f"{name}.json"
        if again or not path.exists():
            store.write(path, {"date": store.now(), "versions": store.versions(), **audit(name)})
        print(section(), flush=True)
    return directory


def described(directory: Path, table: Callable[[list[dict[str, Any]]], str]) -> str | None:
    """The table of the records in a directory, and on what they depend; None without any."""
    records = [store.read(path) for path in sorted(directory.glob("*.json"))]
    if not records:
        return None
    return f"{table(records)}\n\n{records[-1]['date'][:10]}. {store.listed_versions(records)}."


def audit(name: str) -> dict[str, Any]:
    """One row: the same model and hyperparameters by variational inference and by HMC.

    The hyperparameters are those that variational inference learned, but for the concentration,
    which is fixed where a bottleneck has much to do. Inducing points are the data, so that only the
    guide is judged.
    """
    import jax

    jax.config.update("jax_enable_x64", True)
    import dkp
    from dkp.diagnostics import compare

    split = dkp.datasets.load(f"uci/{name}", split=0)
    data = dkp.Dataset.from_arrays(split.x[:ROWS], split.y[:ROWS])
    assert split.x_test is not None and split.y_test is not None
    x_test, y_test = split.x_test[:TEST_ROWS], split.y_test[:TEST_ROWS]
    keys = jax.random.split(jax.random.key(0), 5)
    began = time.perf_counter()
    vi = dkp.fit_vi(_model(), data, key=keys[0], n_inducing=ROWS, steps=2000, samples=2)
    hmc = dkp.sample_hmc(_model(), data, key=keys[1], init=vi, chains=4, warmup=500, draws=500)
    evidence = dkp.log_evidence(hmc.coordinates.model, data, key=keys[2], particles=512, runs=3)
    found = compare(
        vi, hmc, x_test[:POINTS], key=keys[3], n_samples=500, evidence=evidence.log_evidence
    )
    densities = {
        method: float(dkp.predict(p, x_test, key=keys[4], n_samples=500).log_density(y_test).mean())
        for method, p in (("vi", vi), ("hmc", hmc))
    }
    assert found.elbo[0] is not None
    return {
        "dataset": name,
        "n": data.n,
        "test_log_density": densities,
        "elbo": found.elbo[0].mean,
        "elbo_se": found.elbo[0].standard_error,
        "evidence": evidence.log_evidence,
        "evidence_se": evidence.standard_error,
        "importance_evidence": found.importance_evidence[0],
        "k_hat": found.k_hat[0],
        "predictive": distance(found.predictive),
        "gram": distance(found.grams[0]),
        "hmc": {k: v for k, v in hmc.summary().items() if isinstance(v, (int, float))},
        "seconds": {"vi": vi.seconds, "all": time.perf_counter() - began},
    }


def table(records: list[dict[str, Any]]) -> str:
    """Records as a Markdown table."""
    titles = (
        "data set",
        "test log density, VI",
        "HMC",
        "evidence - ELBO, nats",
        "k-hat",
        "shift of predictions, sd",
        "shift of G, sd",
        "sd of G, VI / HMC",
        "R-hat",
        "divergences",
    )
    return markdown(titles, [_row(r) for r in records])


def _row(r: dict[str, Any]) -> tuple[str, ...]:
    gap, error = r["evidence"] - r["elbo"], (r["evidence_se"] ** 2 + r["elbo_se"] ** 2) ** 0.5
    return (
        r["dataset"],
        f"{r['test_log_density']['vi']:.3f}",
        f"{r['test_log_density']['hmc']:.3f}",
        f"{gap:.1f} ± {error:.1f}",
        f"{r['k_hat']:.2f}",
        f"{r['predictive']['mean_shift']:.2f}",
        f"{r['gram']['mean_shift']:.2f}",
        f"{r['gram']['spread']:.2f}",
        f"{r['hmc']['r_hat']:.3f}",
        str(r["hmc"]["divergences"]),
    )


def _model() -> Any:
    """The default model with a fixed concentration."""
    from dkp.model.defaults import default_model
    from dkp.model.hyperparameters import substitute

    return substitute(default_model(), {"layers.2.delta": DELTA})


def distance(found: Any) -> dict[str, float]:
    """A distance of two posteriors, as a record has it."""
    return {
        "shift": found.shift,
        "mean_shift": found.mean_shift,
        "spread": found.spread,
        "energy": found.energy.mean,
        "energy_se": found.energy.standard_error,
    }
