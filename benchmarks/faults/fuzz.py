"""Fuzzing of the reader of files by atheris, which follows coverage.

The first byte says what the others are: a whole file, the header of a file that is in order
otherwise, or the first of its arrays. Checksums would hide headers and arrays from random changes
of a whole file.
"""

import io
import sys
import tempfile
import zipfile
from pathlib import Path

__all__ = ["run_fuzz"]

PARTS = ("", "header.json", "x.npy")


def run_fuzz(seconds: int) -> None:
    """Fuzz :func:`dkp.archive.read` for so long; anything but ValueError and OSError ends it with a
    report.

    Raises:
        SystemExit: with status 2 where atheris is not installed, and as atheris does at its end.
    """
    try:
        import atheris  # type: ignore[import-not-found]
    except ImportError:
        print("Expected atheris to be installed. Got none: pip install atheris.", file=sys.stderr)
        raise SystemExit(2) from None
    with atheris.instrument_imports(include=["dkp._core.archive", "json", "zipfile", "numpy.lib"]):  # type: ignore[attr-defined]
        from dkp._core import archive
    import numpy as np

    with tempfile.TemporaryDirectory() as directory:
        path, corpus = Path(directory) / "input.dkp", Path(directory) / "corpus"
        corpus.mkdir()
        archive.write(
            path, "posterior", {"a": [1, {"b": "c"}]}, {"x": np.arange(3.0), "y": np.zeros((2, 2))}
        )
        good = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(good)) as file:
            members = {name: file.read(name) for name in file.namelist()}
        for kind, name in enumerate(PARTS):
            (corpus / str(kind)).write_bytes(bytes([kind]) + members.get(name, good))

        def read(data: bytes) -> None:
            path.write_bytes(_file(data, good, members))
            try:
                archive.read(path, "posterior")
            except (ValueError, OSError):
                return

        options = [f"-max_total_time={seconds}", "-max_len=2048", "-len_control=0", str(corpus)]
        atheris.Setup([sys.argv[0], *options], read)
        atheris.Fuzz()


def _file(data: bytes, good: bytes, members: dict[str, bytes]) -> bytes:
    if not data:
        return good
    name = PARTS[data[0] % len(PARTS)]
    if not name:
        return data[1:]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for member, content in members.items():
            file.writestr(member, data[1:] if member == name else content)
    return buffer.getvalue()
