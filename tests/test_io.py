"""Files of posteriors: the same predictions to the last bit, and nothing worse than ValueError from
any other file."""

import json
import pathlib
import re
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import dkp
from dkp import kernels, likelihoods
from dkp._core import archive
from dkp.data.standardization import Standardization
from dkp.linalg.spectrum import Spectrum
from tests.support import relaxed, run_python

N = 7
RNG = np.random.default_rng(4)
X = RNG.normal(size=(N, 2))
Y = np.stack([np.sin(X[:, 0]), X[:, 1] ** 2], axis=1)
KEY = jax.random.key(0)


def deep(*bottlenecks, likelihood=None):
    layers = [part for b in bottlenecks for part in (kernels.SquaredExponential(), b)]
    return dkp.DeepKernelProcess(
        layers=[
            kernels.Linear(ard=True, bias=0.1),
            *layers,
            kernels.Sum(kernels.ReLU(), kernels.SquaredExponential()),
        ],
        likelihood=likelihood or likelihoods.Gaussian(),
    )


def fit(model, y=Y[:, :1], guide="auto", **options):
    data = dkp.Dataset.from_arrays(X, y, feature_names=("a", "b"), **options)
    return dkp.fit_vi(
        model, data, key=KEY, n_inducing=4, steps=3, start_steps=2, progress=False, guide=guide
    )


def sampled():
    data = dkp.Dataset.from_arrays(X, Y[:, :1])
    return dkp.sample_hmc(
        exact_model(dist.LogNormal(0.0, 1.0)),
        data,
        key=KEY,
        chains=1,
        warmup=5,
        draws=4,
        progress=False,
    )


def exact_model(lengthscale=1.0):
    return dkp.DeepKernelProcess(
        layers=[kernels.SquaredExponential(lengthscale=lengthscale, variance=1.0)],
        likelihood=likelihoods.Gaussian(noise=0.2),
    )


INFERRED = dist.TruncatedNormal(20.0, 10.0, low=8.0)
POSTERIORS = {
    "deep Wishart": lambda: fit(
        deep(dkp.Wishart(width=2), dkp.InverseWishart(delta=3.0)), guide="ab"
    ),
    "other guides": lambda: fit(
        deep(dkp.Wishart(width=2), dkp.Wishart(width=INFERRED)),
        guide=["features", dkp.guides.WishartGuide("dense", mixing="sum")],
    ),
    "counts": lambda: fit(
        deep(dkp.InverseWishart(), likelihood=likelihoods.Poisson()),
        np.arange(7.0),
        standardize_targets=False,
        exposure=np.arange(7.0) + 1,
        weights=np.ones(7),
    ),
    "missing targets": lambda: fit(deep(dkp.InverseWishart()), np.where(Y > 0.9, np.nan, Y)),
    "chains": sampled,
    "evidence": lambda: (
        dkp.log_evidence(
            exact_model(dist.Gamma(2.0, 2.0)),
            dkp.Dataset.from_arrays(X, Y[:, :1]),
            key=KEY,
            particles=32,
            progress=False,
        ).posterior
    ),
    "exact": lambda: dkp.condition(
        exact_model(dkp.learn(1.0)), dkp.Dataset.from_arrays(X, Y), key=KEY
    ),
    "gradient flow": lambda: dkp.gradient_flow(
        dkp.DeepKernelProcess(
            layers=[kernels.ReLU(), kernels.Affine()], likelihood=likelihoods.Gaussian(noise=0.1)
        ),
        dkp.Dataset.from_arrays(X, Y),
    ),
}


def text(model):
    """A model as text, without the addresses that distributions have there."""
    return re.sub(r" at 0x\w+", "", repr(model))


@pytest.mark.parametrize("name", POSTERIORS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_predictions_are_the_same_to_the_last_bit(name, tmp_path):
    with relaxed():
        posterior = POSTERIORS[name]()
        path = tmp_path / "model.dkp"
        dkp.save(posterior, path)
        back = dkp.load(path)
        assert type(back) is type(posterior) and text(back.model) == text(posterior.model)
        assert back.data.feature_names == posterior.data.feature_names
        new = RNG.normal(size=(3, 2))
        a, b = (dkp.predict(p, new, key=KEY, n_samples=3) for p in (posterior, back))
        for part in ("mean", "variance", "samples"):
            np.testing.assert_array_equal(getattr(a, part), getattr(b, part))
        assert posterior.summary().keys() == back.summary().keys()
        dkp.save(back, tmp_path / "again.dkp")
    assert (tmp_path / "again.dkp").read_bytes() == path.read_bytes()
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.slow
def test_another_process_predicts_the_same(tmp_path):
    with relaxed():
        posterior = POSTERIORS["deep Wishart"]()
        dkp.save(posterior, tmp_path / "model.dkp")
        mean = dkp.predict(posterior, X, key=KEY, n_samples=2).mean
    code = f"""
import jax; jax.config.update("jax_enable_x64", True)
import dkp, numpy as np
x = np.array({X.tolist()})
posterior = dkp.load({str(tmp_path / "model.dkp")!r})
print(dkp.predict(posterior, x, key=jax.random.key(0), n_samples=2).mean.tolist())
"""
    assert json.loads(run_python(code, timeout=120)) == mean.tolist()
    single = "import dkp\ntry:\n    dkp.load({!r})\nexcept ValueError as error:\n    print(error)"
    assert "jax_enable_x64" in run_python(single.format(str(tmp_path / "model.dkp")), timeout=60)


# --- files that will not do -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("io") / "model.dkp"
    with relaxed():
        dkp.save(POSTERIORS["exact"](), path)
    return path


def refused(path, match="Expected"):
    with pytest.raises(ValueError, match=match):
        dkp.load(path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        dkp.load(tmp_path / "nothing.dkp")


def test_truncations_and_flipped_bits(good, tmp_path):
    """Any prefix is refused; a flipped bit is refused, or lies where it changes no content (dates
    and the like)."""
    whole, path = good.read_bytes(), tmp_path / "damaged.dkp"
    for length in np.linspace(0, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:length])
        refused(path)
    header, arrays = archive.read(good, "posterior")
    changed = 0
    for position in RNG.integers(0, 8 * len(whole), 300):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            found = archive.read(path, "posterior")
        except ValueError:
            changed += 1
            continue
        assert found[0] == header
        assert all(np.array_equal(found[1][name], arrays[name], equal_nan=True) for name in arrays)
    assert changed > 200


def rewritten(good, path, change=lambda header: None, **members):
    """The good file with another header or other members."""
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "header.json":
                header = json.loads(data)
                change(header)
                data = json.dumps(header).encode()
            new.writestr(name, members.pop(name.removesuffix(".npy"), data))
        for name, data in members.items():
            new.writestr(name, data)


def npy(header):
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


HEADERS = {
    "newer format": (lambda h: h.update(format=99), "install a newer dkp"),
    "no format": (lambda h: h.pop("format"), "another header"),
    "another kind": (
        lambda h: h.update(kind="checkpoint"),
        "to be a posterior. Got a 'checkpoint'",
    ),
    "no posterior": (lambda h: h.update(content={"posterior": 3}), "to be a posterior. Got int"),
    "nothing": (lambda h: h.update(content={}), "to be a posterior"),
    "unknown record": (
        lambda h: h["content"].update(posterior={"record": "os.system", "fields": {}}),
        "os.system, which is not known here",
    ),
    "a record without fields": (
        lambda h: h["content"].update(
            posterior={"record": "inference.exact.ExactPosterior", "fields": {}}
        ),
        "the fields",
    ),
    "unknown prior": (
        lambda h: h["content"].update(posterior={"distribution": "os", "arguments": {"dict": {}}}),
        "unknown name",
    ),
    "unknown entry": (lambda h: h["content"].update(posterior={"call": "print"}), "unknown kind"),
    "a missing array": (
        lambda h: h["content"].update(posterior={"array": "array999", "device": False}),
        "KeyError",
    ),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_somebody_made_up(good, tmp_path, case):
    change, match = HEADERS[case]
    rewritten(good, tmp_path / "bad.dkp", change)
    refused(tmp_path / "bad.dkp", match)


def test_a_header_of_many_levels(good, tmp_path):
    deep = '{"list": [' * 100_000 + "]}" * 100_000
    text = f'{{"format": 1, "kind": "posterior", "content": {{"posterior": {deep}}}}}'
    rewritten(good, tmp_path / "bad.dkp", **{"header.json": text})
    refused(tmp_path / "bad.dkp", "RecursionError")


MEMBERS = {
    "objects": npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }")
    + b"cos\nsystem\n(S'true'\ntR.",
    "a shape beyond memory": npy(
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    ),
    "a negative shape": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }"),
    "code in the header": npy("__import__('os').system('true')"),
    "no array": b"pickle",
    "another version": b"\x93NUMPY\x09\x00" + bytes(100),
}


@pytest.mark.parametrize("case", MEMBERS)
def test_arrays_that_somebody_made_up(good, tmp_path, case):
    rewritten(good, tmp_path / "bad.dkp", array0=MEMBERS[case])
    refused(tmp_path / "bad.dkp", "Expected array0 to be")


def test_archives_that_somebody_made_up(good, tmp_path):
    path = tmp_path / "bad.dkp"
    for content in (b"", b"PK", b"x" * 1000, b"\x80\x04\x95pickle."):
        path.write_bytes(content)
        refused(path, "to be a file of dkp, whole and unchanged")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("header.json", "0" * 10_000_000)
    assert path.stat().st_size < 20_000
    refused(path, "a member is compressed")
    with zipfile.ZipFile(path, "w") as empty:
        empty.writestr("other.json", "{}")
    refused(path, "members are not those")
    rewritten(good, path, **{"../../escaped": b"here"})
    refused(path, "to hold arrays as its header says. Got .*escaped")
    assert not (tmp_path.parent.parent / "escaped").exists()


# --- what cannot be written -----------------------------------------------------------------------


@pytest.mark.usefixtures("_unchecked")
def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="Expected posterior to come from an engine"):
        dkp.save(exact_model(), tmp_path / "model.dkp")
    with pytest.raises(ValueError, match="Expected a to hold numbers"):
        archive.write(tmp_path / "x", "test", {}, {"a": np.array(["text"])})
    assert not list(tmp_path.iterdir())


class Own(likelihoods.Gaussian):
    """A user's own likelihood: known by being defined."""


def test_a_model_of_own_parts_is_saved(tmp_path):
    data = dkp.Dataset.from_arrays(X, Y)
    model = dkp.DeepKernelProcess(layers=[kernels.SquaredExponential()], likelihood=Own(noise=0.1))
    with relaxed():
        posterior = dkp.condition(model, data, key=KEY)
    dkp.save(posterior, tmp_path / "model.dkp")
    assert type(dkp.load(tmp_path / "model.dkp").model.likelihood) is Own


def test_a_model_with_a_part_that_files_cannot_name_is_refused_by_name(tmp_path):
    layers = [kernels.Activation(lambda u: u)]
    model = dkp.DeepKernelProcess(layers=layers, likelihood=likelihoods.Gaussian(noise=0.1))
    with pytest.warns(UserWarning, match="dkp.save will not be able"):
        posterior = dkp.condition(model, dkp.Dataset.from_arrays(X, Y))
    with pytest.raises(ValueError, match="Expected parts that a file can name.* Got .*lambda"):
        dkp.save(posterior, tmp_path / "model.dkp")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(good, tmp_path, monkeypatch):
    path = tmp_path / "model.dkp"
    path.write_bytes(good.read_bytes())

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        dkp.save(dkp.load(good), path)
    assert path.read_bytes() == good.read_bytes() and len(list(tmp_path.iterdir())) == 1


def test_records_of_arrays(tmp_path):
    """Shapes, dtypes and special numbers survive, also of arrays without entries or axes."""
    arrays = {
        "a": np.array([np.nan, -0.0, np.inf, 5e-324]),
        "b": np.zeros((0, 3), np.float32),
        "c": np.array(True),
        "d": np.arange(6, dtype=np.int32).reshape(2, 3).T,
    }
    archive.write(tmp_path / "x", "test", {"n": 1}, arrays)
    header, found = archive.read(tmp_path / "x", "test")
    assert header == {"n": 1}
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes()


@pytest.mark.usefixtures("_unchecked")
def test_a_record_that_is_no_posterior(tmp_path):
    with pytest.raises(ValueError, match="Expected posterior to come from an engine"):
        dkp.save(Standardization.identity(2), tmp_path / "x")
    with pytest.raises(ValueError, match="Expected posterior to come from an engine"):
        dkp.save(
            Spectrum(values=jnp.ones(1), vectors=jnp.ones((1, 1)), noise=jnp.ones(())),
            tmp_path / "x",
        )


FILES = pathlib.Path(__file__).with_name("files")
EXPECTED = json.loads((FILES / "expected.json").read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_files_of_the_version_before_load_and_predict_the_same(name):
    """Files that were written by the code before modules moved, with the predictions that it made
    from them; numbers differ by rounding, because programs are compiled anew: by up to 6e-8 with
    fewer optimisations, since kernel matrices have condition numbers of 1e8."""
    posterior = dkp.load(FILES / f"{name}.dkp")
    new = np.linspace(-1, 1, 6).reshape(3, 2)
    with relaxed():
        found = dkp.predict(posterior, new, key=KEY, n_samples=3)
        for part in ("mean", "variance"):
            np.testing.assert_allclose(getattr(found, part), EXPECTED[name][part], rtol=1e-6)
