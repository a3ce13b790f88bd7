"""The simulator over real HTTP, with a tiny business that checks the signature itself."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from flask import Flask, Response, request
from werkzeug.serving import make_server

from chatbot.channels.cloud import payload as cloud_payload
from chatbot.channels.cloud.channel import WhatsApp
from chatbot.messages import Media, Message
from chatbot.simulator import files as simulator_files
from chatbot.simulator import state as simulator_state
from chatbot.simulator.graph import Refused
from chatbot.simulator.rates import RateLimiter, Rates
from chatbot.simulator.routes import create_app
from chatbot.simulator.simulator import Simulator
from tests.servers import wait_until

SECRET = "the app secret"
MARIA, JOAO, BSUID = "5511999990001", "5521988880002", "BR.1047385771169864"
NUMBER = "100000000000001"
AUTHORIZED = {"Authorization": "Bearer any token"}


@contextmanager
def serving(app: Flask) -> Iterator[str]:
    """Serve an app on a free port of the loopback; yields its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()


class Business:
    """A business that answers every message with its echo, as ours would."""

    def __init__(self) -> None:
        self.graph = ""
        self.answers = 200
        self.talks = True
        self.bodies: list[dict[str, Any]] = []
        self.app = Flask("business")
        self.app.post("/webhook")(self.receive)

    def receive(self) -> Response:
        body = request.get_data()
        expected = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, request.headers.get("X-Hub-Signature-256", "")):
            return Response(status=401)
        if self.answers != 200:
            return Response(status=self.answers)
        self.bodies.append(json.loads(body))
        for message in self.values("messages")[-1:] if self.talks else []:
            self.answer(message)
        return Response(status=200)

    def answer(self, message: dict[str, Any]) -> None:
        """Read, type, and echo what the last webhook said."""
        if message is not self.last("messages"):
            return
        seen = {"messaging_product": "whatsapp", "status": "read", "message_id": message["id"]}
        assert self.call({**seen, "typing_indicator": {"type": "text"}}).json() == {"success": True}
        to = {"to": message["from"]} if "from" in message else {"recipient": message["from_user_id"]}
        self.send(f"eco: {message['text']['body']}", callback=message["id"], **to)

    def send(self, text: str, *, callback: str = "", **to: str) -> httpx.Response:
        body = {"messaging_product": "whatsapp", "type": "text", "text": {"body": text}, **to}
        return self.call({**body, "biz_opaque_callback_data": callback})

    def call(self, body: Any, *, headers: dict[str, str] = AUTHORIZED, timeout: float = 10) -> httpx.Response:
        return httpx.post(f"{self.graph}/{NUMBER}/messages", json=body, headers=headers, timeout=timeout)

    def values(self, field: str) -> list[dict[str, Any]]:
        """Return every message, contact or status the webhook got."""
        return [
            value
            for body in self.bodies
            for entry in body["entry"]
            for change in entry["changes"]
            for value in change["value"].get(field, [])
        ]

    def last(self, field: str) -> dict[str, Any] | None:
        """Return the last webhook's own first value, if it has one."""
        return next(iter(self.bodies[-1]["entry"][0]["changes"][0]["value"].get(field, [])), None)

    def statuses(self, message_id: str) -> list[str]:
        return [s["status"] for s in self.values("statuses") if s["id"] == message_id]


class Desk:
    """One simulator, its address, and the business it talks to."""

    def __init__(self, url: str, simulator: Simulator, business: Business) -> None:
        self.url, self.simulator, self.business = f"{url}/simulator", simulator, business

    def say(self, text: str, user: str = MARIA, **more: Any) -> dict[str, Any]:
        said: dict[str, Any] = self.post("/say", {"from": user, "name": "Maria", "text": text, **more})
        return said

    def post(self, path: str, body: Any) -> Any:
        return httpx.post(self.url + path, json=body, timeout=30).raise_for_status().json()

    def get(self, path: str, **params: str) -> Any:
        return httpx.get(self.url + path, params=params).raise_for_status().json()

    def sent(self, **params: str) -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = self.get("/sent", **params)
        return sent

    def conversation(self, user: str = MARIA) -> dict[str, Any]:
        conversation: dict[str, Any] = self.get("/conversations", users=user)["conversations"][user]
        return conversation

    def bubbles(self, user: str = MARIA) -> list[dict[str, Any]]:
        bubbles: list[dict[str, Any]] = self.conversation(user)["messages"]
        return bubbles

    @contextmanager
    def events(self, **params: str) -> Iterator[Iterator[dict[str, Any]]]:
        with httpx.stream("GET", f"{self.url}/events", params=params, timeout=10) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "retry: 250"  # from here on the phones count as looked at
            yield (json.loads(line[6:]) for line in lines if line.startswith("data: "))


@pytest.fixture
def desk() -> Iterator[Desk]:
    """A simulator and a business, each on a real server."""
    business = Business()
    with serving(business.app) as business_url:
        simulator = Simulator(webhook_url=f"{business_url}/webhook", app_secret=SECRET)
        simulator.start()
        with serving(create_app(simulator)) as url:
            business.graph = f"{url}/simulator/graph/v26.0"
            yield Desk(url, simulator, business)
            simulator.close()


def test_what_is_said_arrives_signed_and_the_reply_is_kept(desk: Desk) -> None:
    said = desk.say("olá *João* ☕")
    assert said["status"] == 200
    [message] = desk.business.values("messages")
    assert message["id"] == said["id"][0]
    assert message["from"] == MARIA
    assert message["text"] == {"body": "olá *João* ☕"}
    assert message["timestamp"].isdigit()
    [contact] = desk.business.values("contacts")
    assert contact == {"profile": {"name": "Maria"}, "wa_id": MARIA}
    [reply] = desk.sent(to=MARIA)
    assert reply["text"] == "eco: olá *João* ☕"
    assert reply["to"] == MARIA
    assert reply["callback"] == message["id"]
    assert isinstance(reply["time"], float)
    assert desk.sent(to=JOAO) == []
    assert desk.sent() == [reply]


def test_statuses_come_back_in_order_with_the_callback(desk: Desk) -> None:
    desk.say("oi")
    [reply] = desk.sent(to=MARIA)
    wait_until(lambda: desk.business.statuses(reply["id"]) == ["sent", "delivered"])
    [sent, _] = desk.business.values("statuses")
    assert sent["recipient_id"] == MARIA
    assert sent["biz_opaque_callback_data"] == reply["callback"]


def test_a_phone_somebody_looks_at_reports_read(desk: Desk) -> None:
    before = desk.business.send("cedo", to=MARIA).json()["messages"][0]["id"]
    with desk.events(since="0", users=MARIA, shown=MARIA):
        wait_until(lambda: desk.business.statuses(before) == ["sent", "delivered", "read"])
        during = desk.business.send("agora", to=MARIA).json()["messages"][0]["id"]
        wait_until(lambda: desk.business.statuses(during) == ["sent", "delivered", "read"])


def test_reading_marks_that_message_and_all_before_it(desk: Desk) -> None:
    desk.business.talks = False
    ids = [desk.say(text)["id"][0] for text in ("um", "dois", "três")]
    desk.business.call({"messaging_product": "whatsapp", "status": "read", "message_id": ids[1]})
    assert [bubble["state"] for bubble in desk.bubbles()] == ["read", "read", "delivered"]


def test_typing_lasts_until_the_next_message(desk: Desk) -> None:
    desk.business.talks = False
    message_id = desk.say("oi")["id"][0]
    seen = {"messaging_product": "whatsapp", "status": "read", "message_id": message_id}
    desk.business.call({**seen, "typing_indicator": {"type": "text"}})
    assert 0 < desk.conversation()["typing"] <= 25
    desk.business.send("pronto", to=MARIA)
    assert desk.conversation()["typing"] == 0


def test_a_batch_is_one_webhook(desk: Desk) -> None:
    desk.business.talks = False
    messages = [
        {"from": MARIA, "name": "Maria", "text": "um", "id": "wamid.1"},
        {"from": JOAO, "name": "João", "text": "dois"},
        {"from": BSUID, "name": "Ana", "text": "três"},
    ]
    said = desk.post("/say", {"messages": messages})
    assert said["id"][0] == "wamid.1"
    assert len(desk.business.bodies) == 1
    assert [m["text"]["body"] for m in desk.business.values("messages")] == ["um", "dois", "três"]
    assert desk.business.values("contacts")[2]["user_id"] == BSUID


def test_a_person_without_a_number_is_answered_by_user_id(desk: Desk) -> None:
    desk.say("oi", user=BSUID)
    [message] = desk.business.values("messages")
    assert "from" not in message
    [reply] = desk.sent(to=BSUID)
    wait_until(lambda: len(desk.business.values("statuses")) == 2)
    assert desk.business.values("statuses")[0]["recipient_user_id"] == BSUID
    assert reply["text"] == "eco: oi"


def test_a_refused_webhook_shows_and_the_same_id_can_be_said_again(desk: Desk) -> None:
    desk.business.answers = 503
    assert desk.say("oi", id="wamid.again") == {"id": ["wamid.again"], "status": 503}
    assert [bubble["state"] for bubble in desk.bubbles()] == ["failed"]
    desk.business.answers = 200
    assert desk.say("oi", id="wamid.again")["status"] == 200
    assert [bubble["state"] for bubble in desk.bubbles()] == ["read", "delivered"]


def test_a_webhook_that_is_away_has_status_0() -> None:
    simulator = Simulator(webhook_url="http://127.0.0.1:1/webhook", app_secret=SECRET)
    client = create_app(simulator).test_client()
    said = client.post("/simulator/say", json={"from": MARIA, "name": "Maria", "text": "oi"}).get_json()
    assert said["status"] == 0
    simulator.close()


def test_a_status_is_posted_again_until_it_is_taken(desk: Desk) -> None:
    desk.business.answers = 503
    message_id = desk.business.send("oi", to=MARIA).json()["messages"][0]["id"]
    desk.business.answers = 200
    wait_until(lambda: desk.business.statuses(message_id) == ["sent", "delivered"])


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"text": {"body": "x" * 4097}}, 400, 100),
        ({"text": {}}, 400, 100),
        ({"text": {"body": "  "}}, 400, 100),
        ({"to": ""}, 400, 100),
        ({"messaging_product": "telegram"}, 400, 100),
        ({"type": "hologram"}, 400, 131051),
        ({"status": "played"}, 400, 100),
        ({"status": "read"}, 400, 100),
    ],
)
def test_calls_are_validated_as_meta_does(desk: Desk, change: dict[str, Any], status: int, code: int) -> None:
    body = {"messaging_product": "whatsapp", "to": MARIA, "type": "text", "text": {"body": "oi"}}
    refused = desk.business.call({**body, **change})
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
    assert refused.json()["error"]["fbtrace_id"]
    assert desk.sent() == []
    assert desk.get("/calls")[0]["outcome"] == "refused"


def interactive(kind: str, *titles: str, **more: Any) -> dict[str, Any]:
    offers = [{"id": str(n), "title": title} for n, title in enumerate(titles)]
    action: dict[str, Any] = {"buttons": [{"type": "reply", "reply": offer} for offer in offers]}
    if kind == "list":
        action = {"button": "Ver", "sections": [{"rows": offers}]}
    return {
        "messaging_product": "whatsapp", "to": MARIA, "type": "interactive",
        "interactive": {"type": kind, "body": {"text": "Qual?"}, "action": action, **more},
    }  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        interactive("button"),
        interactive("button", "a", "b", "c", "d"),
        interactive("button", "x" * 21),
        interactive("button", "a", "a"),
        interactive("list", *map(str, range(11))),
        interactive("list", "x" * 25),
        interactive("carousel", "a"),
        interactive("button", "a", body={"text": "x" * 1025}),
        {"messaging_product": "whatsapp", "to": MARIA, "type": "template", "template": {"name": "x"}},
    ],
)
def test_interactive_messages_are_validated_as_meta_does(desk: Desk, wrong: dict[str, Any]) -> None:
    assert desk.business.call(wrong).json()["error"]["code"] == 100


def test_choices_are_shown_and_a_tap_on_one_is_a_button_reply(desk: Desk) -> None:
    assert desk.business.call(interactive("button", "Sim", "Não")).status_code == 200
    assert desk.business.call(interactive("list", *map(str, range(10)))).status_code == 200
    assert [sent["choices"] for sent in desk.get("/sent")] == [["Sim", "Não"], [str(n) for n in range(10)]]
    desk.business.talks = False
    desk.say("Sim", choice=True)
    [message] = desk.business.values("messages")
    assert message["interactive"] == {"type": "button_reply", "button_reply": {"id": "Sim", "title": "Sim"}}


def test_a_template_shows_as_its_name(desk: Desk) -> None:
    template = {"name": "retorno", "language": {"code": "pt_BR"}}
    body = {"messaging_product": "whatsapp", "to": MARIA, "type": "template", "template": template}
    assert desk.business.call(body).status_code == 200
    assert [sent["text"] for sent in desk.get("/sent")] == ["[retorno]"]


def test_the_stand_in_takes_messages_no_faster_than_meta() -> None:
    now = [0.0]
    limiter = RateLimiter(clock=lambda: now[0])
    limiter.take("ana")
    limiter.set(Rates(per_second=3, pair_seconds=6, pair_burst=2))

    def code(to: str) -> int:
        try:
            limiter.take(to)
        except Refused as refused:
            return refused.code
        return 0

    assert [code("ana") for _ in range(3)] == [0, 0, 131056], "a burst of two"
    assert [code("bia"), code("caio")] == [0, 130429], "three in a second"
    now[0] = 5.9
    assert code("ana") == 131056
    now[0] = 6.1
    assert [code("ana"), code("ana")] == [0, 131056]


def test_rates_are_kept_only_when_asked_for(desk: Desk) -> None:
    assert desk.get("/rates") is None
    desk.post("/rates", {"pair_burst": 1})
    body = {"messaging_product": "whatsapp", "to": MARIA, "type": "text", "text": {"body": "oi"}}
    codes = [desk.business.call(body).json().get("error", {}).get("code") for _ in range(2)]
    assert codes == [None, 131056]
    assert len(desk.get("/sent")) == 1


def test_the_longest_text_is_accepted(desk: Desk) -> None:
    accepted = desk.business.send("x" * 4096, to=f"+{MARIA}").json()
    assert accepted["contacts"] == [{"input": MARIA, "wa_id": MARIA}]


def test_a_call_needs_a_bearer_token_and_our_number(desk: Desk) -> None:
    body = {"messaging_product": "whatsapp", "to": MARIA, "text": {"body": "oi"}}
    for headers in ({}, {"Authorization": "Basic abc"}, {"Authorization": "Bearer"}):
        refused = desk.business.call(body, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, 190)
    other = httpx.post(f"{desk.business.graph}/999/messages", json=body, headers=AUTHORIZED)
    assert (other.status_code, other.json()["error"]["code"]) == (400, 100)


class TestFaults:
    def test_an_error_is_answered_as_often_as_scripted_and_only_to_that_user(self, desk: Desk) -> None:
        fault = {"to": MARIA, "times": 2, "kind": "error", "status": 429, "code": 131056, "retry_after": 6}
        assert desk.post("/faults", fault)[0]["times"] == 2
        assert desk.business.send("oi", to=JOAO).status_code == 200
        for _ in range(2):
            refused = desk.business.send("oi", to=MARIA)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, 131056)
            assert refused.headers["Retry-After"] == "6"
        assert desk.get("/faults") == []
        assert desk.business.send("oi", to=MARIA).status_code == 200
        assert [call["outcome"] for call in desk.get("/calls", to=MARIA)] == [
            "refused",
            "refused",
            "accepted",
        ]

    def test_a_timeout_is_not_sent(self, desk: Desk) -> None:
        desk.post("/faults", [{"to": None, "kind": "timeout", "delay": 30}])
        with pytest.raises(httpx.ReadTimeout):
            desk.business.call({"messaging_product": "whatsapp", "to": MARIA, "text": {"body": "oi"}}, timeout=0.2)
        assert desk.sent() == []
        assert desk.get("/faults") == []

    def test_a_dropped_answer_is_sent_and_reported(self, desk: Desk) -> None:
        desk.post("/faults", {"kind": "drop_answer"})
        with pytest.raises(httpx.RemoteProtocolError):
            desk.business.send("oi", callback="turn 1", to=MARIA)
        [sent] = desk.sent(to=MARIA)
        wait_until(lambda: desk.business.statuses(sent["id"]) == ["sent", "delivered"])
        assert desk.business.values("statuses")[0]["biz_opaque_callback_data"] == "turn 1"

    def test_an_error_of_a_gateway_is_sent_and_reported(self, desk: Desk) -> None:
        desk.post("/faults", {"kind": "error_after", "status": 504})
        answer = desk.business.send("oi", callback="turn 1", to=MARIA)
        assert (answer.status_code, answer.headers["Content-Type"].split(";")[0]) == (504, "text/html")
        [sent] = desk.sent(to=MARIA)
        wait_until(lambda: desk.business.statuses(sent["id"]) == ["sent", "delivered"])

    def test_statuses_are_posted_twice(self, desk: Desk) -> None:
        desk.post("/faults", {"kind": "duplicate_status"})
        message_id = desk.business.send("oi", to=MARIA).json()["messages"][0]["id"]
        wait_until(lambda: desk.business.statuses(message_id) == ["sent", "sent", "delivered", "delivered"])

    def test_statuses_are_kept_back(self, desk: Desk) -> None:
        desk.post("/faults", {"kind": "no_status"})
        silent = desk.business.send("oi", to=MARIA).json()["messages"][0]["id"]
        loud = desk.business.send("oi", to=MARIA).json()["messages"][0]["id"]
        wait_until(lambda: desk.business.statuses(loud) == ["sent", "delivered"])
        assert desk.business.statuses(silent) == []

    def test_they_can_be_cleared(self, desk: Desk) -> None:
        desk.post("/faults", {"kind": "error", "times": 5})
        assert httpx.delete(f"{desk.url}/faults").json() == []
        assert desk.business.send("oi", to=MARIA).status_code == 200

    @pytest.mark.parametrize(
        "wrong", [{"kind": "nova"}, {"kind": "error", "when": 1}, {"kind": "error", "times": "2"}, 3]
    )
    def test_nonsense_is_refused(self, desk: Desk, wrong: Any) -> None:
        refused = httpx.post(f"{desk.url}/faults", json=wrong)
        assert refused.status_code == 400
        assert refused.json()["error"]


def test_events_are_numbered_and_can_be_picked_up_again(desk: Desk) -> None:
    before = desk.get("/conversations", users=MARIA)["last"]
    desk.say("oi")
    with desk.events(since=str(before), users=MARIA) as events:
        seen = [next(events) for _ in range(4)]
    assert [event["kind"] for event in seen] == ["message", "status", "typing", "message"]
    assert [event["number"] for event in seen] == list(range(before + 1, before + 5))
    assert (seen[1]["state"], seen[3]["side"]) == ("read", "in")
    with desk.events(since=str(seen[2]["number"]), users=MARIA) as events:
        assert next(events) == seen[3]


def test_events_of_others_are_left_out(desk: Desk) -> None:
    with desk.events(since="0", users=JOAO) as events:
        desk.business.send("para Maria", to=MARIA)
        desk.business.send("para João", to=JOAO)
        assert next(events)["text"] == "para João"


def test_a_page_that_missed_too_much_is_told_to_reload(desk: Desk) -> None:
    with desk.events(since="5") as events:
        desk.business.send("oi", to=MARIA)
        assert next(events) == {}


@pytest.mark.parametrize("since", ["all", "now"])
def test_waiting_for_events_takes_its_time(since: str) -> None:
    state = simulator_state.State()
    began = time.monotonic()
    assert state.events(state.last if since == "now" else 0, wait=0.1) == []
    assert time.monotonic() - began >= 0.1


def test_streams_end_when_the_simulator_closes(desk: Desk) -> None:
    with desk.events(since="0") as events:
        threading.Thread(target=desk.simulator.close).start()
        assert all(event == {} for event in events)


def test_everything_can_be_forgotten(desk: Desk) -> None:
    desk.say("oi")
    assert httpx.delete(f"{desk.url}/sent").status_code == 200
    assert (desk.sent(), desk.get("/calls"), desk.bubbles()) == ([], [], [])


def test_only_the_last_messages_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator_state, "MOST_KEPT", 3)
    state = simulator_state.State()
    for number in range(5):
        user = MARIA if number < 2 else JOAO
        state.send(message_id=str(number), user=user, text="oi", callback="", silent=False)
    assert [sent["id"] for sent in state.sent(None)] == ["2", "3", "4"]
    assert state.sent(MARIA) == []


@pytest.mark.parametrize(
    "body",
    [
        [], {}, {"messages": []}, {"from": "maria", "text": "oi"}, {"from": MARIA},
        {"from": MARIA, "text": " "},
    ],
)  # fmt: skip
def test_saying_nothing_or_as_nobody_is_refused(desk: Desk, body: Any) -> None:
    refused = httpx.post(f"{desk.url}/say", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]


def test_the_page_loads_nothing_from_elsewhere(desk: Desk) -> None:
    for path in ("", "/", "/.."):
        page = httpx.get(desk.url + path, follow_redirects=True)
        assert page.status_code == 200
        assert 'lang="pt-BR"' in page.text
        assert "http://" not in page.text
        assert "https://" not in page.text
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]


# -- files -----------------------------------------------------------------------

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


#: The beginning of a WebP that moves.
ANIMATED = b"RIFF\x00\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x02" + bytes(9)


def with_file(content: bytes = PICTURE, mime_type: str = "image/png", **more: Any) -> dict[str, Any]:
    return {"mime_type": mime_type, "data": base64.b64encode(content).decode(), **more}


def test_an_image_travels_as_an_id_and_is_handed_out_to_who_has_a_token(desk: Desk) -> None:
    desk.business.talks = False
    assert desk.say("veja", media=with_file())["status"] == 200
    [message] = desk.business.values("messages")
    assert (message["type"], message["image"]["caption"]) == ("image", "veja")
    assert message["image"]["sha256"] == hashlib.sha256(PICTURE).hexdigest()
    assert "text" not in message
    asked = f"{desk.business.graph}/{message['image']['id']}"
    assert httpx.get(asked).json()["error"]["code"] == 190
    about = httpx.get(asked, headers=AUTHORIZED).json()
    assert (about["file_size"], about["mime_type"]) == (len(PICTURE), "image/png")
    assert about["url"].startswith(desk.business.graph)
    assert httpx.get(about["url"]).status_code == 401
    assert httpx.get(about["url"], headers=AUTHORIZED).content == PICTURE
    assert httpx.get(f"{desk.business.graph}/1", headers=AUTHORIZED).json()["error"]["code"] == 100
    assert [bubble["text"] for bubble in desk.bubbles()] == ["📷 veja"]


def test_a_voice_note_has_no_text(desk: Desk) -> None:
    desk.business.talks = False
    voice = with_file(b"OggS", "audio/ogg; codecs=opus", voice=True)
    desk.post("/say", {"from": MARIA, "media": voice})
    [message] = desk.business.values("messages")
    assert (message["type"], message["audio"]["voice"]) == ("audio", True)
    assert message["audio"]["mime_type"] == "audio/ogg; codecs=opus"
    assert "voz" in desk.bubbles()[0]["text"]


@pytest.mark.parametrize(
    "media",
    [
        with_file(b""),
        with_file(mime_type="text/html"),
        with_file(b"x" * (5 * 1024 * 1024 + 1)),
        with_file(mime_type="image/png\r\nX-Evil: 1"),
        with_file(mime_type="image/png", kind="sticker"),
        with_file(mime_type="image/png", kind="hologram"),
        with_file(b"x" * (500 * 1024 + 1), "image/webp", kind="sticker"),
        {"data": "%"},
        "x",
        [1],
    ],
)
def test_a_file_that_is_none_is_refused(desk: Desk, media: Any) -> None:
    answer = httpx.post(f"{desk.url}/say", json={"from": MARIA, "text": "oi", "media": media}, timeout=30)
    assert answer.status_code == 400
    assert "media" in answer.json()["error"]
    assert desk.business.bodies == []


def test_the_channel_fetches_what_the_simulator_keeps(desk: Desk) -> None:
    desk.business.talks = False
    desk.say("veja", media=with_file())
    [message] = desk.business.values("messages")
    channel = WhatsApp(
        graph_url=desk.business.graph, phone_number_id=NUMBER, access_token="t", app_secret="s", verify_token="v",
        timeout=5,
    )  # fmt: skip
    assert channel.download(Message(MARIA, "m", "", media=Media(message["image"]["id"])), limit=len(PICTURE)) == PICTURE


def test_a_file_may_be_larger_than_a_webhook(desk: Desk) -> None:
    app = create_app(desk.simulator)
    app.config["MAX_CONTENT_LENGTH"] = 1000
    said = {"from": MARIA, "media": with_file(PICTURE * 100)}
    assert app.test_client().post("/simulator/say", json=said).status_code == 200


def test_only_the_last_files_are_kept() -> None:
    files = simulator_files.Files()
    kept = [simulator_files.File(str(n), "image", "image/png", b"x") for n in range(simulator_files.MOST_KEPT + 1)]
    for file in kept:
        files.keep(file)
    assert files.get("0") is None
    assert files.get("1") is kept[1]


def test_a_document_goes_with_its_name_and_a_sticker_says_whether_it_moves(desk: Desk) -> None:
    desk.business.talks = False
    desk.say("o boleto", media=with_file(b"%PDF", "application/pdf", kind="document", filename="../boleto\r\n.pdf"))
    desk.post("/say", {"from": MARIA, "media": with_file(ANIMATED, "image/webp", kind="sticker")})
    desk.post("/say", {"from": MARIA, "media": with_file(b"RIFF", "image/webp", kind="sticker")})
    document, moving, still = desk.business.values("messages")
    assert (document["type"], document["document"]["caption"]) == ("document", "o boleto")
    assert document["document"]["filename"] == "..boleto.pdf"
    assert (moving["type"], moving["sticker"]["animated"], still["sticker"]["animated"]) == ("sticker", True, False)
    assert [bubble["type"] for bubble in desk.bubbles()] == ["document", "sticker", "sticker"]


def test_a_page_gets_a_file_without_a_token_in_parts_and_nothing_in_it_runs(desk: Desk) -> None:
    desk.business.talks = False
    media = with_file(b"<script>1</script>", "text/html", kind="document", filename="ü\u2028\ud800.html")
    said = json.dumps({"from": MARIA, "media": media})  # half a surrogate pair, escaped
    httpx.post(f"{desk.url}/say", content=said, headers={"Content-Type": "application/json"}).raise_for_status()
    file = desk.bubbles()[0]["content"]["file"]
    answer = httpx.get(f"{desk.url}/files/{file['id']}")
    assert answer.content == b"<script>1</script>"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Disposition"].startswith("attachment")
    part = httpx.get(f"{desk.url}/files/{file['id']}", headers={"Range": "bytes=1-6"})
    assert (part.status_code, part.content) == (206, b"script")
    assert httpx.get(f"{desk.url}/files/none").status_code == 404


# -- what is no text and no file ---------------------------------------------------


def test_a_place_and_a_card(desk: Desk) -> None:
    desk.business.talks = False
    desk.post("/say", {"from": MARIA, "location": {"latitude": -23.5, "longitude": -46.6, "name": "MASP"}})
    desk.post("/say", {"from": MARIA, "contact": {"name": "Beto", "phone": "+55 11 98888-0002"}})
    place, card = desk.business.values("messages")
    assert place["location"] == {"latitude": -23.5, "longitude": -46.6, "name": "MASP"}
    assert card["contacts"] == [{
        "name": {"formatted_name": "Beto", "first_name": "Beto"},
        "phones": [{"phone": "+55 11 98888-0002", "type": "CELL", "wa_id": "5511988880002"}],
    }]  # fmt: skip
    assert [bubble["text"] for bubble in desk.bubbles()] == ["📍 MASP", "👤 Beto"]


def test_a_quote_says_who_wrote_the_message_it_answers_to(desk: Desk) -> None:
    desk.business.talks = False
    theirs = desk.business.send("dois ou três?", to=MARIA).json()["messages"][0]["id"]
    mine = desk.say("dois", quotes=theirs)["id"][0]
    desk.say("ou três", quotes=mine)
    first, second = desk.business.values("messages")
    assert first["context"] == {"from": "5511400000000", "id": theirs}
    assert second["context"] == {"from": MARIA, "id": mine}
    body = {"messaging_product": "whatsapp", "to": MARIA, "text": {"body": "dois"}, "context": {"message_id": mine}}
    assert desk.business.call(body).status_code == 200
    assert [bubble["quotes"] for bubble in desk.bubbles()] == ["", theirs, mine, mine]
    assert desk.sent()[-1]["quotes"] == mine
    assert desk.business.call({**body, "context": {"message_id": 1}}).json()["error"]["code"] == 100


def test_a_reaction_changes_the_message_and_an_empty_one_takes_it_back(desk: Desk) -> None:
    desk.business.talks = False
    theirs = desk.business.send("pronto", to=MARIA).json()["messages"][0]["id"]
    desk.say("👍", reacts_to=theirs)
    assert [bubble["reaction"] for bubble in desk.bubbles()] == ["👍"]
    desk.say("", reacts_to=theirs)
    assert [bubble["reaction"] for bubble in desk.bubbles()] == [""]
    on, off = desk.business.values("messages")
    assert (on["type"], on["reaction"]) == ("reaction", {"message_id": theirs, "emoji": "👍"})
    assert off["reaction"] == {"message_id": theirs}


def test_an_edit_tells_the_text_or_the_caption_and_a_deletion_leaves_nothing(desk: Desk) -> None:
    desk.business.talks = False
    text = desk.say("quero doi")["id"][0]
    image = desk.say("a praia", media=with_file())["id"][0]
    desk.say("quero dois", edits=text)
    desk.say("o mar", edits=image)
    desk.post("/say", {"from": MARIA, "revokes": text})
    _, sent, of_text, of_image, deleted = desk.business.values("messages")
    assert of_text["edit"] == {
        "original_message_id": text, "message": {"type": "text", "text": {"body": "quero dois"}},
    }  # fmt: skip
    assert of_image["edit"]["message"] == {"type": "image", "image": {**sent["image"], "caption": "o mar"}}
    assert (deleted["type"], deleted["revoke"]) == ("revoke", {"original_message_id": text})
    gone, edited = desk.bubbles()
    assert (gone["text"], gone["revoked"]) == ("", True)
    assert (edited["content"]["caption"], edited["edited"]) == ("o mar", True)


def test_nobody_changes_what_others_wrote(desk: Desk) -> None:
    desk.business.talks = False
    mine = desk.say("oi")["id"][0]
    theirs = desk.business.send("olá", to=MARIA).json()["messages"][0]["id"]
    for change in ({"edits": mine}, {"revokes": mine}, {"reacts_to": mine}):
        desk.say("x", user=JOAO, **change)
    desk.say("x", edits=theirs)
    desk.post("/say", {"from": MARIA, "revokes": theirs})
    assert [(b["text"], b["edited"], b["revoked"], b["reaction"]) for b in desk.bubbles()] == [
        ("oi", False, False, ""), ("olá", False, False, ""),
    ]  # fmt: skip


def test_a_change_that_was_not_taken_is_not_shown(desk: Desk) -> None:
    desk.business.talks = False
    mine = desk.say("oi")["id"][0]
    desk.business.answers = 503
    assert desk.say("olá", edits=mine)["status"] == 503
    assert [bubble["text"] for bubble in desk.bubbles()] == ["oi"]


def test_a_tap_on_a_row_says_which_and_of_which_message(desk: Desk) -> None:
    desk.business.talks = False
    asked = interactive("list", "Manhã", "Tarde")
    asked["interactive"]["action"]["sections"][0]["rows"][1]["description"] = "até as 18h"
    of_list = desk.business.call(asked).json()["messages"][0]["id"]
    of_buttons = desk.business.call(interactive("button", "Sim")).json()["messages"][0]["id"]
    desk.say("Tarde", choice=True, quotes=of_list)
    desk.say("Sim", choice=True, quotes=of_buttons)
    row, button = desk.business.values("messages")
    assert row["interactive"] == {
        "type": "list_reply", "list_reply": {"id": "1", "title": "Tarde", "description": "até as 18h"},
    }  # fmt: skip
    assert row["context"]["id"] == of_list
    assert button["interactive"] == {"type": "button_reply", "button_reply": {"id": "0", "title": "Sim"}}
    listed, buttons = desk.sent()
    assert [option["description"] for option in listed["options"]] == ["", "até as 18h"]
    assert buttons["options"] == [{"id": "0", "title": "Sim", "description": ""}]
    assert [bubble["menu"] for bubble in desk.bubbles()[:2]] == ["Ver", ""]


def test_what_was_taken_is_posted_once_where_that_is_asked(desk: Desk) -> None:
    desk.business.talks = False
    desk.business.answers = 503
    assert desk.say("oi", id="wamid.1", once=True)["status"] == 503
    desk.business.answers = 200
    for _ in range(2):
        assert desk.say("oi", id="wamid.1", once=True)["status"] == 200
    assert len(desk.business.values("messages")) == 1
    desk.say("oi", id="wamid.1")
    assert len(desk.business.values("messages")) == 2
    assert len(desk.bubbles()) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"location": {"latitude": 91, "longitude": 0}},
        {"location": {"latitude": True, "longitude": 0}},
        {"location": "MASP"},
        {"contact": {"name": "Beto", "phone": "nenhum"}},
        {"contact": {"phone": "1"}},
        {"text": "x" * 33, "reacts_to": "wamid.1"},
        {"text": " ", "edits": "wamid.1"},
        {"edits": "wamid.1"},
        {"text": "x", "edits": "wamid.1", "revokes": "wamid.1"},
        {"location": {"latitude": 1, "longitude": 1}, "via": "evolution"},
        {"text": "x", "quotes": "wamid.1", "via": "evolution"},
    ],
)
def test_what_is_no_message_is_refused_with_the_reason(desk: Desk, wrong: dict[str, Any]) -> None:
    answer = httpx.post(f"{desk.url}/say", json={"from": MARIA, **wrong})
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert (desk.business.bodies, desk.bubbles()) == ([], [])


def test_the_channel_reads_every_kind(desk: Desk) -> None:
    desk.business.talks = False
    desk.say("o boleto", media=with_file(b"%PDF", "application/pdf", kind="document", filename="boleto.pdf"))
    desk.post("/say", {"from": MARIA, "media": with_file(ANIMATED, "image/webp", kind="sticker")})
    desk.post("/say", {"from": MARIA, "location": {"latitude": -23.5, "longitude": -46.6, "name": "MASP"}})
    desk.post("/say", {"from": MARIA, "contact": {"name": "Beto", "phone": "+55 11 98888-0002"}})
    first = desk.say("oi", quotes="wamid.theirs")["id"][0]
    for change in ({"reacts_to": first, "text": "👍"}, {"edits": first, "text": "olá"}, {"revokes": first}):
        desk.post("/say", {"from": MARIA, **change})
    read = [m for body in desk.business.bodies for m in cloud_payload.parse(json.dumps(body).encode()).messages]
    assert [(m.kind, m.text, m.quoted) for m in read] == [
        ("document", "o boleto", ""),
        ("sticker", "", ""),
        ("location", "Enviei minha localização: MASP (latitude -23.5, longitude -46.6)", ""),
        ("contacts", "Enviei um contato: Beto +55 11 98888-0002", ""),
        ("text", "oi", "wamid.theirs"),
        ("reaction", "👍", first),
        ("edit", "olá", first),
        ("revoke", "", first),
    ]
    assert read[0].media == Media(read[0].media.id if read[0].media else "", "application/pdf", "boleto.pdf")
