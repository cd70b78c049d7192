"""The table of faults."""

import json
from pathlib import Path
from typing import Any

from benchmarks.speed.timing import markdown

__all__ = ["NAMES", "table"]

NAMES = ("kills", "inputs")


def table(results: Path) -> str:
    """What the files say, as Markdown."""
    pieces = []
    for name in NAMES:
        if (path := results / f"{name}.json").exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            rows = [[_shown(value) for value in row.values()] for row in record["rows"]]
            titles = [name.replace("_", " ") for name in record["rows"][0]]
            pieces.append(
                f"{markdown(titles, rows)}\n\n{record['date'][:10]}, dkp "
                f"{record['versions']['dkp']}."
            )
    return "\n\n".join(pieces)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(value) or "nothing"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
