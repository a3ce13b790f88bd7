"""Several threads' writes, made by one of them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from chatbot.broker.group_commit import GroupCommit
from tests.servers import wait_until


class Writes:
    """Keeps what is written; a write that begins while it is ``held`` waits."""

    def __init__(self):
        self.groups, self.threads = [], []
        self.most_at_once, self._at_once = 0, 0
        self._lock, self._may_go = threading.Lock(), threading.Event()
        self._may_go.set()
        self.group = GroupCommit(self._write)

    def _write(self, items):
        with self._lock:
            self.groups.append(items)
            self.threads.append(threading.current_thread())
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        assert self._may_go.wait(30)
        with self._lock:
            self._at_once -= 1
        if "bad" in items:
            raise ValueError(items)

    @contextmanager
    def held(self):
        self._may_go.clear()
        yield
        self._may_go.set()

    def come(self, pool, *items):
        """Have a thread commit each, in this order; return the futures."""
        futures = []
        for item in items:
            before = self.waiting + len(self.groups)
            futures.append(pool.submit(self.group.commit, item))
            wait_until(lambda before=before: self.waiting + len(self.groups) > before, what=f"{item} is in")
        return futures

    @property
    def waiting(self):
        return len(self.group._waiting)


def test_a_call_that_is_alone_writes_at_once_in_its_own_thread():
    writes = Writes()
    for item in "ab":
        writes.group.commit(item)
    assert writes.groups == [["a"], ["b"]]
    assert set(writes.threads) == {threading.current_thread()}


def test_who_comes_during_a_write_is_written_together_in_the_order_they_came():
    writes = Writes()
    with ThreadPoolExecutor(4) as pool:
        with writes.held():
            calls = writes.come(pool, "a", "b", "c", "d")
            assert not any(call.done() for call in calls), "none returns before its item is written"
        for call in calls:
            call.result(30)
    assert writes.groups == [["a"], ["b", "c", "d"]]


def test_an_error_is_its_leaders_and_keeps_nobody_waiting():
    writes = Writes()
    with ThreadPoolExecutor(4) as pool:
        with writes.held():
            calls = writes.come(pool, "a", "b", "bad")
        with pytest.raises(ValueError, match="bad"):
            calls[1].result(30)
        calls[0].result(30)
        calls[2].result(30)
        writes.group.commit("after")
    assert writes.groups == [["a"], ["b", "bad"], ["after"]]


def test_every_item_of_many_threads_is_written_once():
    writes = Writes()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(writes.group.commit, range(2000)))
    assert sorted(item for group in writes.groups for item in group) == list(range(2000))
    assert writes.most_at_once == 1
    writes.group.commit("after")
