"""The pages of results: which tables there are, and how they are put into Markdown files.

A page says where a table stands with the markers ``<!-- name:begin -->`` and
``<!-- name:end -->``; what is written by hand stands around them."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks import report, store

__all__ = ["MARKERS", "further_sections", "pages", "write_between_markers", "write_pages"]

MARKERS = re.compile(r"<!-- ([\w-]+):begin -->")


def further_sections(out: Path) -> dict[str, str]:
    """The tables that are not of a suite of ``run``, by name: those whose records are under
    `out`."""
    from benchmarks.audit import guides as audit_guides
    from benchmarks.audit import inference as audits
    from benchmarks.claims import run as claims_run
    from benchmarks.faults import report as faults_report
    from benchmarks.speed import hmc as speed_hmc
    from benchmarks.speed import report as speed_report

    found = {
        "summary": report.summary(store.records(out)),
        "audit": audits.section(out),
        "audit-guides": audit_guides.section(out),
        "claims": claims_run.table(out),
        "faults": faults_report.table(out / "faults"),
        "speed-hmc": speed_hmc.section(out),
        **speed_report.sections(out),
    }
    return {name: text for name, text in found.items() if text}


def pages(root: Path) -> Iterator[Path]:
    """The files with tables: the README and all of ``docs/results``."""
    yield root / "README.md"
    yield from sorted((root / "docs" / "results").glob("*.md"))


def write_pages(root: Path, sections: Mapping[str, str]) -> None:
    """Put every section between its markers, wherever they stand; other markers keep their text.

    Raises:
        ValueError: when no page has a section's markers, or a page has one marker without the
            other.
    """
    homes = {
        (page, name)
        for page in pages(root)
        for name in MARKERS.findall(page.read_text(encoding="utf-8"))
    }
    homeless = [name for name in sections if all(name != found for _, found in homes)]
    if homeless:
        raise ValueError(
            "Expected a page of docs/results with the markers of every section. Got none for "
            f"{', '.join(homeless)}: write them into one."
        )
    for page, name in sorted(homes):
        if name in sections:
            write_between_markers(page, sections[name], name)


def write_between_markers(path: Path, text: str, name: str) -> None:
    """Replace what stands between the markers ``<!-- name:begin -->`` and ``<!-- name:end -->`` of
    a Markdown file.

    Raises:
        ValueError: when the file does not have each marker once, in order.
    """
    page = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(
            f"Expected {path} to contain {begin} and, after it, {end}, once each. Got something "
            "else."
        )
    before, after = page[: page.index(begin)], page[page.index(end) :]
    path.write_text(f"{before}{begin}\n{text}\n{after}", encoding="utf-8")
