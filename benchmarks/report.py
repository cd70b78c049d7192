"""Markdown tables from the records of runs, with published numbers beside ours.

Every number is a mean over splits, with the standard error of that mean, s / sqrt(n), where s is
the sample standard deviation over the n splits. Differences from the baseline are taken split by
split before averaging.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks import store
from benchmarks.config import CHOSEN, IGNORED_SETTINGS, SUITES, TABLES, Run

__all__ = [
    "METRICS",
    "Metric",
    "differences",
    "mean_and_error",
    "render",
    "summary",
    "tables",
    "tabulate",
]

PUBLISHED = Path(__file__).with_name("published.json")

T = TypeVar("T")

CURVE_SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)

SUMMARY_SUITE = "uci-small"
SUMMARY = ("gp", "diwp", "dgp", "dwp-ab", "chosen")

Record = dict[str, Any]
Cells = dict[tuple[str, str], dict[int, float]]  # (data set, method) -> split -> value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric or a time of the records.

    Attributes:
        title: its title, which may name the cores of a run.
        paired: whether the methods are also compared by differences.
    """

    title: str
    paired: bool = False


METRICS = {
    "log_density": Metric(title="Test log density", paired=True),
    "rmse": Metric(title="RMSE", paired=True),
    "crps": Metric(title="CRPS", paired=True),
    "coverage_90": Metric(title="Coverage of the 90% interval"),
    "elbo": Metric(title="ELBO per data point, standardised targets"),
    "accuracy": Metric(title="Test accuracy"),
    "class_log_density": Metric(title="Test log density of the labels"),
    "brier": Metric(title="Brier score"),
    "calibration_error": Metric(title="Expected calibration error"),
    "mae": Metric(title="Mean absolute error"),
    "accuracy_nngp": Metric(title="Test accuracy, NNGP"),
    "accuracy_ntk": Metric(title="Test accuracy, NTK"),
    "log_density_nngp": Metric(title="Test log density of the labels, NNGP"),
    "log_density_ntk": Metric(title="Test log density of the labels, NTK"),
    "log_density_nngp_unregularised": Metric(
        title="The same without diagonal regularisation, NNGP"
    ),
    "log_density_ntk_unregularised": Metric(title="The same without diagonal regularisation, NTK"),
    "fit": Metric(title="Seconds a fit, {cores}"),
}


def tables(
    records: Iterable[Record],
    *,
    suites: Sequence[str] = (),
    methods: Sequence[str] = (),
    baseline: str = "gp",
    variants: bool = False,
) -> dict[str, str]:
    """The tables of every suite as Markdown, and on what its numbers depend.

    Args:
        records: of runs, as ``benchmarks.store`` reads them.
        suites: which suites, in order; all that have finished runs when empty.
        methods: which methods, by the name in the records; all when empty.
        baseline: the method from which paired differences are taken.
        variants: also show runs whose settings differ from their suite's.

    Raises:
        ValueError: when a suite has no finished run.
    """
    wanted = [
        r
        for r in records
        if (not methods or r["method"] in methods) and (variants or not _differing_settings(r))
    ]
    found = {}
    for name in suites or SUITES:
        of_suite = [r for r in wanted if r["suite"] == name]
        finished = [r for r in of_suite if r["status"] == "finished"]
        if finished:
            text = _suite_tables(name, finished + chosen_by_bound(finished), baseline)
            found[name] = f"{text}\n\n{_provenance(finished, len(of_suite) - len(finished))}"
    missing = [name for name in suites if name not in found]
    if missing or not found:
        raise ValueError(
            "Expected at least one finished run of each suite, with these methods. Got none"
            f"{' of ' * bool(missing)}{', '.join(missing)}; do `run` first."
        )
    return found


def render(sections: Mapping[str, str]) -> str:
    """Sections below their names, as one Markdown text."""
    return "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items())


def summary(
    records: Iterable[Record], *, suite: str = SUMMARY_SUITE, methods: Sequence[str] = SUMMARY
) -> str | None:
    """One table for a front page: test log density of a few methods as their suite has them, beside
    the published numbers; None where the suite has no finished run."""
    finished = [
        r
        for r in records
        if r["suite"] == suite and r["status"] == "finished" and not _differing_settings(r)
    ]
    if not finished:
        return None
    shown = [r for r in finished + chosen_by_bound(finished) if r["dtype"] == "float64"]
    values = tabulate([r for r in shown if r["method"] in methods], "log_density")
    order = [(d, m) for d in SUITES[suite].datasets for m in methods if (d, m) in values]
    cells = {key: _show(list(values[key].values())) for key in order}
    _add_published(suite, "log_density", cells)
    return _table(METRICS["log_density"].title, cells)[1]


def tabulate(records: Iterable[Record], name: str) -> Cells:
    """A metric or time by (data set, method label) and split.

    Of several records for one split, the latest counts.
    """
    cells: Cells = {}
    for record in sorted(records, key=lambda r: r["date"]):
        values = record["times"] | record["metrics"]
        if name in values:
            cells.setdefault((record["dataset"], _method_label(record)), {})[record["split"]] = (
                values[name]
            )
    return cells


def chosen_by_bound(records: Sequence[Record]) -> list[Record]:
    """Records of the method ``chosen``: of the methods in ``CHOSEN``, on each split, the one with
    the highest bound on the evidence of the training data, exact or variational; where at least two
    of them have run as their suite says.
    """
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for r in sorted(records, key=lambda r: r["date"]):
        if r["method"] in CHOSEN and not _differing_settings(r) and _bound(r) is not None:
            groups.setdefault((r["suite"], r["dataset"], r["split"], r["dtype"]), []).append(r)
    best = [
        max(group, key=_bound) for group in groups.values() if len({r["method"] for r in group}) > 1
    ]
    usual = {
        suite: dataclasses.asdict(SUITES[suite].settings_of("chosen"))
        for suite in {r["suite"] for r in best}
    }
    return [
        r | {"method": "chosen", "chose": r["method"], "settings": usual[r["suite"]], "curve": None}
        for r in best
    ]


def _bound(record: Record) -> Any:
    """Nats a data point on standardised targets: the ELBO, or the evidence itself where it is
    exact.
    """
    return record["metrics"].get(
        "elbo", record.get("fit", {}).get("log_marginal_likelihood_per_point")
    )


def _choices(records: list[Record]) -> list[str]:
    """What was chosen, in one line a suite."""
    counts: dict[str, dict[str, int]] = {}
    for r in records:
        if r["method"] == "chosen":
            of_set = counts.setdefault(r["dataset"].removeprefix("uci/"), {})
            of_set[r["chose"]] = of_set.get(r["chose"], 0) + 1
    if not counts:
        return []
    shown = "; ".join(
        f"{d}: {', '.join(f'{m} ({n})' for m, n in of.items())}" for d, of in counts.items()
    )
    return [
        f"`chosen`: on each split that of {', '.join(CHOSEN)} with the highest bound on the "
        f"evidence. {shown}."
    ]


def differences(cells: Cells, baseline: str) -> Cells:
    """Each method minus the baseline on the splits that both have done."""
    return {
        (dataset, method): {k: values[k] - base[k] for k in sorted(values.keys() & base.keys())}
        for (dataset, method), values in cells.items()
        if method != baseline
        and (base := cells.get((dataset, baseline), {})).keys() & values.keys()
    }


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and its standard error s / sqrt(n); one value has no standard error."""
    if len(values) == 1:
        return float(values[0]), None
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))


def _suite_tables(suite: str, records: list[Record], baseline: str) -> str:
    pieces: list[str] = []
    cited: dict[str, Any] = {}
    cores = _cores(records)
    for name, metric in METRICS.items():
        values = _ordered(suite, tabulate(records, name))
        cells = {key: _show(list(by_split.values())) for key, by_split in values.items()}
        cited |= _add_published(suite, name, cells)
        pieces += _table(metric.title.format(cores=cores), cells)
        if metric.paired:
            paired = {
                key: _show(list(d.values())) for key, d in differences(values, baseline).items()
            }
            pieces += _table(
                f"{metric.title}: difference from {baseline} on the same splits", paired
            )
    title = "Learning curve, ELBO per data point after a share of the steps"
    pieces += _table(title, _curves(suite, records), error=False)
    pieces += _choices(records)
    pieces += [
        f"[{key}]: {s['citation']}, <{s['url']}>, {s['location']}. {s['note']}"
        for key, s in cited.items()
    ]
    return "\n\n".join(pieces)


def _add_published(suite: str, metric: str, cells: dict[tuple[str, str], str]) -> dict[str, Any]:
    """Put the published numbers of the data sets in `cells` beside ours, and return their
    sources."""
    if suite in TABLES:  # the same data, other targets
        return {}
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    datasets, cited = {dataset for dataset, _ in cells}, {}
    for entry in published["results"]:
        if entry["metric"] == metric and entry["dataset"] in datasets:
            cited[entry["source"]] = published["sources"][entry["source"]]
            cells[entry["dataset"], f"{entry['method']} [{entry['source']}]"] = (
                f"{entry['mean']:.2f} ± {entry['se']:.2f} ({entry['splits']})"
            )
    return cited


def _cores(records: list[Record]) -> str:
    """On how many cores the runs were, and where they differ, which methods had how many."""
    methods: dict[int, dict[str, None]] = {}
    for r in records:
        methods.setdefault(r.get("cores", 1), {})[r["method"]] = None
    counted = {n: "one core" if n == 1 else f"{n} cores" for n in sorted(methods)}
    if len(counted) <= 1:
        return "".join(counted.values())
    return "; ".join(f"{name}: {', '.join(methods[n])}" for n, name in counted.items())


def _ordered(suite: str, cells: dict[tuple[str, str], T]) -> dict[tuple[str, str], T]:
    """Rows in the order of the suite's data sets, columns in that of its methods, then by name."""
    datasets, methods = SUITES[suite].datasets, SUITES[suite].methods
    known = {name: i for i, name in enumerate(methods)}
    order = sorted(
        cells, key=lambda c: (datasets.index(c[0]), known.get(c[1].split(" ")[0], len(known)), c[1])
    )
    return {key: cells[key] for key in order}


def _curves(suite: str, records: list[Record]) -> dict[tuple[str, str], str]:
    """By data set and method, and share of the steps: the last part of the curve up to there, a
    mean over splits.
    """
    curves: dict[tuple[str, str], dict[int, list[float | None]]] = {}
    for r in sorted(records, key=lambda r: r["date"]):
        if r.get("curve"):
            curves.setdefault((r["dataset"], _method_label(r)), {})[r["split"]] = r["curve"]
    cells = {}
    for (dataset, method), by_split in _ordered(suite, curves).items():
        for share in CURVE_SHARES:
            reached = [
                v
                for c in by_split.values()
                if (v := c[max(0, round(share * len(c)) - 1)]) is not None
            ]
            if reached:
                cells[f"{dataset}, {method}", f"{share:.0%}"] = (
                    f"{np.mean(reached):.3f} ({len(reached)})"
                )
    return cells


def _table(title: str, cells: dict[tuple[str, str], str], *, error: bool = True) -> list[str]:
    if not cells:
        return []
    datasets = list(dict.fromkeys(dataset for dataset, _ in cells))
    methods = list(dict.fromkeys(method for _, method in cells))
    lines = [f"| | {' | '.join(methods)} |", "|---" * (len(methods) + 1) + "|"]
    lines += [
        f"| {d.removeprefix('uci/')} | {' | '.join(cells.get((d, m), '') for m in methods)} |"
        for d in datasets
    ]
    return [f"**{title}**, mean {'± standard error ' if error else ''}(splits)", "\n".join(lines)]


def _show(values: Sequence[float]) -> str:
    return f"{_pair(*mean_and_error(values))} ({len(values)})"


def _pair(mean: float, error: float | None) -> str:
    # Two decimals at least; more for small numbers, so that three digits of the larger of the two
    # are shown.
    largest = max(abs(mean), error or 0.0)
    decimals = 2 if largest >= 1 or largest == 0 else min(8, 2 - int(np.floor(np.log10(largest))))
    return (
        f"{mean:.{decimals}f}" if error is None else f"{mean:.{decimals}f} ± {error:.{decimals}f}"
    )


def _method_label(record: Record) -> str:
    different = [record["dtype"]] if record["dtype"] != "float64" else []
    different += [f"{name}={value}" for name, value in _differing_settings(record).items()]
    return f"{record['method']} ({', '.join(different)})" if different else record["method"]


def _differing_settings(record: Record) -> dict[str, Any]:
    usual = dataclasses.asdict(SUITES[record["suite"]].settings_of(record["method"]))
    ignored = IGNORED_SETTINGS.get(record["method"], ())
    seed = {"seed": record["seed"]} if record["seed"] != Run.seed else {}
    return seed | {
        k: v for k, v in record["settings"].items() if k not in ignored and usual.get(k) != v
    }


def _provenance(records: list[Record], failed: int) -> str:
    dates = sorted(r["date"][:10] for r in records)
    line = f"{len(records)} runs, {dates[0]} to {dates[-1]}" + (
        f"; {failed} failed" if failed else ""
    )
    mixed = [
        m
        for m in {r["method"]: 0 for r in records}
        if len({r["model"] for r in records if r["method"] == m}) > 1
    ]
    warning = f" The runs of {', '.join(mixed)} do not all have the same model." if mixed else ""
    return f"{line}. {store.listed_versions(records)}.{warning}"
