import io
import logging
import os
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.datasets

from dkp import datasets

SHARED = os.environ.get("DKP_DATA_DIR")
EMBEDDED = {
    "diabetes": (442, 10, "f"),
    "digits": (1797, 64, "i"),
    "breast_cancer": (569, 30, "i"),
    "wine": (178, 13, "i"),
}


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No data directory, an empty cache, and no network."""
    monkeypatch.delenv("DKP_DATA_DIR", raising=False)
    monkeypatch.setattr(datasets, "_cache_directory", lambda: tmp_path / "cache")
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", no_network)
    return tmp_path


def no_network(**_):
    raise OSError("no network")


def rows(x, y):
    """The multiset of rows, in a canonical order."""
    both = np.concatenate([x.reshape(len(x), -1), y[:, None]], axis=1)
    return both[np.lexsort(both.T)]


def write(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def assert_partition(whole, split, n_test):
    assert len(split.y_test) == n_test
    np.testing.assert_array_equal(
        rows(np.concatenate([split.x, split.x_test]), np.concatenate([split.y, split.y_test])),
        rows(whole.x, whole.y),
    )


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_sets(name, nowhere):
    n, d, kind = EMBEDDED[name]
    whole, split = datasets.load(name), datasets.load(name, 3)
    assert whole.x.shape == (n, d)
    assert whole.x.dtype == np.float64
    assert whole.y.dtype == np.dtype(f"{kind}8")
    assert len(whole.feature_names) == d
    assert whole.source == "embedded in scikit-learn"
    assert (whole.x_test, whole.y_test, whole.split_source) == (None, None, "not split")
    assert split.split_source == "seeded shuffle 3: a tenth held out"
    assert_partition(whole, split, round(n / 10))


def test_seeded_splits_repeat_and_differ(nowhere):
    first, again, other = (datasets.load("diabetes", k) for k in (0, 0, 1))
    np.testing.assert_array_equal(first.x_test, again.x_test)
    assert not np.array_equal(first.x_test, other.x_test)


@pytest.mark.parametrize("name", ["Diabetes", "energy", "uci/", ""])
def test_unknown_names_are_refused_with_the_list(name):
    with pytest.raises(
        ValueError,
        match="Expected name to be one of 'diabetes', .*'uci/yacht', 'mnist', 'cifar10'. Got",
    ):
        datasets.load(name)


@pytest.mark.parametrize("split", [-1, 20, 0.5, "0"])
def test_unknown_splits_are_refused(split):
    with pytest.raises(ValueError, match="Expected split to be one of 0, 1, .*, 19. Got"):
        datasets._split(datasets.cubic(), None, split)


# Files: small stand-ins in the published layout
# --------------------------------------------------------------------


def test_data_directory_wins_over_the_cache(nowhere, monkeypatch, caplog):
    write(
        nowhere / "given/uci/yacht.npz",
        X=np.arange(12.0).reshape(6, 2),
        y=np.arange(6),
        test_index_0=[1, 4],
        test_index_1=[0],
    )
    write(nowhere / "cache/uci/yacht.npz", X=np.zeros((30, 2)), y=np.zeros(30))
    with caplog.at_level(logging.INFO, "dkp.datasets"):
        cached = datasets.load("uci/yacht", 19)
        monkeypatch.setenv("DKP_DATA_DIR", str(nowhere / "given"))
        given = datasets.load("uci/yacht", 0)
    assert cached.source.startswith("cache (")
    assert cached.split_source.startswith("seeded shuffle 19")
    assert given.source.startswith("DKP_DATA_DIR (")
    assert given.split_source == "published split 0"
    np.testing.assert_array_equal(given.y_test, [1.0, 4.0])
    np.testing.assert_array_equal(given.y, [0.0, 2.0, 3.0, 5.0])
    np.testing.assert_array_equal(given.x_test, [[2.0, 3.0], [8.0, 9.0]])
    assert [record.args[1] for record in caplog.records] == [cached.source, given.source]
    with pytest.raises(ValueError, match="Expected split to be one of 0, 1. Got 2"):
        datasets.load("uci/yacht", 2)


def test_a_set_missing_from_the_data_directory_is_looked_for_in_the_cache(nowhere, monkeypatch):
    (nowhere / "given").mkdir()
    monkeypatch.setenv("DKP_DATA_DIR", str(nowhere / "given"))
    write(nowhere / "cache/uci/yacht.npz", X=np.zeros((30, 2)), y=np.zeros(30))
    assert datasets.load("uci/yacht").source.startswith("cache (")


def test_a_data_directory_that_is_none_is_an_error(nowhere, monkeypatch):
    monkeypatch.setenv("DKP_DATA_DIR", str(nowhere / "absent"))
    with pytest.raises(ValueError, match="Expected DKP_DATA_DIR to name a directory"):
        datasets.load("uci/yacht")


def test_a_file_of_another_layout_is_an_error(nowhere):
    write(nowhere / "cache/uci/yacht.npz", a=np.zeros(2))
    with pytest.raises(ValueError, match=r"yacht.npz to have the arrays of .* Got \['a'\]"):
        datasets.load("uci/yacht")


def test_a_pickle_is_not_loaded(nowhere):
    write(nowhere / "cache/uci/yacht.npz", X=np.array([{}], object), y=np.zeros(1))
    with pytest.raises(ValueError, match="allow_pickle"):
        datasets.load("uci/yacht")


def test_mnist_layout(nowhere):
    pixels = np.arange(5 * 784, dtype=np.int64).reshape(5, 28, 28).astype(np.uint8)
    labels = np.arange(5, dtype=np.uint8)
    write(
        nowhere / "cache/mnist.npz",
        x_train=pixels[:3],
        y_train=labels[:3],
        x_test=pixels[3:],
        y_test=labels[3:],
    )
    table = datasets.load("mnist", 0)
    np.testing.assert_array_equal(table.x[..., 0], pixels[:3])
    np.testing.assert_array_equal(table.y_test, [3, 4])
    assert table.y.dtype == np.int64
    assert datasets.load("mnist").x.shape == (5, 28, 28, 1)


def test_cifar10_layout(nowhere):
    image = pytest.importorskip("PIL.Image", reason="Pillow decodes the images")
    encoded = []
    for shade in (0, 100, 200):
        buffer = io.BytesIO()
        image.fromarray(np.full((32, 32, 3), shade, np.uint8)).save(buffer, format="JPEG")
        encoded.append(np.frombuffer(buffer.getvalue(), np.uint8))
    offsets = np.cumsum([0, *map(len, encoded)])
    write(
        nowhere / "cache/cifar10_jpeg.npz",
        jpeg=np.concatenate(encoded),
        offsets=offsets,
        labels=np.arange(3),
        is_train=np.array([True, False, True]),
    )
    table = datasets.load("cifar10", 0)
    assert table.x.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(table.x[:, 0, 0, 0], [0, 200])
    np.testing.assert_array_equal(table.y_test, [1])
    assert table.split_source == "published split 0"


# Download
# --------------------------------------------------------------------------------------------------


def openml(n=1599, d=11):
    """What OpenML's answer looks like: one nominal feature, coded by position, and a nominal
    target."""
    x = np.random.default_rng(0).normal(size=(n, d))
    x[:, 2] = np.arange(n) % 3
    bunch = SimpleNamespace(
        data=x, target=np.array(["5", "6"] * n, object)[:n], target_names=["quality"]
    )
    bunch.feature_names, bunch.categories = (
        [f"f{j}" for j in range(d)],
        {"f2": ["1", "2", "24"], "quality": ["5", "6"]},
    )
    return bunch


def test_a_download_is_cached_whole(nowhere, monkeypatch):
    asked = []
    monkeypatch.setattr(
        sklearn.datasets,
        "fetch_openml",
        lambda **options: asked.append(options["data_id"]) or openml(),
    )
    first, second = datasets.load("uci/wine"), datasets.load("uci/wine")
    assert asked == [44972]
    assert first.source.startswith("downloaded from OpenML, data_id 44972")
    assert second.source.startswith("cache (")
    np.testing.assert_array_equal(first.x[:3, 2], [1.0, 2.0, 24.0])
    np.testing.assert_array_equal(first.y[:2], [5.0, 6.0])
    assert (second.feature_names[0], second.target_name) == ("f0", "quality")
    np.testing.assert_array_equal(first.x, second.x)
    assert [path.name for path in (nowhere / "cache/uci").iterdir()] == ["wine.npz"]


def test_a_download_of_another_shape_is_not_kept(nowhere, monkeypatch):
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", lambda **_: openml(n=10))
    with pytest.raises(ValueError, match=r"shape \(1599, 11\). Got \(10, 11\)"):
        datasets.load("uci/wine")
    assert not (nowhere / "cache").exists()


def test_a_failed_download_says_what_to_do(nowhere):
    with pytest.raises(
        ConnectionError, match=r"DKP_DATA_DIR names, .*'uci/wine' from OpenML. Got no network"
    ):
        datasets.load("uci/wine")


def test_a_set_without_download_says_what_to_do(nowhere):
    with pytest.raises(ValueError, match="'uci/yacht' has no automatic download: set DKP_DATA_DIR"):
        datasets.load("uci/yacht")


def test_a_failed_write_leaves_nothing(nowhere, monkeypatch):
    def interrupted(file, **_):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        datasets._save(nowhere / "a.npz", {"X": np.zeros(2)})
    assert list(nowhere.iterdir()) == []


def test_the_cache_belongs_to_the_user(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert datasets._cache_directory() == tmp_path / "dkp"
    monkeypatch.setattr(datasets.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert datasets._cache_directory() == tmp_path / "local" / "dkp"


# The published files
# ------------------------------------------------------------------------------------------------

PUBLISHED = {
    "boston": (506, 13, 20),
    "concrete": (1030, 8, 20),
    "energy": (768, 8, 20),
    "kin8nm": (8192, 8, 20),
    "naval": (11934, 16, 20),
}
PUBLISHED |= {
    "power": (9568, 4, 20),
    "protein": (45730, 9, 5),
    "wine": (1599, 11, 20),
    "yacht": (308, 6, 20),
}


@pytest.mark.skipif(
    not SHARED, reason="DKP_DATA_DIR is not set: it names the directory with the published splits"
)
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_splits(name):
    n, d, n_splits = PUBLISHED[name]
    whole, split = datasets.load(f"uci/{name}"), datasets.load(f"uci/{name}", n_splits - 1)
    assert whole.x.shape == (n, d)
    assert split.split_source == f"published split {n_splits - 1}"
    assert_partition(whole, split, round(n / 10))
    with pytest.raises(ValueError, match="Expected split to be one of"):
        datasets.load(f"uci/{name}", n_splits)


def test_cubic():
    table = datasets.cubic(seed=4)
    x = table.x[:, 0]
    assert x.shape == (40,)
    assert ((np.abs(x) >= 2) & (np.abs(x) <= 4)).all()
    assert (x < 0).sum() == 20
    residuals = np.concatenate([t.y - t.x[:, 0] ** 3 for t in map(datasets.cubic, range(50))])
    # 2,000 residuals: their standard deviation is within 4 standard errors (3 / sqrt(2 * 2000)) of
    # 3; false alarms 6e-5
    assert abs(residuals.std() - 3) < 4 * 3 / np.sqrt(4000)
