"""What the webhook makes of one POST, with the broker played by a list."""

from __future__ import annotations

import json

import pytest

from chatbot import texts
from chatbot.app import Chatbot
from chatbot.config import Settings
from chatbot.errors import QueueFull
from chatbot.web.webhook import NOBODY, create_app
from tests.payloads import FIXTURES, body_of
from tests.system import APP_SECRET, sign


class Router:
    """Keeps what is published; the queue of ``full`` is full."""

    def __init__(self):
        self.routed, self.buried, self.told, self.notices = [], [], [], []
        self.full = ""

    def deadline(self):
        return 0.0

    def route_all(self, messages, *, deadline):
        self.routed += [message.id for message in messages if message.user != self.full]
        return [(message, QueueFull("the user's queue is full")) for message in messages if message.user == self.full]

    def note_all(self, notices, *, deadline):
        self.notices += notices

    def report_all(self, statuses, *, deadline):
        pass

    def bury(self, message, reason, *, deadline):
        self.buried.append((message.id, reason))

    def notify(self, message, what, text, *, deadline):
        self.told.append((message.user, what, text))


@pytest.fixture
def router():
    return Router()


@pytest.fixture
def client(router):
    settings = Settings(
        _env_file=None, env="test", broker_url="memory://", whatsapp_app_secret=APP_SECRET, whatsapp_phone_number_id="1"
    )
    bot = Chatbot(settings)
    bot.router = router
    return create_app(bot).test_client()


@pytest.fixture
def post(client):
    def post(*messages):
        return post_items(
            {"from": user, "id": id_, "type": "text", "text": {"body": "oi"}, **({"timestamp": at} if at else {})}
            for user, id_, at in messages
        )

    def post_items(messages):
        items = list(messages)
        value = {"metadata": {"phone_number_id": "1"}, "messages": items}
        body = json.dumps({"entry": [{"changes": [{"field": "messages", "value": value}]}]}).encode()
        answer = client.post("/webhook/whatsapp", data=body, headers={"X-Hub-Signature-256": sign(body)})
        assert answer.status_code == 200
        return answer.json

    post.items = post_items
    return post


def test_a_shuffled_batch_is_put_in_the_order_it_was_written(post, router):
    post(("1", "c", "1700000003"), ("2", "x", "1700000002"), ("1", "a", "1700000001"), ("1", "b", "1700000001"))
    assert router.routed == ["a", "b", "x", "c"], "within one second as they came"


def test_a_batch_that_says_no_times_stays_as_it_came(post, router):
    post(("1", "c", "1700000003"), ("1", "a", ""), ("1", "b", "1700000001"))
    assert router.routed == ["c", "a", "b"]


def test_what_does_not_fit_is_kept_and_its_user_is_told(post, router):
    router.full = "5511988887777"
    counts = post((router.full, "m1", "1700000001"), ("5511988886666", "m2", "1700000001"))
    assert counts == {"messages": 2, "statuses": 0, "refused": 1}
    assert router.routed == ["m2"]
    assert router.buried == [("m1", "the user's queue is full")]
    assert router.told == [(router.full, "too_many", texts.TOO_MANY["pt"])]


def test_what_starts_no_turn_is_counted_and_not_routed(post, router):
    text = {"type": "text", "text": {"body": "oi"}}
    moved = {"wa_id": "2", "type": "user_changed_number"}
    counts = post.items([
        {"from": "1", "id": "reaction", "type": "reaction", "reaction": {"message_id": "w", "emoji": "👍"}},
        {"from": "1", "id": "group", "group_id": "g", **text},
        {"id": "nobody", **text},
        {"from": "1", "id": "moved", "type": "system", "system": moved},
        {"id": "moved-nobody", "type": "system", "system": moved},
        {"from": "1", "id": "system", "type": "system", "system": {"type": "customer_identity_changed"}},
        {"from": "1", "id": "text", **text},
    ])  # fmt: skip
    assert counts == {"messages": 7, "statuses": 0, "refused": 1}
    assert router.routed == ["moved", "text"]
    assert router.buried == [("nobody", NOBODY)]


@pytest.mark.parametrize("id_", ["BR." + "9" * 247, "BR.\u0007", 7.5, ["BR.1"]])
def test_what_comes_under_a_name_that_cannot_be_used_is_kept_as_a_dead_letter(post, router, id_):
    counts = post.items([{"from_user_id": id_, "id": "m", "type": "text", "text": {"body": "oi"}}])
    assert counts == {"messages": 1, "statuses": 0, "refused": 1}
    assert (router.routed, router.buried) == ([], [("m", NOBODY)])


def test_notices_are_passed_on_with_their_person_named(client, router):
    body = body_of(FIXTURES / "notices.json")
    answer = client.post("/webhook/whatsapp", data=body, headers={"X-Hub-Signature-256": sign(body)})
    assert (answer.status_code, router.routed) == (200, [])
    staff = next(notice for notice in router.notices if notice.message_id == "wamid.staff")
    assert staff.user == "5511999990001@100000000000001", "this number is not the one at home here"
    assert router.notices[0].user == ""
    assert len(router.notices) == 16


@pytest.mark.parametrize(("simulator", "status"), [(True, 302), (False, 404)])
def test_the_root_leads_to_the_simulator_where_there_is_one(simulator, status):
    bot = Chatbot(Settings(_env_file=None, env="test", broker_url="memory://", simulator=simulator))
    answer = create_app(bot).test_client().get("/")
    assert (answer.status_code, answer.headers.get("Location")) == (status, "/simulator" if simulator else None)
    bot.simulator.close()
