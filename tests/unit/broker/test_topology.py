"""Names on the broker: one user, one name, and none that means something else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.broker import topology

users = st.text(min_size=1, max_size=15).filter(lambda t: all(not 0xD800 <= ord(c) <= 0xDFFF for c in t))


@given(users)
def test_a_name_holds_no_routing_characters_and_comes_back(user):
    name = topology.queue_name(user)
    key = name.removeprefix("chat.")
    assert name.startswith("chat.")
    assert not set(key) & set(".*# ")
    assert topology.user_of(name) == user


@given(users, users)
def test_two_users_never_share_a_queue(one, other):
    assert (topology.queue_name(one) == topology.queue_name(other)) == (one == other)


@pytest.mark.parametrize("user", ["open", "dead"])
def test_names_the_topology_keeps_for_itself_are_not_given_away(user):
    assert topology.queue_name(user) not in {topology.OPEN, topology.DEAD_QUEUE.name}
    assert topology.user_of(topology.queue_name(user)) == user


@pytest.mark.parametrize("user", ["", "x" * 201, "é" * 100])
def test_an_unusable_user_is_refused(user):
    with pytest.raises(ValueError, match="1 to 200"):
        topology.queue_name(user)


def test_a_phone_number_stays_readable():
    assert topology.queue_name("5511999990001") == "chat.5511999990001"
