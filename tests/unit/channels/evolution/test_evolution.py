"""Evolution API as a channel: lenient in, and the simulator plays the server over real HTTP."""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import httpx
import jwt
import pytest
from structlog.testing import capture_logs
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from chatbot.app import Chatbot
from chatbot.channels.evolution.channel import Evolution, _classified, webhook_trouble
from chatbot.config import Settings, SettingsError, load
from chatbot.errors import (
    BadPayload,
    BadSignature,
    BrokerUnavailable,
    ChannelDown,
    OutcomeUnknown,
    Permanent,
    Transient,
)
from chatbot.messages import Media, Message, Part
from chatbot.simulator.faults import Fault
from chatbot.simulator.files import File
from chatbot.simulator.instance import Instance
from chatbot.simulator.routes import create_app
from chatbot.simulator.simulator import Simulator
from chatbot.web.webhook import MAX_BODY_BYTES
from chatbot.web.webhook import create_app as create_webhook

ANA = "5511999990001"
KEY = "the-instance-key"
JWT_KEY = "a-key-of-at-least-thirty-two-bytes!"


def evolution(url="http://127.0.0.1:1", **options):
    values = {
        "url": url, "api_key": KEY, "instance": "loja", "webhook_secret": "shh", "jwt_key": JWT_KEY, "timeout": 5.0,
    }  # fmt: skip
    return Evolution(**values | options)


def item(message, *, jid=f"{ANA}@s.whatsapp.net", id_="M1", **more):
    key = {"remoteJid": jid, "fromMe": False, "id": id_, **more.pop("key", {})}
    return {"key": key, "pushName": "Ana", "message": message, "messageTimestamp": 1_700_000_000, **more}


def body(*items, event="messages.upsert"):
    data = items[0] if len(items) == 1 else list(items)
    return json.dumps({"event": event, "instance": "loja", "data": data, "apikey": KEY}).encode()


def parse(*items, **more):
    return evolution().parse(body(*items, **more)).messages


# -- inbound ----------------------------------------------------------------------


def test_a_text_is_a_message_of_its_author():
    assert parse(item({"conversation": "oi"})) == (
        Message(
            user=ANA, id="M1", text="oi", channel="evolution", account="loja", phone=ANA, name="Ana", sent_at=1.7e9
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("message", "kind", "text"),
    [
        ({"extendedTextMessage": {"text": "oi"}}, "text", "oi"),
        ({"ephemeralMessage": {"message": {"conversation": "oi"}}}, "text", "oi"),
        ({"imageMessage": {"caption": "olha", "mimetype": "image/jpeg"}}, "image", "olha"),
        ({"documentWithCaptionMessage": {"message": {"documentMessage": {"caption": "nota"}}}}, "document", "nota"),
        ({"buttonsResponseMessage": {"selectedDisplayText": "Sim", "selectedButtonId": "1"}}, "interactive", "Sim"),
        ({"templateButtonReplyMessage": {"selectedDisplayText": "Sim"}}, "interactive", "Sim"),
        ({"listResponseMessage": {"title": "Azul"}}, "interactive", "Azul"),
        ({"listResponseMessage": {"title": "Manhã", "description": "das 8h às 12h"}}, "interactive",
         "Manhã: das 8h às 12h"),
        ({"associatedChildMessage": {"message": {"imageMessage": {"caption": "a 2"}, "messageContextInfo": {}}},
          "messageContextInfo": {}}, "image", "a 2"),
        ({"viewOnceMessageV2Extension": {"message": {"audioMessage": {"ptt": True}}}}, "audio", ""),
        ({"ptvMessage": {"mimetype": "video/mp4"}}, "video", ""),
        ({"lottieStickerMessage": {"message": {"stickerMessage": {"mimetype": "application/was"}}}}, "sticker", ""),
        ({"wrapperOfNextYear": {"message": {"ephemeralMessage": {"message": {"conversation": "oi"}}}}}, "text", "oi"),
        ({"senderKeyDistributionMessage": {}, "conversation": "oi"}, "text", "oi"),
        ({"senderKeyDistributionMessage": {}, "newKindMessage": {}}, "unsupported", ""),
        ({"interactiveResponseMessage": {"body": {"text": "Verde"}}}, "interactive", "Verde"),
        ({"contactMessage": {"displayName": "João"}}, "contacts", "Enviei um contato: João"),
        (
            {"locationMessage": {"degreesLatitude": -23.5, "degreesLongitude": -46.6, "name": "Loja"}},
            "location", "Enviei minha localização: Loja (latitude -23.5, longitude -46.6)",
        ),
        ({"newKindMessage": {"x": 1}}, "unsupported", ""),
        ({}, "unsupported", ""),
    ],
)  # fmt: skip
def test_every_type_is_read(message, kind, text):
    [read] = parse(item(message))
    assert (read.kind, read.text, read.starts_turn) == (kind, text, True)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ({"reactionMessage": {"text": "👍", "key": {"id": "M0"}}}, "reaction"),
        ({"protocolMessage": {"type": "REVOKE", "key": {"id": "M0"}}}, "revoke"),
        ({"protocolMessage": {"type": 14}}, "edit"),
        ({"pollUpdateMessage": {}}, "system"),
        ({"albumMessage": {"expectedImageCount": 2}}, "album"),
        ({"secretEncryptedMessage": {"targetMessageKey": {"id": "M0"}}}, "edit"),
        ({"encReactionMessage": {}}, "reaction"),
        ({"pinInChatMessage": {"key": {"id": "M0"}}}, "pin"),
        ({"keepInChatMessage": {"key": {"id": "M0"}}}, "keep_in_chat"),
        ({"callLogMesssage": {"isVideo": True}}, "call"),
        ({"senderKeyDistributionMessage": {"groupId": "x"}, "messageContextInfo": {}}, "system"),
        ({"ephemeralMessage": {"message": {"pinInChatMessage": {}}}}, "pin"),
    ],
)
def test_what_asks_for_no_answer_starts_no_turn(message, kind):
    [read] = parse(item(message))
    assert (read.kind, read.starts_turn) == (kind, False)


def test_a_voice_note_and_a_quote():
    [read] = parse(item({"audioMessage": {"mimetype": "audio/ogg", "ptt": True, "contextInfo": {"stanzaId": "M0"}}}))
    assert (read.kind, read.media, read.quoted) == ("audio", Media("M1", "audio/ogg", voice=True), "M0")


@pytest.mark.parametrize("jid", ["1203630@g.us", "status@broadcast", "123@newsletter", "", "@s.whatsapp.net", None, 5])
def test_groups_channels_and_nobody_are_dropped_and_cost_their_neighbours_nothing(jid):
    good = item({"conversation": "oi"}, id_="M2")
    assert [m.id for m in parse(item({"conversation": "x"}, jid=jid), good)] == ["M2"]


@pytest.mark.parametrize("bad", [None, 5, "x", [], {"key": 5}, {"key": {"fromMe": True}}, {"key": {"id": "x"}}])
def test_a_bad_item_costs_its_neighbours_nothing(bad):
    assert [m.id for m in parse(bad, item({"conversation": "oi"}))] == ["M1"]


def test_our_own_messages_are_dropped():
    assert parse(item({"conversation": "oi"}, key={"fromMe": True})) == ()
    assert parse(item({"conversation": "oi"}, key={"fromMe": None})) == ()


@pytest.mark.parametrize(
    ("key", "more", "phone", "lid"),
    [
        ({}, {}, "", "137@lid"),
        ({"remoteJidAlt": f"{ANA}@s.whatsapp.net"}, {}, ANA, "137@lid"),
        ({"senderPn": ANA}, {}, ANA, "137@lid"),
        ({}, {"senderPn": f"{ANA}:12@s.whatsapp.net"}, ANA, "137@lid"),
    ],
)
def test_a_hidden_number_is_a_lid_until_it_is_known(key, more, phone, lid):
    [read] = parse(item({"conversation": "oi"}, jid="137@lid", key=key, **more))
    assert (read.user, read.phone, read.bsuid) == (phone or lid, phone, lid)


@pytest.mark.parametrize("timestamp", [1_700_000_000, "1700000000", {"low": 1_700_000_000, "high": 0}])
def test_a_time_has_many_shapes(timestamp):
    assert parse(item({"conversation": "oi"}, messageTimestamp=timestamp))[0].sent_at == 1.7e9


def test_statuses_are_read_and_other_events_ignored():
    told = {"keyId": "M9", "status": "DELIVERY_ACK"}
    inbound = evolution().parse(body(told, event="MESSAGES_UPDATE"))
    assert [(s.message_id, s.status, s.callback) for s in inbound.statuses] == [("M9", "delivered", "")]
    assert evolution().parse(body({"state": "open"}, event="connection.update")).messages == ()
    with pytest.raises(BadPayload):
        evolution().parse(b"[]")


@pytest.mark.parametrize(
    "message",
    [
        {"ptvMessage": {"mimetype": "video/mp4"}},
        {"lottieStickerMessage": {"message": {"stickerMessage": {"mimetype": "video/mp4"}}}},
        {"associatedChildMessage": {"message": {"imageMessage": {"mimetype": "video/mp4"}}}},
        {"viewOnceMessageV2Extension": {"message": {"audioMessage": {"mimetype": "video/mp4"}}}},
    ],
)
def test_files_that_come_wrapped_are_files(message):
    [read] = parse(item(message))
    assert read.media == Media("M1", "video/mp4")


def test_an_instance_that_lost_its_phone_is_a_notice():
    posted = json.loads(body({"state": "close", "statusReason": 401}, event="connection.update"))
    posted["date_time"] = "2026-01-01T00:00:00.000Z"
    [notice] = evolution().parse(json.dumps(posted).encode()).notices
    assert (notice.kind, notice.account, notice.at, notice.severity) == (
        "connection", "loja", 1_767_225_600.0, "critical",
    )  # fmt: skip
    assert notice.details == {"state": "close", "statusReason": "401"}
    assert KEY not in notice.to_json()


# -- its base64 option --------------------------------------------------------------


def test_files_that_travel_in_webhooks_are_named_in_the_log_and_still_read():
    with capture_logs() as logged:
        [read] = parse(item({"imageMessage": {"caption": "olha"}, "base64": "AAAA"}))
        parse(item({"imageMessage": {"caption": "olha"}}))
    assert (read.text, read.media) == ("olha", Media("M1"))
    assert [entry["event"] for entry in logged] == ["webhook.base64"]


def test_a_body_that_is_too_large_says_what_is_likely(client):
    answer = client.post("/webhook/evolution", data=b" " * (MAX_BODY_BYTES + 1), headers={"X-Webhook-Secret": "shh"})
    assert answer.status_code == 413
    assert "base64 option" in answer.json["error"]
    answer = client.post("/webhook/whatsapp", data=b" " * (MAX_BODY_BYTES + 1))
    assert (answer.status_code, "base64" in answer.json["error"]) == (413, False)


@pytest.mark.parametrize(
    ("told", "trouble"),
    [
        ({"enabled": True, "webhookBase64": True}, True),
        ({"webhook": {"base64": True}}, True),
        ({"webhookBase64": False}, False),
        (None, False),
        ([], False),
    ],
)
def test_the_option_is_found_on_the_gateway(told, trouble):
    asked = []

    @Request.application
    def gateway(request):
        asked.append((request.path, request.headers.get("apikey")))
        return Response(json.dumps(told), content_type="application/json")

    with serving(gateway) as url:
        said = webhook_trouble(settings(url), timeout=5)
    assert asked == [("/webhook/find/loja", KEY)]
    assert ("base64 option" in said, bool(said)) == (trouble, trouble)


def test_a_gateway_that_does_not_say_is_no_trouble():
    with serving(Response("no such route", 404)) as url:
        assert webhook_trouble(settings(url), timeout=5) == ""


def settings(url):
    return Settings(
        _env_file=None, env="test", broker_url="memory://", channels="evolution", evolution_url=url,
        evolution_api_key=KEY, evolution_instance="loja", evolution_webhook_secret="shh",
    )  # fmt: skip


@contextmanager
def serving(application):
    """Serve a WSGI application on a free port; give its address."""
    server = make_server("127.0.0.1", 0, application)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


# -- who posts --------------------------------------------------------------------


def token(key=JWT_KEY, **claims):
    return jwt.encode({"app": "evolution", "exp": time.time() + 600, **claims}, key, algorithm="HS256")


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Webhook-Secret": "shh"},
        {"apikey": "shh"},
        {"Authorization": "Bearer shh"},
    ],
)
def test_a_secret_opens(headers):
    evolution().verify(b"{}", headers.get)


def test_a_signed_token_opens():
    headers = {"Authorization": f"Bearer {token()}"}  # made now: it is good for ten minutes only
    evolution().verify(b"{}", headers.get)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Webhook-Secret": "sh"},
        {"X-Webhook-Secret": ""},
        {"X-Webhook-Secret": "\xff\udcff"},
        {"Authorization": "Bearer "},
    ],
)
def test_nothing_else_does(headers):
    with pytest.raises(BadSignature):
        evolution().verify(b"{}", headers.get)


def test_no_other_token_does():
    another_key, old = token(key="another-key-of-thirty-two-bytes!!!"), token(exp=time.time() - 600)
    unsigned = jwt.encode({"app": "evolution"}, None, algorithm="none")
    for bad in (another_key, old, unsigned):
        with pytest.raises(BadSignature):
            evolution().verify(b"{}", {"Authorization": f"Bearer {bad}"}.get)


def test_without_a_secret_everything_is_refused():
    closed = evolution(webhook_secret="", jwt_key="")
    for headers in ({}, {"X-Webhook-Secret": ""}, {"Authorization": f"Bearer {token()}"}):
        with pytest.raises(BadSignature):
            closed.verify(b"{}", headers.get)
    with pytest.raises(BadSignature):
        closed.challenge({})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"evolution_url": "http://x"}, "CHATBOT_EVOLUTION_API_KEY"),
        ({"evolution_url": "http://x", "evolution_api_key": "k"}, "CHATBOT_EVOLUTION_WEBHOOK_SECRET"),
        ({"evolution_url": "ftp://x"}, "CHATBOT_EVOLUTION_URL"),
    ],
)
def test_settings_say_what_is_missing(given, named):
    with pytest.raises(SettingsError, match=named):
        load(Settings, _env_file=None, channels="evolution", **given)
    with pytest.raises(SettingsError, match="knows no telegram"):
        load(Settings, _env_file=None, channels="telegram")


# -- through the webhook ----------------------------------------------------------


class Router:
    """Keeps what is published, or is away."""

    def __init__(self):
        self.routed, self.away = [], False

    def deadline(self):
        return 0.0

    def route_all(self, messages, *, deadline):
        if self.away:
            raise BrokerUnavailable("away")
        self.routed += messages
        return []


@pytest.fixture
def router():
    return Router()


@pytest.fixture
def client(router):
    bot = Chatbot(Settings(
        _env_file=None, env="test", broker_url="memory://", channels="whatsapp,evolution",
        evolution_url="http://127.0.0.1:1", evolution_api_key=KEY, evolution_webhook_secret="shh",
    ))  # fmt: skip
    bot.router = router
    return create_webhook(bot).test_client()


@pytest.mark.parametrize("path", ["/webhook/evolution", "/webhook/evolution/messages-upsert"])
def test_a_webhook_is_taken_and_the_instances_key_is_never_logged(client, router, caplog, path):
    caplog.set_level(logging.DEBUG)
    secret = {"X-Webhook-Secret": "shh"}
    assert client.post(path, data=body(item({"conversation": "oi"})), headers=secret).status_code == 200
    assert client.post(path, data=body({"x": KEY}, event=f"{KEY}.update"), headers=secret).status_code == 200
    assert client.post(path, data=f'{{"apikey": "{KEY}"', headers=secret).status_code == 400
    assert client.post(path, data=body(item({"conversation": "oi"}))).status_code == 401
    assert [m.text for m in router.routed] == ["oi"]
    assert KEY not in caplog.text


def test_trouble_of_ours_is_503_and_never_4xx(client, router):
    """Evolution does not repeat what was answered 4xx."""
    router.away = True
    answer = client.post("/webhook/evolution", data=body(item({"conversation": "oi"})), headers={"apikey": "shh"})
    assert answer.status_code == 503


def test_a_channel_that_is_not_in_use_is_not_served(client):
    assert client.post("/webhook/telegram", data=b"{}").status_code == 404
    assert client.get("/webhook/evolution").status_code == 403


# -- outbound, to the simulator ---------------------------------------------------


@pytest.fixture
def desk():
    instance = Instance("loja", KEY, "http://127.0.0.1:1/webhook/evolution", "shh")
    simulator = Simulator(webhook_url="http://127.0.0.1:1/", app_secret="s", evolution=instance)
    server = make_server("127.0.0.1", 0, create_app(simulator), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    simulator.url = f"http://127.0.0.1:{server.server_port}/simulator/evolution"
    yield simulator
    server.shutdown()
    thread.join()
    simulator.close()


TO = Message(user=ANA, id="M1", text="oi", channel="evolution", account="loja", phone=ANA)


def test_a_reply_goes_out_with_its_choices_written_down(desk):
    channel = evolution(desk.url)
    [part] = channel.compose("**Qual**?\n[[Azul]]\n[[Verde | o claro]]")
    sent_as = channel.send(TO, part, callback="ignored")
    [sent] = desk.state.sent(ANA)
    assert (sent["id"], sent["text"]) == (sent_as, "*Qual*?\n\n1. Azul\n2. Verde: o claro")
    lid = Message(user="137@lid", id="M2", text="oi", channel="evolution", account="loja", bsuid="137@lid")
    channel.send(lid, Part("oi"), callback="")
    assert desk.state.sent("137")
    channel.close()


def test_read_and_typing(desk):
    desk.state.say(message_id="M1", user=ANA, name="Ana", text="oi")
    channel = evolution(desk.url)
    channel.mark_read(TO, typing=True)
    assert desk.state.conversations([ANA])["conversations"][ANA]["messages"][0]["state"] == "read"
    assert [call["kind"] for call in desk.state.calls(ANA)] == ["typing"]
    channel.close()


def test_a_file_is_fetched_within_its_limit(desk):
    content = bytes(range(256)) * 4
    media = {"mime_type": "image/png", "data": base64.b64encode(content).decode()}
    desk.say([{
        "id": "M1", "from": ANA, "name": "Ana", "text": "", "file": File.from_dict(media), "via": "evolution",
    }])  # fmt: skip
    channel = evolution(desk.url)
    [posted] = evolution().parse(json.dumps(desk.evolution.upsert({
        "id": "M1", "from": ANA, "name": "Ana", "text": "olha", "file": File.from_dict(media),
    })).encode()).messages  # fmt: skip
    assert channel.download(posted, limit=len(content)) == content
    with pytest.raises(Permanent, match="over"):
        channel.download(posted, limit=100)
    channel.close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, ChannelDown), (403, ChannelDown), (429, Transient), (500, OutcomeUnknown), (400, Permanent)],
)
def test_a_refusal_has_its_class(desk, status, kind):
    desk.faults.script([Fault("error", status=status)])
    channel = evolution(desk.url)
    with pytest.raises(kind) as error:
        channel.send(TO, Part("oi"), callback="")
    assert type(error.value) is kind
    assert KEY not in str(error.value)
    channel.close()


@pytest.mark.parametrize(
    ("status", "told", "kind"),
    [
        (400, [{"jid": "x", "exists": False}], Permanent),
        (400, ["Error: Connection Closed"], ChannelDown),
        (400, ["Error: Timed Out"], OutcomeUnknown),
        (400, ['instance requires property "number"'], Permanent),
        (400, None, Permanent),
        (504, None, OutcomeUnknown),
    ],
)
def test_the_words_of_a_refusal_count(status, told, kind):
    answer = httpx.Response(status, json={"status": status, "response": {"message": told}})
    assert type(_classified(answer)) is kind


def test_a_wrong_instance_or_key_stops_the_channel_and_silence_is_an_unknown_outcome(desk):

    for channel, to in (
        (evolution(desk.url, api_key="wrong"), TO),
        (evolution(desk.url), replace(TO, account="outra")),
    ):
        with pytest.raises(ChannelDown):
            channel.send(to, Part("oi"), callback="")
        channel.close()
    desk.faults.script([Fault("timeout", delay=2.0)])
    channel = evolution(desk.url, timeout=0.3)
    with pytest.raises(OutcomeUnknown):
        channel.send(TO, Part("oi"), callback="")
    with pytest.raises(Transient) as error:
        evolution().send(TO, Part("oi"), callback="")
    assert type(error.value) is Transient, "nothing went out"
    channel.close()
