"""Real data sets by name, and where they come from.

Four small sets are embedded in scikit-learn. The UCI regression sets and the image sets are files:
they are taken from the directory that the environment variable DKP_DATA_DIR names, else from a
cache of this user, else they are downloaded from OpenML into that cache. ``Table.source`` says
which, and so does the log of ``dkp.datasets``.

Files: ``uci/<name>.npz`` (arrays X, y and, for published splits, test_index_<k>), ``mnist.npz``
(x_train, y_train, x_test, y_test) and ``cifar10_jpeg.npz`` (jpeg bytes, offsets, labels, is_train).
"""

import contextlib
import dataclasses
import io
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from dkp._core import checks
from dkp._core.types import Float, Int

__all__ = ["Table", "cubic", "load", "names"]

_logger = logging.getLogger("dkp.datasets")

_EMBEDDED = {
    "diabetes": "disease_progression",
    "digits": "digit",
    "breast_cancer": "benign",
    "wine": "cultivar",
}
_UCI = ("boston", "concrete", "energy", "kin8nm", "naval", "power", "protein", "wine", "yacht")
_FILES = {
    **{f"uci/{name}": f"uci/{name}.npz" for name in _UCI},
    "mnist": "mnist.npz",
    "cifar10": "cifar10_jpeg.npz",
}
# OpenML data_id, rows and features that must arrive. Its naval leaves out the two features that are
# constant.
_OPENML = {
    "uci/boston": (531, 506, 13),
    "uci/concrete": (44959, 1030, 8),
    "uci/energy": (44960, 768, 8),
    "uci/kin8nm": (44980, 8192, 8),
    "uci/naval": (44969, 11934, 14),
    "uci/protein": (44963, 45730, 9),
    "uci/wine": (44972, 1599, 11),
    "mnist": (554, 70000, 784),
}
_N_SEEDED_SPLITS = 20


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """A data set in original units; without a split, everything is in `x` and `y`.

    Attributes:
        x: features (N, D) in float64; for mnist and cifar10, pixels (N, H, W, channels) in uint8.
        y: targets (N,): float64 for regression, int64 class labels for classification.
        x_test: features of the held-out rows; None without a split.
        y_test: their targets.
        feature_names: D names; empty for images.
        target_name: what y is.
        source: where the data came from.
        split_source: how the rows were divided.

    Examples:
        >>> from dkp import datasets
        >>> table = datasets.load("diabetes")
        >>> table.x.shape, table.target_name
        ((442, 10), 'disease_progression')
    """

    x: Float[np.ndarray, "N D"] | UInt8[np.ndarray, "N H W channels"]
    y: Float[np.ndarray, " N"] | Int[np.ndarray, " N"]
    x_test: Float[np.ndarray, "M D"] | UInt8[np.ndarray, "M H W channels"] | None = None
    y_test: Float[np.ndarray, " M"] | Int[np.ndarray, " M"] | None = None
    feature_names: tuple[str, ...]
    target_name: str
    source: str
    split_source: str = "not split"


def names() -> tuple[str, ...]:
    """The names that :func:`load` knows.

    Examples:
        >>> from dkp import datasets
        >>> datasets.names()[:3]
        ('diabetes', 'digits', 'breast_cancer')
    """
    return (*_EMBEDDED, *_FILES)


def load(name: str, split: int | None = None) -> Table:
    """A data set by name: "diabetes", "uci/energy", "mnist" and others; see :func:`names`.

    Args:
        name: "wine" is scikit-learn's classification of cultivars, "uci/wine" the regression on red
            wine's quality.
        split: number of a train/test split, from 0. Sets with published splits use those: 20 for
            the UCI sets (5 for protein) when their file has them, one for mnist and cifar10. The
            others have 20 seeded shuffles, with a tenth of the rows, rounded, held out. None: all
            rows.

    Raises:
        ValueError: when the name or the split is not known, DKP_DATA_DIR is not a directory, a file
            has not the layout above, or a set that cannot be downloaded is found nowhere.
        ConnectionError: when a download fails.
    """
    checks.one_of("name", name, names())
    table, test_rows = _embedded(name) if name in _EMBEDDED else _stored(name)
    _logger.info("%s: %s", name, table.source)
    return table if split is None else _split(table, test_rows, split)


def cubic(seed: int = 0) -> Table:
    """A toy regression of 40 points: y = x³ + 3 e with e ~ N(0, 1).

    x is uniform on [-4, -2] (20 points) and [2, 4] (20).

    The gap between the two groups shows how a posterior extrapolates; the noise's standard
    deviation is 3.

    Examples:
        >>> from dkp import datasets
        >>> datasets.cubic(seed=0).x.shape
        (40, 1)
    """
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.uniform(-4, -2, 20), rng.uniform(2, 4, 20)])
    y = x**3 + 3 * rng.standard_normal(40)
    return Table(
        x=x[:, None],
        y=y,
        feature_names=("x",),
        target_name="y",
        source=f"synthetic: cubic, seed {seed}",
    )


# Train and test rows
# ------------------------------------------------------------------------------------------------

TestRows = list[np.ndarray] | None


def _split(table: Table, published: TestRows, split: Any) -> Table:
    checks.one_of("split", split, range(_N_SEEDED_SPLITS if published is None else len(published)))
    n = len(table.y)
    if published is None:
        test = np.random.default_rng(split).permutation(n)[: round(n / 10)]
        text = f"seeded shuffle {split}: a tenth held out"
    else:
        test, text = published[split], f"published split {split}"
    train = np.setdiff1d(np.arange(n), test)
    held_out = {"x_test": table.x[test], "y_test": table.y[test]}
    return dataclasses.replace(
        table, x=table.x[train], y=table.y[train], split_source=text, **held_out
    )


# Embedded
# --------------------------------------------------------------------------------------------------


def _embedded(name: str) -> tuple[Table, TestRows]:
    from sklearn import datasets

    raw = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(datasets, f"load_{name}")(**raw)
    table = Table(
        x=bunch.data.astype(np.float64),
        y=bunch.target.astype(np.float64 if name == "diabetes" else np.int64),
        feature_names=tuple(map(str, bunch.feature_names)),
        target_name=_EMBEDDED[name],
        source="embedded in scikit-learn",
    )
    return table, None


# Files
# --------------------------------------------------------------------------------------------------


def _stored(name: str) -> tuple[Table, TestRows]:
    path, source = _locate(name)
    read = {"mnist": _read_mnist, "cifar10": _read_cifar10}.get(name, _read_uci)
    with np.load(path) as arrays:
        try:
            return read(arrays, source)
        except KeyError as error:
            raise ValueError(
                f"Expected {path} to have the arrays of dkp.datasets' files. Got {arrays.files}."
            ) from error


def _locate(name: str) -> tuple[Path, str]:
    """The file that holds `name`, and where that is; downloaded when it is nowhere."""
    if directory := os.environ.get("DKP_DATA_DIR"):
        if not Path(directory).is_dir():
            raise ValueError(
                f"Expected DKP_DATA_DIR to name a directory. Got {directory!r}: correct it, or "
                "unset it."
            )
        path = Path(directory) / _FILES[name]
        if path.exists():
            return path, f"DKP_DATA_DIR ({path})"
    path = _cache_directory() / _FILES[name]
    if path.exists():
        return path, f"cache ({path})"
    _download(name, path)
    return path, f"downloaded from OpenML, data_id {_OPENML[name][0]} (now in {path})"


def _cache_directory() -> Path:
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dkp"


def _read_uci(arrays: Any, source: str) -> tuple[Table, TestRows]:
    x, y = arrays["X"].astype(np.float64), arrays["y"].astype(np.float64).ravel()
    named = "feature_names" in arrays
    feature_names = (
        arrays["feature_names"].tolist() if named else [f"x{j}" for j in range(x.shape[1])]
    )
    target_name = str(arrays["target_name"]) if named else "y"
    n_splits = sum(key.startswith("test_index_") for key in arrays.files)
    test_rows = [arrays[f"test_index_{k}"] for k in range(n_splits)] or None
    return Table(
        x=x, y=y, feature_names=tuple(feature_names), target_name=target_name, source=source
    ), test_rows


def _read_mnist(arrays: Any, source: str) -> tuple[Table, TestRows]:
    x = np.concatenate([arrays["x_train"], arrays["x_test"]])[..., None]
    y = np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(np.int64)
    test = np.arange(len(arrays["y_train"]), len(y))
    return Table(x=x, y=y, feature_names=(), target_name="digit", source=source), [test]


def _read_cifar10(arrays: Any, source: str) -> tuple[Table, TestRows]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "Expected Pillow, which decodes cifar10. Got none: pip install pillow."
        ) from error
    jpeg, offsets = arrays["jpeg"], arrays["offsets"]
    bounds = zip(offsets[:-1], offsets[1:], strict=True)
    x = np.stack(
        [np.asarray(Image.open(io.BytesIO(jpeg[start:end].tobytes()))) for start, end in bounds]
    )
    table = Table(
        x=x,
        y=arrays["labels"].astype(np.int64),
        feature_names=(),
        target_name="class",
        source=source,
    )
    return table, [np.flatnonzero(~arrays["is_train"])]


# Download
# --------------------------------------------------------------------------------------------------


def _download(name: str, path: Path) -> None:
    """Fetch `name` from OpenML and write it to `path` in the layout that the readers know."""
    where = f"{_FILES[name]} in the directory that DKP_DATA_DIR names, or the file {path}"
    if name not in _OPENML:
        raise ValueError(
            f"Expected {where}. Got neither, and {name!r} has no automatic download: set "
            "DKP_DATA_DIR."
        )
    data_id, rows, features = _OPENML[name]
    from sklearn.datasets import fetch_openml

    try:
        # This parser needs no pandas, and codes a nominal feature by its position among its
        # categories.
        bunch: Any = fetch_openml(data_id=data_id, as_frame=False, parser="liac-arff", cache=False)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"Expected {where}, or to download {name!r} from OpenML. Got {error}."
        ) from error
    x = _numeric(bunch)
    if x.shape != (rows, features):
        raise ValueError(
            f"Expected OpenML's {data_id} to have shape {(rows, features)}. Got {x.shape}: set "
            "DKP_DATA_DIR."
        )
    arrays = _mnist_arrays if name == "mnist" else _uci_arrays
    _save(path, arrays(x, np.asarray(bunch.target, np.float64), bunch))


def _numeric(bunch: Any) -> np.ndarray:
    x = np.array(bunch.data, np.float64)
    for name, categories in (bunch.categories or {}).items():
        if name in bunch.feature_names:
            column = list(bunch.feature_names).index(name)
            x[:, column] = np.asarray(categories, np.float64)[x[:, column].astype(int)]
    return x


def _uci_arrays(x: np.ndarray, y: np.ndarray, bunch: Any) -> dict[str, np.ndarray]:
    names = {
        "feature_names": np.array(bunch.feature_names),
        "target_name": np.array(bunch.target_names[0]),
    }
    return {"X": x, "y": y, **names}


def _mnist_arrays(x: np.ndarray, y: np.ndarray, bunch: Any) -> dict[str, np.ndarray]:
    """The first 60,000 rows are the published training set."""
    x, y = x.reshape(-1, 28, 28).astype(np.uint8), y.astype(np.uint8)
    return {"x_train": x[:60000], "y_train": y[:60000], "x_test": x[60000:], "y_test": y[60000:]}


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Under another name first: whoever reads `path` meanwhile finds a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
