"""Entry point of ``python -m benchmarks.faults``."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from benchmarks import store
from benchmarks.faults.fuzz import run_fuzz
from benchmarks.faults.inputs import run_inputs
from benchmarks.timing import markdown

RESULTS = store.ROOT / "benchmarks" / "results" / "faults"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults")
    parser.add_argument("what", choices=["kills", "inputs", "fuzz", "table"])
    parser.add_argument("--number", type=int, default=10, help="kills of an engine; 10 times as many inputs of a kind")
    parser.add_argument("--seconds", type=int, default=60, help="of fuzzing")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.what == "kills":
        from benchmarks.faults.kills import run_kills  # imports the package, which the fuzzer wants to do itself

        _write("kills", run_kills(arguments.number, arguments.seed))
    elif arguments.what == "inputs":
        _write("inputs", run_inputs(10 * arguments.number, arguments.seed))
    elif arguments.what == "fuzz":
        run_fuzz(arguments.seconds)
    print(table(RESULTS))


def _write(name: str, rows: list[Any]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    record = {"date": store.now(), "versions": store.versions(), "rows": [dataclasses.asdict(row) for row in rows]}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def table(results: Path) -> str:
    """What the files say, as Markdown."""
    pieces = []
    for name in ("kills", "inputs"):
        if (path := results / f"{name}.json").exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            rows = [[_shown(value) for value in row.values()] for row in record["rows"]]
            titles = [name.replace("_", " ") for name in record["rows"][0]]
            pieces.append(markdown(titles, rows) + f"\n\n{record['date'][:10]}, dkp {record['versions']['dkp']}.")
    return "\n\n".join(pieces)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(value) or "nothing"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
