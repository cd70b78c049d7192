import io

import pytest

from dkp._core.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(stream, *, total=1000, chunk=10, enabled=None):
    with Progress(total, label="fit", enabled=enabled, stream=stream) as progress:
        for done in range(chunk, total + 1, chunk):
            progress.update(done, elbo=-1.23456789 * done)
    return stream.getvalue()


def test_a_terminal_shows_one_line_that_is_rewritten():
    shown = run(Terminal())
    assert shown.count("\n") == 1
    assert shown.count("\r") > 1
    last = shown.rstrip().split("\r")[-1]
    assert "fit: 100%" in last
    assert "1000/1000" in last
    assert "elbo=-1235" in last


@pytest.mark.parametrize(("total", "chunk"), [(1000, 1), (1000, 10), (1000, 333), (7, 1), (1, 1)])
def test_a_log_gets_at_most_ten_lines_and_the_last_step(total, chunk):
    shown = run(io.StringIO(), total=total, chunk=chunk, enabled=True)
    lines = shown.splitlines()
    assert 1 <= len(lines) <= 10
    assert "\r" not in shown
    assert f"{total // chunk * chunk}/{total}" in lines[-1]
    assert "elbo=" in lines[-1]


def test_time_left_is_shown():
    line = run(io.StringIO(), total=10, chunk=1, enabled=True).splitlines()[0]
    assert "<00:00" in line


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_can_be_turned_off(stream):
    assert run(stream(), enabled=False) == ""


def test_is_off_by_default_where_nobody_watches():
    assert run(io.StringIO()) == ""


def test_writes_to_standard_error_by_default(capsys):
    with Progress(2, label="fit", enabled=True) as progress:
        progress.update(2, loss=1.0)
    captured = capsys.readouterr()
    assert "loss=1" in captured.err
    assert captured.out == ""


def test_an_interrupted_loop_closes_its_line():
    stream = Terminal()

    def interrupted():
        with Progress(10, label="fit", stream=stream) as progress:
            progress.update(3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stream.getvalue().endswith("\n")
    assert "3/10" in stream.getvalue()
