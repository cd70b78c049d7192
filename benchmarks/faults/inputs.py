"""Malformed input: arrays, tables, model files and checkpoints.

Each must be refused with one of the errors that the functions name, or be taken for what it is,
quickly, and leave nothing behind.

Each kind runs in a process of its own, so that a crash of the interpreter would be seen.
"""

import dataclasses
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.store import ROOT

__all__ = ["KINDS", "Verdict", "run_inputs"]

LIMIT = 30  # seconds for one input
ABSOLUTE = Path(tempfile.gettempdir()) / "escaped-absolute.npy"
EXPECTED = (ValueError, OSError)
"""What functions that read input may raise. ``FileNotFoundError`` and the like are OSErrors."""

Case = tuple[str, Callable[[], Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """Of one kind of input: how many were refused, taken, and what went wrong."""

    kind: str
    inputs: int
    refused: int
    accepted: int
    wrong: list[str]


def run_inputs(per_kind: int, seed: int) -> list[Verdict]:
    """All kinds, each in its process."""
    found = []
    for kind in KINDS:
        command = [sys.executable, "-m", "benchmarks.faults.inputs", kind, str(per_kind), str(seed)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"JAX_ENABLE_X64": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
        if done.returncode:
            wrong = [f"the process ended with status {done.returncode}: {done.stderr[-500:]}"]
            found.append(Verdict(kind=kind, inputs=per_kind, refused=0, accepted=0, wrong=wrong))
        else:
            found.append(Verdict(**json.loads(last)))
        print(found[-1], flush=True)
    return found


def judge(kind: str, n: int, seed: int) -> Verdict:
    """Try n inputs of a kind, in a directory whose neighbourhood is watched."""
    counts, wrong = Counter(), []
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "inside" / "target"
        place.mkdir(parents=True)
        os.chdir(place)
        signal.signal(signal.SIGALRM, _late)
        cases = KINDS[kind](np.random.default_rng(seed), place)
        for name, attempt in (next(cases) for _ in range(n)):
            before = _listing(Path(directory))
            signal.alarm(LIMIT)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    attempt()
                counts["accepted"] += 1
            except EXPECTED as error:
                counts["refused"] += 1
                if not str(error):
                    wrong.append(f"{name}: an error without a message")
            except BaseException as error:
                wrong.append(f"{name}: {error!r}")
            finally:
                signal.alarm(0)
            if _listing(Path(directory)) - before:
                wrong.append(f"{name}: left {sorted(_listing(Path(directory)) - before)}")
        os.chdir(ROOT)
    return Verdict(
        kind=kind, inputs=n, refused=counts["refused"], accepted=counts["accepted"], wrong=wrong
    )


def _late(*_: Any) -> None:
    raise TimeoutError("took too long")


class TimeoutError(BaseException):
    """Not an OSError, unlike the built-in one, which is an answer that input may get."""


def _listing(directory: Path) -> set[str]:
    """Files, but for the input itself, and what an absolute path would have made."""
    found = [path for path in directory.rglob("*") if not path.name.startswith("input")]
    return {str(path) for path in [*found, *filter(Path.exists, [ABSOLUTE])]}


# --- arrays ---------------------------------------------------------------------------------------


def arrays(rng: np.random.Generator, place: Path) -> Iterator[Case]:
    """Features, targets, weights and exposures that are wrong in shape, kind or value."""
    import dkp

    good: dict[str, Any] = {"x": rng.normal(size=(6, 2)), "y": rng.normal(size=6)}
    bad: list[Any] = [
        None, "text", b"bytes", 3, 3.5, True, [], [[]], [[], []], {}, {"a": 1}, object(),
        [1, "a"], [[1, 2], [3]],
        np.zeros((0, 2)), np.zeros((6, 0)), np.zeros((2, 2, 2, 2, 2)),
        np.full(6, np.nan), np.full((6, 2), np.inf),
        np.array(["a"] * 6), np.array([None] * 6), np.zeros(6, complex),
        np.zeros(6, "datetime64[s]"), range(5), np.zeros((6, 2), dtype=[("a", "f8")]),
        1e400, [[1e308] * 2] * 6, [[-1e308, 1e308]] * 6, np.float16(2),
        memoryview(b"abc"), iter([1, 2]), {1, 2}, np.zeros((7, 2)), [float("nan")] * 6, -np.ones(6),
    ]  # fmt: skip
    while True:
        for i, value in enumerate(bad):
            for name in ("x", "y", "weights", "exposure"):
                yield (
                    f"{name} = bad[{i}]",
                    lambda n=name, v=value: dkp.Dataset.from_arrays(**(good | {n: v})),
                )


# --- tables ---------------------------------------------------------------------------------------


def tables(rng: np.random.Generator, place: Path) -> Iterator[Case]:
    """CSV files with bytes changed, lines cut, cells swapped for others, and files that are no
    tables.
    """
    from dkp.cli.encoding import Encoding
    from dkp.cli.experiment import _targets
    from dkp.cli.table import read_columns

    header, names = b"size,colour,price\n", ["red", "blue", "", "?", "green"]
    rows = [
        f"{rng.normal():.3f},{rng.choice(names)},{rng.normal():.3f}\n".encode() for _ in range(30)
    ]
    good = header + b"".join(rows)
    cells = [
        b"", b"inf", b"-inf", b"nan", b'"', b'""', b"1e999", b"\x00", b"\xff",
        "ä".encode("latin-1"), b"=cmd|'/c'!A1", b"../../escaped", b"1,2", b"1;2", b"\t",
        b"9" * 400, b"a" * 200_000, b"\r", b"\n\n", b"0x10", b"1_0",
    ]  # fmt: skip

    def read(content: bytes, name: str = "input.csv") -> None:
        path = place / name
        path.write_bytes(content)
        table = read_columns(path)
        encoding = Encoding.fit(table.without(["price"]))
        encoding.transform(table.without(["price"]))
        _quietly(lambda: _targets(table, "price", "auto"))

    yield "a directory", lambda: read_columns(place)
    yield "no file", lambda: read_columns(place / "nowhere.csv")
    yield "a Parquet name", lambda: read(good, "input.parquet")
    yield "empty", lambda: read(b"")
    while True:
        content, kind = bytearray(good), rng.integers(5)
        if kind == 0:
            for place_of in rng.integers(0, len(good), 3):
                content[place_of] = rng.integers(256)
        elif kind == 1:
            content = content[: rng.integers(len(good))]
        elif kind == 2:
            line = rng.integers(len(rows))
            cell = cells[rng.integers(len(cells))]
            content = bytearray(header + b"".join([*rows[:line], cell + b",red,1\n", *rows[line:]]))
        elif kind == 3:
            content = bytearray(
                good.replace(b",", cells[rng.integers(len(cells))], rng.integers(1, 20))
            )
        else:
            content = bytearray(
                rng.integers(0, 256, rng.integers(1, 2000), dtype=np.uint8).tobytes()
            )
        yield f"kind {kind}", lambda c=bytes(content): read(c)


def _quietly(function: Callable[[], Any]) -> None:
    import contextlib

    with contextlib.redirect_stdout(io.StringIO()):
        function()


# --- files ----------------------------------------------------------------------------------------


class Payload:
    """What runs when somebody unpickles it."""

    def __reduce__(self) -> Any:
        return os.system, ("touch escaped",)


def models(rng: np.random.Generator, place: Path) -> Iterator[Case]:
    """Model files: flipped bits, truncations, members that somebody made up."""
    import jax

    import dkp
    from dkp import kernels, likelihoods

    data = dkp.Dataset.from_arrays(rng.normal(size=(12, 2)), rng.normal(size=12))
    layers = [kernels.SquaredExponential(), dkp.InverseWishart(), kernels.SquaredExponential()]
    model = dkp.DeepKernelProcess(layers=layers, likelihood=likelihoods.Gaussian())
    posterior = dkp.fit_vi(
        model, data, key=jax.random.key(0), n_inducing=5, steps=5, start_steps=5, progress=False
    )
    dkp.save(posterior, place / "input.dkp")
    good = (place / "input.dkp").read_bytes()

    def load(content: bytes) -> None:
        (place / "input.dkp").write_bytes(content)
        dkp.load(place / "input.dkp")

    yield from _damaged(rng, good, load)


def checkpoints(rng: np.random.Generator, place: Path) -> Iterator[Case]:
    """Checkpoint files, damaged in the same ways: the call warns, starts anew or from the file
    before, and goes on.
    """
    from dkp.inference.checkpoint import Checkpoint

    first = Checkpoint(place / "input.checkpoint", 1.0, "call")
    content = {"done": 3, "seconds": 1.0, "a": np.arange(5.0), "losses": np.zeros(3)}
    first.save("fit", content)
    good = (place / "input.checkpoint").read_bytes()

    def open_again(content: bytes) -> None:
        (place / "input.checkpoint").write_bytes(content)
        found = Checkpoint(place / "input.checkpoint", 1.0, "call").found("fit")
        if found is not None and (found["done"], found["seconds"]) != (3, 1.0):
            raise AssertionError(f"a damaged header was taken: {found}")

    yield from _damaged(rng, good, open_again)


def _damaged(
    rng: np.random.Generator, good: bytes, attempt: Callable[[bytes], None]
) -> Iterator[Case]:
    made_up = _made_up(good)
    for name, content in made_up:
        yield name, lambda c=content: attempt(c)
    while True:
        content, kind = bytearray(good), rng.integers(4)
        if kind == 0:
            position = rng.integers(8 * len(good))
            content[position // 8] ^= 1 << (position % 8)
        elif kind == 1:
            content = content[: rng.integers(len(good))]
        elif kind == 2:
            start = rng.integers(len(good))
            content[start : start + 50] = rng.integers(0, 256, 50, dtype=np.uint8).tobytes()
        else:
            start = rng.integers(len(good))
            del content[start : start + rng.integers(1, 100)]
        yield f"kind {kind}", lambda c=bytes(content): attempt(c)


def _made_up(good: bytes) -> list[tuple[str, bytes]]:
    """Files that nobody's disk made."""

    def rewritten(**members: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(buffer, "w") as new:
            for name in old.namelist():
                new.writestr(name, members.pop(name, old.read(name)))
            for name, content in members.items():
                new.writestr(name, content)
        return buffer.getvalue()

    def array(header: str, body: bytes = b"") -> bytes:
        text = header.encode().ljust(117) + b"\n"
        return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body

    def bomb() -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("header.json", b"0" * 50_000_000)
        return buffer.getvalue()

    with zipfile.ZipFile(io.BytesIO(good)) as file:
        first = next(name for name in file.namelist() if name.endswith(".npy"))
    objects = array(
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", pickle.dumps([Payload()])
    )
    huge = array("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }")
    deep = (
        b'{"format": 1, "kind": "posterior", "content": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    )
    return [
        ("a pickle", pickle.dumps(Payload())),
        ("a pickle in disguise", rewritten(**{first: pickle.dumps(Payload())})),
        ("an array of objects", rewritten(**{first: objects})),
        ("a shape beyond memory", rewritten(**{first: huge})),
        (
            "a negative shape",
            rewritten(
                **{first: array("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }")}
            ),
        ),
        (
            "code in an array's header",
            rewritten(**{first: array("__import__('os').system('touch escaped')")}),
        ),
        ("a zip bomb", bomb()),
        ("a path outside", rewritten(**{"../../escaped": b"here", str(ABSOLUTE): b"here"})),
        ("a header of many levels", rewritten(**{"header.json": deep})),
        ("another header", rewritten(**{"header.json": b'{"format": 1}'})),
        (
            "a newer format",
            rewritten(**{"header.json": b'{"format": 99, "kind": "posterior", "content": {}}'}),
        ),
        ("no archive", b"PK" + bytes(1000)),
        ("nothing", b""),
    ]


KINDS: dict[str, Callable[[np.random.Generator, Path], Iterator[Case]]] = {
    "arrays": arrays,
    "tables": tables,
    "model files": models,
    "checkpoints": checkpoints,
}

if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(judge(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
