"""Fuzzing of the reader of files by atheris, which follows coverage."""

import io
import sys
import tempfile
from pathlib import Path

__all__ = ["run_fuzz"]


def run_fuzz(seconds: int) -> None:
    """Fuzz :func:`dkp.archive.read` for so long; anything but ValueError and OSError ends it with a report.

    Raises:
        SystemExit: with status 2 where atheris is not installed, and as atheris does at its end.
    """
    try:
        import atheris  # type: ignore[import-not-found]
    except ImportError:
        print("Expected atheris to be installed. Got none: pip install atheris.", file=sys.stderr)
        raise SystemExit(2) from None
    with atheris.instrument_imports():  # type: ignore[attr-defined]
        from dkp import archive
    import numpy as np

    with tempfile.TemporaryDirectory() as directory:
        path, corpus = Path(directory) / "input.dkp", Path(directory) / "corpus"
        corpus.mkdir()
        archive.write(
            corpus / "good", "posterior", {"a": [1, {"b": "c"}]}, {"x": np.arange(3.0), "y": np.zeros((2, 2))}
        )

        def read(data: bytes) -> None:
            path.write_bytes(data)
            try:
                archive.read(path, "posterior")
            except (ValueError, OSError):
                return

        sys.stdout = io.TextIOWrapper(sys.stdout.buffer, line_buffering=True)
        atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-max_len=4096", str(corpus)], read)
        atheris.Fuzz()
