"""A signal during a push is noted at once, and told where it can be borne."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import duckdb
import pytest

from venice.errors import InvalidRequest
from venice.push.interrupts import interrupts

BOTH = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def _usual_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in BOTH}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", BOTH, ids=lambda number: number.name)
def test_a_signal_raises_at_the_next_check_and_not_before(number: signal.Signals) -> None:
    reached = False
    with pytest.raises(KeyboardInterrupt), interrupts() as signals:
        signals.check()
        os.kill(os.getpid(), number)
        assert signals.wanted
        reached = True
        signals.check()
    assert reached


def test_a_second_signal_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the second signal was to raise")


def test_what_a_signal_breaks_leaves_as_keyboard_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        raise InvalidRequest("the query was interrupted")
    assert isinstance(caught.value.__cause__, InvalidRequest)


def test_without_a_signal_errors_are_what_they_are() -> None:
    with pytest.raises(InvalidRequest), interrupts():
        raise InvalidRequest("no")


def test_a_signal_wakes_duckdb_up() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts() as signals, duckdb.connect() as connection:
        signals.watch(connection)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        connection.execute("SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range % 7 = 3").fetchall()


def test_handlers_are_put_back_and_those_of_a_program_are_left_alone() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    ours = signal.getsignal(signal.SIGTERM)
    with interrupts() as signals:
        assert signal.getsignal(signal.SIGTERM) is ours
        os.kill(os.getpid(), signal.SIGTERM)
        assert (heard, signals.wanted) == ([signal.SIGTERM], False)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_another_thread_signals_are_none_of_its_business() -> None:
    def work() -> None:
        with interrupts() as signals:
            assert not signals.wanted

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
