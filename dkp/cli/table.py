"""A user's CSV file as a table of numbers; what cannot be read is an error that names the file, the line and the
column."""

import csv
import difflib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from dkp.datasets import Table

__all__ = ["read_csv"]

_DELIMITERS = (",", ";", "\t")
_MISSING = ("", "?", "-", "na", "n/a", "nan", "null", "none")

Row = tuple[int, list[str]]


def read_csv(path: Path, target: str) -> Table:
    """Read a CSV file with a header: the column `target` and, as features, all the others.

    Args:
        path: text in UTF-8; cells are separated by commas, semicolons or tabs, whichever the header has most of.
            Blank lines are skipped.
        target: name of a column.

    Raises:
        ValueError: for an empty file, a header that is missing or has a name twice or an empty one, an unknown
            target, no other columns, rows of another length, and cells that are missing, text, or infinite; and when
            the file cannot be read.
    """
    (_, header), rows = _rows(path)
    _check_header(path, header, target)
    values = np.array([_numbers(path, header, row) for row in rows], dtype=np.float64)
    if len(values) == 0:
        raise ValueError(f"Expected {path} to have rows of numbers below its header. Got none.")
    column = header.index(target)
    features = [j for j in range(len(header)) if j != column]
    return Table(
        x=values[:, features],
        y=values[:, column],
        feature_names=tuple(header[j] for j in features),
        target_name=target,
        source=str(path),
    )


def _rows(path: Path) -> tuple[Row, Iterator[Row]]:
    """The header and the rows, stripped, each with the number of its line in the file."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected {path} to be text in UTF-8. Got other bytes: save it as CSV in UTF-8.") from error
    except OSError as error:
        raise ValueError(f"Expected data to name a CSV file. Got {path}: {error.strerror}.") from error
    first = next((line for line in lines if line.strip()), "")
    reader = csv.reader(lines, delimiter=max(_DELIMITERS, key=first.count), skipinitialspace=True)
    rows = ((reader.line_num, [cell.strip() for cell in row]) for row in reader if any(cell.strip() for cell in row))
    header = next(rows, None)
    if header is None:
        raise ValueError(f"Expected {path} to have a header and rows of numbers. Got an empty file.")
    return header, rows


def _check_header(path: Path, header: list[str], target: str) -> None:
    if all(_parsed(cell) is not None for cell in header):
        raise ValueError(f"Expected the first line of {path} to name the columns. Got numbers: add a header line.")
    for position, name in enumerate(header, start=1):
        if not name:
            raise ValueError(
                f"Expected every column of {path} to have a name. Got none for column {position}: name it."
            )
        if header.count(name) > 1:
            raise ValueError(
                f"Expected different column names in {path}. Got {name!r} {header.count(name)} times: rename one."
            )
    if target not in header:
        close = difflib.get_close_matches(target, header, n=1)
        hint = f": did you mean {close[0]!r}?" if close else ""
        shown = ", ".join(header[:20]) + (", …" if len(header) > 20 else "")
        raise ValueError(f"Expected target to be a column of {path}: {shown}. Got {target!r}{hint}")
    if len(header) == 1:
        raise ValueError(f"Expected {path} to have feature columns beside the target. Got only {target!r}.")


def _numbers(path: Path, header: list[str], row: Row) -> list[float]:
    line, cells = row
    if len(cells) != len(header):
        raise ValueError(
            f"Expected {len(header)} cells in line {line} of {path}, as in its header. Got {len(cells)}: correct it."
        )
    values = [_parsed(cell) for cell in cells]
    for name, cell, value in zip(header, cells, values, strict=True):
        if value is None or not math.isfinite(value):
            _refuse(f"line {line} of {path}, column {name!r}", cell)
    return [value for value in values if value is not None]


def _refuse(place: str, cell: str) -> NoReturn:
    if cell.lower() in _MISSING:
        raise ValueError(
            f"Expected a number in {place}. Got a missing cell ({cell!r}): fill it in, or leave out the row."
        )
    if _parsed(cell) is not None:
        raise ValueError(f"Expected a finite number in {place}. Got {cell}: leave out the row.")
    raise ValueError(
        f"Expected a number in {place}. Got text ({cell[:40]!r}): leave the column out, or encode it as 0 and 1."
    )


def _parsed(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
