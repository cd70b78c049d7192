"""``import dkp`` is light: what only some users need is imported where it is used."""

import json

import dkp
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
        "import jax, numpyro; before = dict(jax.config.values); "
        "import dkp; print(before == jax.config.values)"
    )
    assert run_python(code, timeout=120).strip() == "True"


def test_the_citation_states_the_version():
    assert f"\nversion: {dkp.__version__}\n" in (ROOT / "CITATION.cff").read_text()
