"""The examples in docstrings run, under the strict numerics of all tests, and no public class lacks
one."""

import contextlib
import doctest
import importlib
import inspect
import pkgutil

import pytest

import dkp
from tests.support import relaxed

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(dkp.__path__, "dkp.")
    if not module.name.endswith("__main__")
)
OPTIMISED = (
    "dkp.estimators",
    "dkp.inference.variational.fit",
    "dkp.inference.variational.posterior",
)
"""Modules whose examples take steps of optax's Adam, which promotes dtypes."""
PUBLIC = ["dkp.kernels", "dkp.likelihoods", "dkp.distributions", "dkp.data", "dkp.gram"]
PUBLIC += [name for name in MODULES if name.startswith("dkp.theory.") and "._" not in name]


def examples_of(module):
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module))
    return [test for test in found if test.examples]


@pytest.mark.parametrize("module", [name for name in MODULES if examples_of(name)])
def test_examples_of_docstrings(module):
    runner, reports = doctest.DocTestRunner(verbose=False), []
    with relaxed() if module in OPTIMISED else contextlib.nullcontext():
        for test in examples_of(module):
            runner.run(test, out=reports.append)
    assert not runner.failures, "".join(reports)
    assert runner.tries


@pytest.mark.parametrize("module", PUBLIC)
def test_public_classes_have_an_example(module):
    home = importlib.import_module(module)
    classes = [getattr(home, name) for name in home.__all__]
    without = [
        entry.__name__
        for entry in classes
        if inspect.isclass(entry) and ">>> " not in (entry.__doc__ or "")
    ]
    assert not without
