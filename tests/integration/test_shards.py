"""Two brokers, each with a worker and a sender of its own; one web, one Redis."""

from __future__ import annotations

import pytest

from chatbot.broker.sharding import choose, name_of
from tests.servers import RabbitMQ, wait_until
from tests.system import System

USERS = [f"55119{n:08}" for n in range(40)]
EACH = 5


@pytest.fixture
def second(tmp_path):
    broker = RabbitMQ(tmp_path / "second")
    broker.start()
    yield broker
    broker.close()


def test_users_are_served_by_the_broker_of_theirs_and_one_that_is_down_costs_no_other(
    tmp_path, rabbitmq, second, redis_server
):
    vhost = second.add_vhost()
    there = second.url.removesuffix("/") + vhost

    def env_of(name):
        shards = {"CHATBOT_BROKER_SHARDS": f"{there},{system.env['CHATBOT_BROKER_URL']}"}
        return shards | ({"CHATBOT_BROKER_URL": there} if name.endswith(".2") else {})

    with System(tmp_path, rabbitmq, redis_server, None, llm_model="offline", env_of=env_of) as system:
        here = system.env["CHATBOT_BROKER_URL"]
        names = {name_of(url): url for url in (here, there)}
        theirs = [user for user in USERS if names[choose(user, names)] == there]
        ours = [user for user in USERS if user not in theirs]
        assert len(theirs) > 5
        assert len(ours) > 5
        system.start("web", "worker.1", "sender.1", "beat.1", "worker.2", "sender.2", "beat.2")
        for n in range(EACH):
            for first in range(0, len(USERS), 8):
                messages = [(user, f"wamid.{user}.{n}", f"texto {n}") for user in USERS[first : first + 8]]
                assert system.post(*messages).status_code == 200
        for user in USERS:
            said = system.wait_replies(user, EACH)
            assert len(said) == EACH
            assert [f"texto {n}" in reply for n, reply in enumerate(said)] == [True] * EACH
        queues = {f"chat.{user}" for user in USERS}
        assert queues & set(rabbitmq.queues(system.vhost)) == {f"chat.{user}" for user in ours}
        assert queues & set(second.queues(vhost)) == {f"chat.{user}" for user in theirs}

        second.kill()
        both = (theirs[0], "wamid.down", "alguém aí?"), (ours[0], "wamid.up", "e aqui?")
        assert system.post(*both).status_code == 503
        assert "e aqui?" in system.wait_replies(ours[0], EACH + 1)[-1]
        second.start()
        wait_until(lambda: system.post(*both).status_code == 200, what="the second is back")
        assert "alguém aí?" in system.wait_replies(theirs[0], EACH + 1)[-1]
        assert [len(system.replies(user)) for user in (theirs[0], ours[0])] == [EACH + 1, EACH + 1]
