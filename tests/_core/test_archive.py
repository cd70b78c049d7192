"""The reader of files, for any bytes: it returns what was written, or refuses with ValueError."""

import json
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dkp import io
from dkp._core import archive

SETTINGS = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
NAMES = st.text("abcdefgh_0123456789", min_size=1, max_size=8)
NUMBERS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False), st.text()
)
TREES = st.recursive(
    NUMBERS.filter(lambda v: not (isinstance(v, float) and not np.isfinite(v))),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4)
    ),
    max_leaves=12,
)
DTYPES = st.sampled_from([np.dtype(t) for t in ("<f8", "<f4", "<i4", "<i8", "?", "<u1")])
ARRAYS = st.dictionaries(
    NAMES, DTYPES.flatmap(lambda t: hnp.arrays(t, hnp.array_shapes(min_dims=0, min_side=0)))
)

# Words that a header means something by, so that trees come near to real ones.
WORDS = (
    "array",
    "device",
    "record",
    "fields",
    "float",
    "tuple",
    "list",
    "dict",
    "learn",
    "distribution",
    "arguments",
)
NEARLY = st.recursive(
    NUMBERS
    | st.sampled_from(["array0", "inference.exact.ExactPosterior", "0x1.8p+1", "Normal", "nan"]),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS), children, min_size=1, max_size=3)
    ),
    max_leaves=10,
)


@SETTINGS
@given(header=st.dictionaries(st.text(max_size=8), TREES, max_size=4), arrays=ARRAYS)
def test_what_was_written_is_read(tmp_path, header, arrays):
    archive.write(tmp_path / "x", "test", header, arrays)
    found, values = archive.read(tmp_path / "x", "test")
    assert found == header and values.keys() == arrays.keys()
    for name, array in arrays.items():
        assert values[name].dtype == array.dtype and values[name].shape == array.shape
        assert values[name].tobytes() == np.ascontiguousarray(array).tobytes()


@SETTINGS
@given(data=st.binary(max_size=400))
def test_other_bytes_are_refused(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ValueError, match="Expected"):
        archive.read(tmp_path / "x", "test")


@SETTINGS
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 10**6) | st.none(),
)
# a long comment in the directory, which hides the array behind it
@example(changes=[(16887, 1)], cut=None)
def test_damaged_files_are_refused_or_unchanged(tmp_path, changes, cut):
    """Bytes that carry no content (dates, attributes) may be others."""
    header, arrays = (
        {"n": [1, "a"]},
        {"a": np.arange(6.0).reshape(2, 3), "b": np.zeros(0, np.int32)},
    )
    archive.write(tmp_path / "x", "test", header, arrays)
    data = bytearray((tmp_path / "x").read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    (tmp_path / "x").write_bytes(data if cut is None else data[: cut % len(data)])
    try:
        found, values = archive.read(tmp_path / "x", "test")
    except ValueError:
        return
    assert found == header and values.keys() == arrays.keys()
    assert all(np.array_equal(values[name], array) for name, array in arrays.items())


@SETTINGS
@given(header=st.binary(max_size=200), array=st.binary(max_size=200))
def test_members_that_somebody_made_up(tmp_path, header, array):
    """Checksums are in order, contents are not."""
    for name, data in (("header.json", header), ("a.npy", array)):
        with zipfile.ZipFile(tmp_path / "x", "w") as file:
            good = {
                "header.json": b'{"kind": "test", "format": 1, "arrays": ["a"], "content": {}}',
                "a.npy": b"",
            }
            for member, content in (good | {name: data}).items():
                file.writestr(member, content)
        with pytest.raises(ValueError, match="Expected"):
            archive.read(tmp_path / "x", "test")


@SETTINGS
@given(tree=NEARLY)
def test_posteriors_that_somebody_made_up(tmp_path, tree):
    content = {"kind": "posterior", "format": 1, "arrays": [], "content": {"posterior": tree}}
    with zipfile.ZipFile(tmp_path / "x", "w") as file:
        file.writestr("header.json", json.dumps(content))
    with pytest.raises(ValueError, match="Expected"):
        io.load(tmp_path / "x")
