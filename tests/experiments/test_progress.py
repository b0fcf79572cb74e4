"""Progress where there is no terminal, and where there is one."""

import contextlib
import io
import re

import pytest

from experiments import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_the_rate_counts_what_this_process_did(clock):
    reporter = progress.Reporter(total=100, done=40)
    clock[0] += 4.0
    reporter.advance(60, "")
    assert reporter.rate == 20 / 4.0


def test_into_a_pipe_goes_a_line_now_and_then_and_one_at_the_end(clock, capsys):
    reporter = progress.Reporter(total=100, done=0)
    for step in range(1, 101):
        clock[0] += 0.13
        reporter.advance(step, f"loss {step}")
    reporter.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["39/100", "78/100", "100/100"]  # every 5 s at 0.13 s each
    assert lines[0].endswith("loss 39")


def test_a_line_gives_rate_and_time_left(clock, capsys):
    reporter = progress.Reporter(total=100, done=0)
    clock[0] += 6.0
    reporter.advance(60, "")
    assert re.search(r"60/100 updates, 10 updates/s, 4 s left", capsys.readouterr().out)


class Terminal(io.StringIO):
    """A terminal that remembers what was written."""

    def isatty(self):
        return True


def test_on_a_terminal_there_is_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(progress.sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    reporter = progress.Reporter(total=100, done=0)
    reporter.advance(100, "return 500")
    reporter.close()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "100/100" in shown
    assert "updates/s" in shown
    assert "return 500" in shown


def test_say_prints_at_once():
    class Pipe(io.StringIO):
        flushed = False

        def flush(self):
            self.flushed = True

    with contextlib.redirect_stdout(Pipe()) as pipe:
        progress.say("result", "score 500")
    assert pipe.flushed
    assert pipe.getvalue().split() == ["result", "score", "500"]
