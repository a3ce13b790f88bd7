"""Notices on their way: from a signed webhook over the broker into Redis, and nobody is answered."""

from __future__ import annotations

from chatbot.store.client import connect
from chatbot.store.notices import Notices
from tests.payloads import FIXTURES, body_of
from tests.servers import wait_until
from tests.system import System

#: The number of ours that the fixture is about.
NUMBER = "100000000000001"


def test_what_an_operator_must_hear_of_is_kept_and_listed(tmp_path, rabbitmq, redis_server):
    with System(tmp_path, rabbitmq, redis_server, None, whatsapp_phone_number_id=NUMBER) as system:
        system.start("web", "sender")
        client = connect(system.env["CHATBOT_REDIS_URL"])
        kept = Notices(client).kept
        for _ in range(2):  # WhatsApp delivers again what it thinks we did not get
            answer = system.post_body(body_of(FIXTURES / "notices.json"))
            assert (answer.status_code, answer.json()) == (200, {"messages": 0, "statuses": 0, "refused": 0})
        wait_until(lambda: len(kept()) == 16, seconds=30, what="16 notices")
        wait_until(lambda: system.waiting("send") == 0, seconds=30, what="nothing left to note")
        assert len(kept()) == 16, "what came twice is one notice"
        staff = next(notice for notice in kept() if notice.message_id == "wamid.staff")
        assert (staff.user, staff.text) == ("5511999990001", "Aqui é o João")
        assert system.store_counts() == {"notice.critical": 1, "notice.warning": 3, "notice.info": 12}
        log = system.processes["sender"].output()
        assert log.count("notice.received") == 16
        assert "5511999990001" not in log
        assert "João" not in log
        assert not system.user_queues()
        client.close()
