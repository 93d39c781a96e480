"""Work that two threads share."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event, get_ident

import pytest

from services.passive.detectors._copy_move.sharing import offered, shared


@pytest.fixture
def second():
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
def busy(second):
    """Keeps the second thread busy until it is set."""
    done = Event()
    second.submit(done.wait)
    yield done
    done.set()


def test_what_the_busy_thread_has_not_begun_is_done_here(second, busy):
    where = offered(second, get_ident)
    assert where() == get_ident()
    assert list(shared(second, lambda item: (item, get_ident()), [1, 2, 3])) == [(i, get_ident()) for i in (1, 2, 3)]


def test_what_the_free_thread_has_begun_is_done_there_and_only_once(second):
    begun, times = Event(), []

    def work():
        times.append(get_ident())
        begun.set()
        return "done"

    result = offered(second, work)
    begun.wait()
    assert result() == "done"
    assert len(times) == 1
    assert times[0] != get_ident()


def test_each_thread_begins_at_its_own_end_and_results_keep_their_order(second):
    # The second thread begins with the last item and holds it until this one has come to the first.
    first_begun, last_begun, here = Event(), Event(), {}

    def work(item):
        here[item] = get_ident()
        if item == 3:
            last_begun.set()
            first_begun.wait()
        elif item == 0:
            last_begun.wait()
            first_begun.set()
        return 10 * item

    results = shared(second, work, [0, 1, 2, 3])
    last_begun.wait()
    assert list(results) == [0, 10, 20, 30]
    assert here[0] == get_ident()
    assert here[3] != get_ident()


def test_an_error_of_either_thread_is_raised(second, busy):
    def fails(item):
        raise ValueError(item)

    with pytest.raises(ValueError, match="1"):
        list(shared(second, fails, [1, 2]))
    busy.set()
    begun = Event()
    there = offered(second, lambda: (begun.set(), fails("there")))
    begun.wait()
    with pytest.raises(ValueError, match="there"):
        there()
