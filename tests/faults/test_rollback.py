"""What a Redis that is set back forgets: no more and no less than is said."""

from __future__ import annotations

import redis

from tests.faults.rollback import Forgotten, cut, forgotten, mark
from tests.servers import Redis

A_TURN = """
redis.call('HSET', KEYS[1], 'turns', ARGV[1])
redis.call('SET', KEYS[2], 'a turn', 'EX', '1000')
"""


def keys(message):
    return "chatbot:{5511%2E1}:conversation", f"chatbot:{{5511%2E1}}:turn:{message}"


def test_redis_comes_back_as_it_was_and_what_it_forgot_is_said(tmp_path):
    server = Redis(tmp_path / "redis").start()
    try:
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            client.eval(A_TURN, 2, *keys("first"), 1)
            before = mark(server.folder)
            client.eval(A_TURN, 2, *keys("second"), 2)
            client.hset(keys("")[0], mapping={"calling": "1:0", "calling_at": "1"})
            client.hincrby("chatbot:counts", "unknown_resent", 2)
        server.kill()
        lost = cut(before)
        server.start()
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            assert client.hgetall(keys("")[0]) == {"turns": "1"}
            assert client.exists(keys("first")[1])
            assert not client.exists(keys("second")[1])
    finally:
        server.close()
    user = "5511.1"
    assert lost == Forgotten(frozenset({"second"}), frozenset({(user, 2)}), frozenset({(user, 1)}), resent=2)


def test_a_transaction_is_kept_or_forgotten_as_one(tmp_path):
    """A file may be looked at while half of a transaction is written."""
    server = Redis(tmp_path / "redis").start()
    try:
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            client.set("kept", 1)
            before = mark(server.folder)
            client.eval(A_TURN, 2, *keys("second"), 2)
        server.kill()
        half = type(before)(before.file, before.file.read_bytes().index(b"a turn"))
        assert cut(half) == Forgotten(frozenset({"second"}), frozenset({("5511.1", 2)}))
        server.start()
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            assert client.keys() == ["kept"]
    finally:
        server.close()


def test_what_two_of_them_forgot_is_told_together():
    one = forgotten([["SET", keys("a")[1], "x"]])
    other = forgotten([["HSET", keys("")[0], "delivered", "3"]])
    assert one | other == Forgotten(frozenset({"a"}), sends=frozenset({("5511.1", 3)}))
