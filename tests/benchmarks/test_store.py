"""Records are whole or absent."""

from pathlib import Path

import pytest

from benchmarks import store
from benchmarks.config import Run, Settings

RUN = Run(suite="uci-small", dataset="uci/energy", split=2, method="gp", settings=Settings())


def test_the_path_says_what_was_run(tmp_path):
    path = store.path_of(tmp_path, RUN)
    assert (
        path == tmp_path / "uci-small" / "uci" / "energy" / "split2" / f"gp-{RUN.fingerprint}.json"
    )


def test_a_record_comes_back(tmp_path):
    record = {"status": "finished", "metrics": {"rmse": 1.5}, "text": "±"}
    store.write(store.path_of(tmp_path, RUN), record)
    assert list(store.records(tmp_path)) == [record]


def test_a_write_that_is_cut_short_leaves_the_old_record(tmp_path, monkeypatch):
    path = store.path_of(tmp_path, RUN)
    store.write(path, {"status": "finished", "number": 1})

    def killed(self, target):
        assert target == path
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store.write(path, {"status": "finished", "number": 2})
    assert list(store.records(tmp_path)) == [{"status": "finished", "number": 1}]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_errors_and_leave_nothing(tmp_path, number):
    path = store.path_of(tmp_path, RUN)
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write(path, {"status": "finished", "rmse": number})
    assert list(tmp_path.rglob("*.*")) == []


def test_only_a_finished_record_counts(tmp_path):
    path = store.path_of(tmp_path, RUN)
    assert not store.is_finished(path)
    store.write(path, store.failure(RUN, "Traceback", 1.0))
    assert not store.is_finished(path)
    store.write(path, {"status": "finished"})
    assert store.is_finished(path)


def test_a_file_that_is_no_record_is_named(tmp_path):
    path = tmp_path / "split0" / "gp-00000000.json"
    path.parent.mkdir()
    path.write_text('{"status": "fin')
    with pytest.raises(ValueError, match=r"gp-00000000\.json .* delete it"):
        list(store.records(tmp_path))
