"""Arrays and a header in one file: a zip of ``.npy`` members and of ``header.json``.

Nothing is compressed, and there is no pickle.

Nothing is compressed, and there is no pickle.

What is read is checked before it is used, so that a damaged file, or one that somebody made up,
raises ValueError and does nothing else: members are never written anywhere, they take no more
memory than the file is long, every member has its checksum, and arrays hold numbers only.
"""

import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["FORMAT_VERSION", "read", "write"]

FORMAT_VERSION = 1
_HEADER = "header.json"
_KINDS = "biuf"  # of NumPy's dtypes: truth values and real numbers
_DATE = (1980, 1, 1, 0, 0, 0)  # the same contents are the same bytes


def write(
    path: str | os.PathLike[str],
    kind: str,
    header: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Write a file whole or not at all.

    It is written under a temporary name beside `path`, and then renamed.

    It is written under a temporary name beside `path`, and then renamed.

    Args:
        kind: what the file is, which :func:`read` asks for.
        header: for JSON.
        arrays: by name, of numbers.

    Raises:
        OSError: when it cannot be written; what stood under `path` is then still there.
        ValueError: for arrays that do not hold numbers.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                about = {
                    "kind": kind,
                    "format": FORMAT_VERSION,
                    "arrays": sorted(arrays),
                    "content": header,
                }
                text = json.dumps(about, allow_nan=False)
                archive.writestr(zipfile.ZipInfo(_HEADER, _DATE), text)
                for name, array in arrays.items():
                    archive.writestr(zipfile.ZipInfo(f"{name}.npy", _DATE), _to_bytes(name, array))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the arrays of a file that :func:`write` made.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is none of ours, of another kind, made by a newer version, or
            damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(members, os.path.getsize(path))
            contents = {member.filename: archive.read(member) for member in members}
        header = json.loads(contents.pop(_HEADER).decode("utf-8"), parse_constant=_no_constant)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:  # zipfile and json raise many kinds for bytes that are not theirs
        raise ValueError(
            f"Expected {path} to be a file of dkp, whole and unchanged. Got {error!r}."
        ) from error
    if (
        not isinstance(header, dict)
        or not isinstance(header.get("format"), int)
        or "content" not in header
    ):
        raise ValueError(f"Expected {path} to be a file of dkp. Got another header.")
    if header["format"] > FORMAT_VERSION:
        raise ValueError(
            f"Expected {path} in format {FORMAT_VERSION} or older. Got format {header['format']}: "
            "install a newer dkp."
        )
    if header.get("kind") != kind:
        raise ValueError(f"Expected {path} to be a {kind}. Got a {header.get('kind')!r}.")
    arrays = {member.removesuffix(".npy"): data for member, data in contents.items()}
    # a damaged directory can hide members, with their checksums
    if header.get("arrays") != sorted(arrays):
        raise ValueError(
            f"Expected {path} to hold arrays as its header says. Got {', '.join(arrays) or 'none'}."
        )
    return header["content"], {name: _from_bytes(name, data) for name, data in arrays.items()}


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    names = [member.filename for member in members]
    if len(set(names)) != len(names) or _HEADER not in names:
        raise ValueError("its members are not those of a file of dkp")
    # Nothing is compressed, so all members together are no longer than the file: no small file
    # becomes a large one.
    if any(
        member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size
        for member in members
    ):
        raise ValueError("a member is compressed")
    if sum(member.file_size for member in members) > size:
        raise ValueError("members overlap")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} in the header")


def _to_bytes(name: str, array: np.ndarray) -> bytes:
    if array.dtype.kind not in _KINDS:
        raise ValueError(f"Expected {name} to hold numbers. Got dtype {array.dtype}.")
    buffer = io.BytesIO()
    np.lib.format.write_array(
        buffer, np.ascontiguousarray(array).reshape(array.shape), version=(1, 0), allow_pickle=False
    )
    return buffer.getvalue()


def _from_bytes(name: str, data: bytes) -> np.ndarray:
    buffer = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(buffer)
        if version != (1, 0):
            raise ValueError(f"version {version} of the array format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(buffer)
    except Exception as error:
        raise ValueError(f"Expected {name} to be an array. Got {error!r}.") from error
    # Checked before anything is allocated: a header can claim any shape.
    size = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
    rest = len(data) - buffer.tell()
    if dtype.kind not in _KINDS or fortran or min(shape, default=0) < 0 or size != rest:
        raise ValueError(
            f"Expected {name} to be {rest} bytes of numbers. Got a header of {dtype} {shape}."
        )
    return np.frombuffer(data, dtype, offset=buffer.tell()).reshape(shape).copy()
