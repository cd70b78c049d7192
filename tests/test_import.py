"""``import dkp`` is light: what only some users need is imported where it is used."""

import ast
import importlib
import json
import re

import pytest

import dkp
import dkp.distributions
import dkp.kernels
import dkp.likelihoods
from tests.support import ROOT, run_python

LAZY = ("arviz", "dask", "matplotlib", "pandas", "sklearn", "tyro")


def test_import_leaves_optional_work_to_later():
    loaded = run_python(
        "import dkp, json, sys; print(json.dumps(sorted(sys.modules)))", timeout=120
    )
    packages = {name.partition(".")[0] for name in json.loads(loaded)}
    assert "dkp" in packages
    assert packages.isdisjoint(LAZY)


def test_import_works_where_the_optional_packages_are_missing():
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({LAZY})); import dkp; print(dkp.__version__)"
    )
    assert run_python(code, timeout=120).strip() == dkp.__version__


def test_import_changes_no_setting_of_jax():
    code = (
        "import jax, numpyro; before = dict(jax.config.values); import dkp; "
        "print(before == jax.config.values)"
    )
    assert run_python(code, timeout=120).strip() == "True"


def test_modules_that_stand_in_a_room_keep_their_public_paths():
    for name in ("datasets", "defaults", "preprocessing"):
        assert importlib.import_module(f"dkp.{name}") is getattr(dkp, name)


def test_the_citation_states_the_version():
    assert f"\nversion: {dkp.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize("module", [dkp, dkp.kernels, dkp.likelihoods, dkp.distributions])
def test_every_public_name_is_touched_by_the_fast_tier(module):
    modules = {path: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    names = {
        word
        for text in modules.values()
        # a module that is slow as a whole
        if not re.search(r"^pytestmark = .*\bslow\b", text, flags=re.MULTILINE)
        for word in re.findall(r"\w+", fast_part(text))
    }
    assert set(module.__all__) <= names, sorted(set(module.__all__) - names)


def fast_part(source: str) -> str:
    """The source of a test module without the tests that are marked slow."""
    lines = source.splitlines()
    left_out: set[int] = set()
    for node in ast.parse(source).body:
        marks = getattr(node, "decorator_list", [])
        if any(ast.unparse(mark) == "pytest.mark.slow" for mark in marks):
            left_out.update(range(node.lineno - 1, node.end_lineno or node.lineno))
    return "\n".join(line for i, line in enumerate(lines) if i not in left_out)
