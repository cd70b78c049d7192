"""One JSON file a run, written whole or not at all.

A run that was killed leaves no file and is started again; a finished one is found and not repeated;
a failed one leaves its traceback and is tried again.
"""

import datetime
import functools
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.config import Run

__all__ = [
    "ROOT",
    "failure",
    "is_finished",
    "listed_versions",
    "now",
    "path_of",
    "read",
    "records",
    "versions",
    "write",
]

ROOT = Path(__file__).resolve().parent.parent


def path_of(out: Path, run: Run) -> Path:
    """``<out>/<suite>/<dataset>/split<k>/<method>-<fingerprint of the configuration>.json``."""
    return (
        out / run.suite / run.dataset / f"split{run.split}" / f"{run.method}-{run.fingerprint}.json"
    )


def write(path: Path, record: dict[str, Any]) -> None:
    """Write `record` to a temporary name beside `path`, then rename it.

    Raises:
        ValueError: when a number is not finite, which JSON cannot hold.
    """
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read(path: Path) -> dict[str, Any]:
    """The record in a file.

    Raises:
        ValueError: when the file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"Expected {path} to be a benchmark record; delete it to run it again. Got {error}."
        ) from None


def is_finished(path: Path) -> bool:
    return path.exists() and read(path)["status"] == "finished"


def records(out: Path) -> Iterator[dict[str, Any]]:
    """All records of runs under a directory, in the order of their paths."""
    for path in sorted(out.rglob("split*/*.json")):
        yield read(path)


def failure(run: Run, error: str, seconds: float) -> dict[str, Any]:
    """The record of a run that gave no result."""
    return {
        **json.loads(run.to_json()),
        "status": "failed",
        "error": error,
        "times": {"total": seconds},
        "date": now(),
        "versions": versions(),
    }


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def listed_versions(records: Sequence[Mapping[str, Any]]) -> str:
    """On what versions records depend, in one line: every one that some record has."""
    names = dict.fromkeys(name for r in records for name in r["versions"])
    found = {name: sorted({str(r["versions"].get(name)) for r in records}) for name in names}
    return "; ".join(f"{name} {', '.join(values)}" for name, values in found.items())


@functools.cache
def versions() -> dict[str, str]:
    """What the numbers depend on: interpreter, libraries, machine and, in a checkout, commit."""
    from dkp import __version__

    libraries = {name: importlib.metadata.version(name) for name in ("jax", "numpyro", "numpy")}
    return {
        "python": platform.python_version(),
        **libraries,
        "dkp": __version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "commit": _commit(),
    }


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
