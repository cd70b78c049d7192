"""Posteriors as files: everything that prediction needs, the data included, and nothing that runs.

A posterior is a tree of records (dataclasses of this package), containers, numbers, text, arrays
and the priors of hyperparameters. A file says which they are and holds their fields; loading looks
the names up in a table and builds the records, and calls nothing else."""

import dataclasses
import inspect
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from dkp._core import archive
from dkp._core.description import Learn, Spec
from dkp.data.dataset import Dataset, Standardization
from dkp.guides import FeatureGuide, InverseWishartGuide, WishartGuide
from dkp.inference.coordinates import Coordinates
from dkp.inference.draws_posterior import DrawsPosterior
from dkp.inference.gaussian.augmented import AugmentedPosterior
from dkp.inference.gaussian.gradient_flow import GradientFlowEnsemble
from dkp.inference.gaussian.posterior import ExactPosterior
from dkp.inference.markov.posterior import MCMCPosterior
from dkp.inference.variational.family import VariationalFamily
from dkp.inference.variational.posterior import VariationalPosterior
from dkp.linalg.spectrum import Spectrum
from dkp.posterior.protocol import Posterior

__all__ = ["load", "load_with", "save", "save_with"]

_KIND = "posterior"
_RECORDS: tuple[type, ...] = (
    AugmentedPosterior,
    Coordinates,
    Dataset,
    DrawsPosterior,
    ExactPosterior,
    FeatureGuide,
    GradientFlowEnsemble,
    InverseWishartGuide,
    MCMCPosterior,
    Spectrum,
    Standardization,
    VariationalFamily,
    VariationalPosterior,
    WishartGuide,
)


def save(posterior: Posterior, path: str | os.PathLike[str]) -> None:
    """Write a posterior of any engine to one file, from which :func:`load` makes it again.

    The file holds the standardised training data. It is written whole or not at all.

    Args:
        posterior: of any engine, of a model made of this package's kernels, bottlenecks and
            likelihoods, with priors from ``numpyro.distributions``.
        path: conventionally ending in ``.dkp``.

    Raises:
        ValueError: for what is no posterior, and for parts of it that are not from this package.
        OSError: when the file cannot be written.
    """
    save_with(posterior, path, None)


def save_with(posterior: Posterior, path: str | os.PathLike[str], beside: Any) -> None:
    """:func:`save`, with something beside it in the same file: containers of numbers, text and
    arrays, or None."""
    if not isinstance(posterior, Posterior):
        raise ValueError(
            "Expected posterior to come from an engine, such as dkp.fit_vi. Got "
            f"{type(posterior).__name__}."
        )
    arrays: dict[str, np.ndarray] = {}
    header = {"posterior": _encode(posterior, arrays), "beside": _encode(beside, arrays)}
    archive.write(path, _KIND, header, arrays)


def load(path: str | os.PathLike[str]) -> Posterior:
    """The posterior in a file that :func:`save` wrote, equal to the last bit.

    Files go from one version of Python or JAX to another, and between machines with and without
    accelerators.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no such file or damaged, made by a newer version, or holds float64
            arrays while ``jax_enable_x64`` is not set. Nothing in a file is ever run.
    """
    return load_with(path)[0]


def load_with(path: str | os.PathLike[str]) -> tuple[Posterior, Any]:
    """:func:`load`, and what :func:`save_with` put beside it."""
    header, arrays = archive.read(path, _KIND)
    try:
        posterior, beside = (
            _decode(header["posterior"], arrays),
            _decode(header.get("beside"), arrays),
        )
    except _Refused as error:
        raise ValueError(f"Expected {path} to load. Got {error}") from None
    except Exception as error:  # a header that somebody made up can be wrong in any way
        raise ValueError(f"Expected {path} to be a posterior. Got {error!r}.") from error
    if not isinstance(posterior, Posterior):
        raise ValueError(f"Expected {path} to be a posterior. Got {type(posterior).__name__}.")
    return posterior, beside


class _Refused(ValueError):
    """Why a file that may be in order cannot be loaded here."""


def _encode(node: Any, arrays: dict[str, np.ndarray]) -> Any:
    """A tree as JSON; its arrays go into `arrays`."""
    if node is None or isinstance(node, (bool, int, str)):
        return node
    if isinstance(node, float):
        return {"float": node.hex()}
    if isinstance(node, (np.ndarray, np.generic, jax.Array)):
        name = f"array{len(arrays)}"
        arrays[name] = np.asarray(node)
        return {"array": name, "device": isinstance(node, jax.Array)}
    if isinstance(node, (tuple, list)):
        return {type(node).__name__: [_encode(item, arrays) for item in node]}
    if isinstance(node, dict):
        return {"dict": {_text(key): _encode(item, arrays) for key, item in node.items()}}
    if isinstance(node, Learn):
        return {"learn": _encode(node.init, arrays)}
    if isinstance(node, dist.Distribution):
        return {
            "distribution": _distribution_name(node),
            "arguments": _encode(_arguments(node), arrays),
        }
    name = _name(type(node))
    if name in _records():
        fields = {f.name: _encode(getattr(node, f.name), arrays) for f in dataclasses.fields(node)}
        return {"record": name, "fields": fields}
    raise ValueError(
        "Expected parts of this package, and priors from numpyro.distributions, to save. Got "
        f"{type(node).__name__}."
    )


def _decode(node: Any, arrays: dict[str, np.ndarray]) -> Any:
    if node is None or isinstance(node, (bool, int, str)):
        return node
    kind = next(iter(node))
    content = node[kind]
    if kind == "float":
        return float.fromhex(content)
    if kind == "array":
        return _device_array(arrays[content]) if node["device"] else arrays[content]
    if kind in ("tuple", "list"):
        items = [_decode(item, arrays) for item in content]
        return items if kind == "list" else tuple(items)
    if kind == "dict":
        return {key: _decode(item, arrays) for key, item in content.items()}
    if kind == "learn":
        return Learn(_decode(content, arrays))
    if kind == "distribution":
        return _distribution_class(content)(**_decode(node["arguments"], arrays))
    if kind == "record":
        return _record(
            content, {name: _decode(value, arrays) for name, value in node["fields"].items()}
        )
    raise ValueError(f"an entry of the unknown kind {kind!r}")


def _record(name: str, fields: dict[str, Any]) -> Any:
    """A record with these fields: whatever its constructor computes is among them already."""
    room, *_, last = name.split(".")
    cls = _records()[f"{room}.{last}"]
    known = {f.name for f in dataclasses.fields(cls)}
    if known != fields.keys():
        raise ValueError(f"the fields {sorted(fields)} for {name}")
    record = object.__new__(cls)
    for key, value in fields.items():
        object.__setattr__(record, key, value)
    return record


def _records() -> dict[str, type]:
    """All classes that a file may name: the table above, and the descriptions that this package
    defines."""
    found, todo = list(_RECORDS), [Spec]
    while todo:
        children = todo.pop().__subclasses__()
        todo += children
        found += [cls for cls in children if cls.__module__.startswith("dkp.")]
    return {_name(cls): cls for cls in found}


def _name(cls: type) -> str:
    """The room and the class: files outlive moves of modules within a room."""
    return f"{cls.__module__.split('.')[1]}.{cls.__qualname__}"


def _distribution_name(law: dist.Distribution) -> str:
    name = type(law).__name__
    if getattr(dist, name, None) is not type(law):
        raise ValueError(f"Expected priors from numpyro.distributions to save. Got {name}.")
    return name


def _distribution_class(name: str) -> type:
    cls = getattr(dist, name, None)
    if not (isinstance(cls, type) and issubclass(cls, dist.Distribution)):
        raise ValueError(f"a prior of the unknown name {name!r}")
    return cls


def _arguments(law: dist.Distribution) -> dict[str, Any]:
    """What its constructor was called with."""
    names = [name for name in inspect.signature(type(law)).parameters if name != "validate_args"]
    missing = [name for name in names if not hasattr(law, name)]
    if missing:
        raise ValueError(
            f"Expected a prior whose arguments can be read back. Got {type(law).__name__}."
        )
    return {name: getattr(law, name) for name in names}


def _text(key: Any) -> str:
    if not isinstance(key, str):
        raise ValueError(f"Expected names to be text. Got {key!r}.")
    return key


def _device_array(array: np.ndarray) -> jax.Array:
    if array.dtype == np.float64 and jnp.result_type(float) != np.float64:
        raise _Refused(
            'arrays of float64: set jax.config.update("jax_enable_x64", True) first, as when it was saved.'
        )
    return jnp.asarray(array)
