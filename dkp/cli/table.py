"""A user's CSV or Parquet file as named columns of numbers and text.

What cannot be read is an error that names the file, the line and the column.
"""

import csv
import dataclasses
import difflib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Columns", "is_missing", "read_columns"]

_DELIMITERS = (",", ";", "\t")
_MISSING = ("", "?", "-", "na", "n/a", "nan", "null", "none")

Row = tuple[int, list[str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns of equal length by name.

    Attributes:
        source: the file.
        columns: float64 with NaN where a cell is missing, or text with "" where it is.
        places: what the rows are called in messages.
    """

    source: str
    columns: dict[str, np.ndarray]
    places: Sequence[str]

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.places)

    def column(self, name: str, what: str = "target") -> np.ndarray:
        """A column.

        Raises:
            ValueError: when there is none of that name.
        """
        if name not in self.columns:
            close = difflib.get_close_matches(name, self.columns, n=1)
            hint = f": did you mean {close[0]!r}?" if close else ""
            shown = ", ".join(list(self.columns)[:20]) + (", …" if len(self.columns) > 20 else "")
            raise ValueError(
                f"Expected {what} to be a column of {self.source}: {shown}. Got {name!r}{hint}"
            )
        return self.columns[name]

    def rows(self, index: np.ndarray) -> "Columns":
        """Some of the rows."""
        columns = {name: column[index] for name, column in self.columns.items()}
        return dataclasses.replace(self, columns=columns, places=[self.places[i] for i in index])

    def without(self, names: Sequence[str]) -> "Columns":
        """The other columns."""
        kept = {name: column for name, column in self.columns.items() if name not in names}
        return dataclasses.replace(self, columns=kept)


def is_missing(column: np.ndarray) -> np.ndarray:
    """Which cells of a column are missing."""
    return np.isnan(column) if column.dtype.kind == "f" else column == ""


def read_columns(path: Path) -> Columns:
    """Read a file: Parquet where its name ends in ``.parquet`` or ``.pq``, else CSV with a header.

    A column is one of numbers when all cells that are not missing are numbers. Missing are empty
    cells, ``?``, ``-``, and ``NA``, ``n/a``, ``NaN``, ``null`` and ``none`` in any case.

    Args:
        path: text in UTF-8; cells are separated by commas, semicolons or tabs, whichever the header
            has most of. Blank lines are skipped.

    Raises:
        ValueError: for an empty file, a header that is missing or has a name twice or an empty one,
            rows of another length, infinite numbers, columns that hold neither numbers nor text;
            and when the file cannot be read, or pyarrow, which reads Parquet, is not installed.
    """
    return _read_parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _read_csv(path)


def _read_csv(path: Path) -> Columns:
    (_, header), rows = _rows(path)
    _check_header(path, header)
    lines, cells = [], []
    for line, row in rows:
        if len(row) != len(header):
            raise ValueError(
                f"Expected {len(header)} cells in line {line} of {path}, as in its header. Got "
                f"{len(row)}: correct it."
            )
        lines.append(f"line {line}")
        cells.append(row)
    if not cells:
        raise ValueError(f"Expected {path} to have rows below its header. Got none.")
    columns = {
        name: _numbers_or_text(column, f"column {name!r} of {path}", lines)
        for name, column in zip(header, zip(*cells, strict=True), strict=True)
    }
    return Columns(source=str(path), columns=columns, places=lines)


def _rows(path: Path) -> tuple[Row, Iterator[Row]]:
    """The header and the rows, stripped, each with the number of its line in the file."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"Expected {path} to be text in UTF-8. Got other bytes: save it as CSV in UTF-8."
        ) from error
    except OSError as error:
        raise ValueError(
            f"Expected data to name a CSV file. Got {path}: {error.strerror}."
        ) from error
    first = next((line for line in lines if line.strip()), "")
    reader = csv.reader(lines, delimiter=max(_DELIMITERS, key=first.count), skipinitialspace=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise ValueError(
            f"Expected {path} to be CSV. Got {error} in line {reader.line_num}."
        ) from error
    filled = (row for row in rows if any(row[1]))
    header = next(filled, None)
    if header is None:
        raise ValueError(
            f"Expected {path} to have a header and rows of numbers. Got an empty file."
        )
    return header, filled


def _check_header(path: Path, header: list[str]) -> None:
    if all(_parsed(cell) is not None for cell in header):
        raise ValueError(
            f"Expected the first line of {path} to name the columns. Got numbers: add a header "
            "line."
        )
    for position, name in enumerate(header, start=1):
        if not name:
            raise ValueError(
                f"Expected every column of {path} to have a name. Got none for column {position}: "
                "name it."
            )
        if header.count(name) > 1:
            raise ValueError(
                f"Expected different column names in {path}. Got {name!r} {header.count(name)} "
                "times: rename one."
            )


def _numbers_or_text(cells: Sequence[str], place: str, rows: Sequence[str]) -> np.ndarray:
    present = ["" if cell.lower() in _MISSING else cell for cell in cells]
    numbers = [math.nan if cell == "" else _parsed(cell) for cell in present]
    if any(number is None for number in numbers):
        return np.asarray(present, dtype=object)
    return _finite(np.asarray(numbers, float), place, rows)


def _finite(values: np.ndarray, place: str, rows: Sequence[str]) -> np.ndarray:
    if np.isinf(values).any():
        first = int(np.flatnonzero(np.isinf(values))[0])
        raise ValueError(
            f"Expected finite numbers in {place}. Got {values[first]} in {rows[first]}: leave it "
            "out."
        )
    return values


def _parsed(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _read_parquet(path: Path) -> Columns:
    try:
        import pyarrow  # type: ignore[import-not-found]
        from pyarrow import parquet  # type: ignore[import-not-found]
    except ImportError as error:
        raise ValueError(
            f"Expected pyarrow, which reads Parquet, to be installed for {path}. Got none: pip "
            "install pyarrow."
        ) from error
    try:
        table = parquet.read_table(path)
    except OSError as error:
        reason = error.strerror or "another file, or a damaged one"
        raise ValueError(f"Expected data to name a Parquet file. Got {path}: {reason}.") from error
    except pyarrow.ArrowException as error:
        raise ValueError(
            f"Expected {path} to be a Parquet file. Got another, or a damaged one."
        ) from error
    if table.num_rows == 0 or table.num_columns == 0:
        raise ValueError(f"Expected {path} to have rows and columns. Got shape {table.shape}.")
    rows = [f"row {i}" for i in range(table.num_rows)]
    names = [str(name) for name in table.column_names]
    if len(set(names)) != len(names) or "" in names:
        raise ValueError(f"Expected different column names in {path}. Got {names}: rename some.")
    columns = {
        name: _from_arrow(column.to_pylist(), f"column {name!r} of {path}", rows)
        for name, column in zip(names, table.columns, strict=True)
    }
    return Columns(source=str(path), columns=columns, places=rows)


def _from_arrow(values: list[Any], place: str, rows: Sequence[str]) -> np.ndarray:
    present = [value for value in values if value is not None]
    if all(isinstance(value, (bool, int, float)) for value in present):
        numbers = np.asarray([math.nan if value is None else float(value) for value in values])
        return _finite(numbers, place, rows)
    if all(isinstance(value, str) for value in present):
        return _numbers_or_text(
            ["" if value is None else value.strip() for value in values], place, rows
        )
    kinds = sorted({type(value).__name__ for value in present})
    raise ValueError(
        f"Expected numbers or text in {place}. Got {', '.join(kinds)}: leave the column out, or "
        "encode it."
    )
