"""Files people send: fetched from Meta's hosts only, heard, seen, or honestly refused."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from chatbot import http, texts
from chatbot.agent.transcription import Transcriber
from chatbot.app import Chatbot
from chatbot.channels.cloud import media as cloud_media
from chatbot.channels.cloud.channel import WhatsApp
from chatbot.config import Settings
from chatbot.conversation.media import (
    HIDDEN,
    IMAGE_BYTES,
    SHOWN,
    SILENT,
    MediaReader,
    Reading,
    transcriber,
)
from chatbot.conversation.turn import MAX_FILE_WAITS, MAX_WAITS, READ_TRIES, Conversation
from chatbot.errors import ChannelDown, CircuitOpen, OutcomeUnknown, Permanent, ServiceDown, TooFast, Transient
from chatbot.messages import Media, Message
from chatbot.ops.doctor import examine
from chatbot.resilience.breaker import Breaker
from chatbot.store.client import connect
from chatbot.store.presence import Presence, Runs
from chatbot.store.store import Store

VOICE = b"OggS" + bytes(range(256)) * 40
PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
FILE = Media("4711", mime_type="audio/ogg; codecs=opus", voice=True)
fresh = itertools.count()


@dataclass
class Answer:
    status: int = 200
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    hangs_up: bool = False


@dataclass
class Server:
    """Answers by path what the test says and keeps what it was asked."""

    url: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        return [path for path, _, _ in self.asked]


def serve() -> Iterator[Server]:
    here = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            here.asked.append((self.path, dict(self.headers), body))
            answer = here.answers.get(self.path.split("?")[0], Answer(404))
            if answer.hangs_up:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.content)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(answer.content)
            except ConnectionError:
                pass  # it was too long for who asked

        do_POST = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    here.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield here
    server.shutdown()
    server.server_close()


@pytest.fixture
def graph() -> Iterator[Server]:
    for server in serve():
        server.answers["/file"] = Answer(content=VOICE)
        tell(server)
        yield server


@pytest.fixture
def elsewhere() -> Iterator[Server]:
    for server in serve():
        server.answers["/file"] = Answer(content=VOICE)
        yield server


def tell(graph: Server, **about: Any) -> None:
    """Have the Graph API say this about the file."""
    about = {"url": f"{graph.url}/file", "mime_type": "audio/ogg", "id": "4711", **about}
    graph.answers["/v26.0/4711"] = Answer(content=json.dumps(about).encode())


def fetched(graph: Server, *, limit: int = 1_000_000, token: str = "token", media: Media = FILE) -> bytes:
    channel = WhatsApp(
        graph_url=f"{graph.url}/v26.0",
        phone_number_id="42",
        access_token=token,
        app_secret="s",
        verify_token="v",
        timeout=5,
    )
    return channel.download(Message("u", "m", "", media=media), limit=limit)


def failure(graph: Server, **options: Any) -> Exception:
    with pytest.raises((Transient, Permanent)) as caught:
        fetched(graph, **options)
    return caught.value


# -- fetching --------------------------------------------------------------------


def test_the_address_is_asked_for_and_the_file_fetched_with_the_token(graph):
    assert fetched(graph) == VOICE
    assert graph.paths == ["/v26.0/4711", "/file"]
    assert {headers["Authorization"] for _, headers, _ in graph.asked} == {"Bearer token"}
    fetched(graph)
    assert len(graph.asked) == 4, "an address lives 5 minutes: it is asked for again"


@pytest.mark.parametrize("size", [len(VOICE), str(len(VOICE))])
def test_a_file_that_is_said_to_be_too_large_is_not_fetched(graph, size):
    tell(graph, file_size=size)
    assert fetched(graph, limit=len(VOICE)) == VOICE
    graph.asked.clear()
    assert type(failure(graph, limit=len(VOICE) - 1)) is Permanent
    assert graph.paths == ["/v26.0/4711"]


def test_a_file_that_turns_out_too_large_is_read_no_further(graph):
    tell(graph, file_size=10)
    assert type(failure(graph, limit=len(VOICE) - 1)) is Permanent


@pytest.mark.parametrize("encode", [lambda d: d.hex(), lambda d: base64.b64encode(d).decode()])
def test_a_file_is_what_its_hash_says(graph, encode):
    tell(graph, sha256=encode(hashlib.sha256(VOICE).digest()))
    assert fetched(graph) == VOICE
    tell(graph, sha256=encode(hashlib.sha256(b"other").digest()))
    assert type(failure(graph)) is Transient


def test_the_token_goes_to_no_other_host(graph, elsewhere):
    for url in (
        f"{elsewhere.url}/file",
        "http://lookaside.fbsbx.com/x",
        "https://lookaside.fbsbx.com.evil.example/x",
        "https://lookaside.fbsbx.com:8443/x",
        "https://user@lookaside.fbsbx.com/x",
        "https://fbcdn.net.evil.example/x",
        "https://evilfbcdn.net/x",
        "file:///etc/passwd",
        "/etc/passwd",
    ):
        tell(graph, url=url)
        assert type(failure(graph)) is Permanent, url
    assert elsewhere.asked == []


@pytest.mark.parametrize(
    "url", ["https://lookaside.fbsbx.com/a?mid=1", "https://mmg.whatsapp.net/x", "https://scontent.xx.fbcdn.net/y"]
)
def test_metas_hosts_are_fetched_from(url):
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "graph.facebook.com":
            return httpx.Response(200, stream=httpx.ByteStream(json.dumps({"url": url}).encode()))
        assert str(request.url) == url
        assert request.headers["Authorization"] == "Bearer token"
        return httpx.Response(200, stream=httpx.ByteStream(VOICE))

    class Mock(http.Service):
        def client(self) -> httpx.Client:
            return httpx.Client(transport=httpx.MockTransport(answer), headers={"Authorization": "Bearer token"})

    service = Mock("the Graph API", setting="", timeout=5, max_bytes=1, headers={})
    assert cloud_media.fetch(service, "https://graph.facebook.com/v26.0", "1", limit=len(VOICE)) == VOICE


def test_a_redirect_is_followed_at_home_only(graph, elsewhere):
    graph.answers["/file"] = Answer(302, headers={"Location": "/moved"})
    graph.answers["/moved"] = Answer(content=VOICE)
    assert fetched(graph) == VOICE
    graph.answers["/file"] = Answer(302, headers={"Location": f"{elsewhere.url}/file"})
    assert type(failure(graph)) is Permanent
    assert elsewhere.asked == []
    graph.answers["/file"] = Answer(302, headers={"Location": "/file"})
    assert type(failure(graph)) is Permanent, "a circle"


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(400, 100, Permanent), (404, None, Permanent), (500, None, Transient), (429, None, Transient),
     (401, 190, ChannelDown), (400, 4, Transient), (500, 131000, Transient)],
)  # fmt: skip
def test_failures_mean_what_they_mean_elsewhere(graph, status, code, kind):
    graph.answers["/v26.0/4711"] = Answer(status, json.dumps({"error": {"code": code}}).encode())
    error = failure(graph)
    assert type(error) is kind
    assert not isinstance(error, TooFast | OutcomeUnknown), "nothing is sent: it is simply asked again"


def test_an_address_that_has_expired_is_asked_for_again(graph):
    graph.answers["/file"] = Answer(404)
    assert type(failure(graph)) is Transient
    graph.answers["/file"] = Answer(403)
    assert type(failure(graph)) is Permanent


def test_a_connection_that_ends_is_tried_again(graph):
    for path in ("/file", "/v26.0/4711"):
        graph.answers[path].hangs_up = True
        assert type(failure(graph)) is Transient


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b'{"url": ""}', b'{"url": 7}'])
def test_an_answer_without_an_address_is_tried_again(graph, content):
    graph.answers["/v26.0/4711"] = Answer(content=content)
    assert type(failure(graph)) is Transient


def test_a_file_that_never_ends_arriving_is_given_up(graph, monkeypatch):
    monkeypatch.setattr(cloud_media, "SECONDS", -1.0)
    assert type(failure(graph)) is Transient


def test_our_own_mistakes(graph):
    assert type(failure(graph, token="token\n")) is ChannelDown
    assert type(failure(graph, media=Media(""))) is Permanent
    assert graph.asked == []


def test_an_id_is_one_piece_of_the_path(graph):
    failure(graph, media=Media("../4711?x"))
    assert graph.paths == ["/v26.0/..%2F4711%3Fx"]


# -- listening -------------------------------------------------------------------


@pytest.fixture
def whisper() -> Iterator[Server]:
    for server in serve():
        server.answers["/v1/audio/transcriptions"] = Answer(content=json.dumps({"text": " olá, tudo bem? "}).encode())
        yield server


def listen(whisper: Server, *, key: str = "", mime_type: str = "audio/ogg; codecs=opus") -> str:
    return Transcriber(f"{whisper.url}/v1", model="whisper-1", api_key=key, timeout=5).transcribe(VOICE, mime_type)


def test_speech_is_posted_as_a_form_and_comes_back_as_words(whisper):
    assert listen(whisper, key="sk-x").strip() == "olá, tudo bem?"
    [(path, headers, body)] = whisper.asked
    assert path == "/v1/audio/transcriptions"
    assert headers["Authorization"] == "Bearer sk-x"
    assert headers["Content-Type"].startswith("multipart/form-data; boundary=")
    assert VOICE in body
    assert b'name="model"\r\n\r\nwhisper-1' in body
    assert b'name="file"; filename="audio.ogg"\r\nContent-Type: audio/ogg\r\n' in body
    assert b'name="language"' not in body


def test_no_key_no_header(whisper):
    listen(whisper)
    assert "Authorization" not in whisper.asked[0][1]


@pytest.mark.parametrize(
    ("mime_type", "name"), [("audio/mpeg", b"audio.mp3"), ("audio/mp4", b"audio.m4a"), ("", b"ogg")]
)
def test_the_file_is_named_for_what_it_is(whisper, mime_type, name):
    listen(whisper, mime_type=mime_type)
    assert name in whisper.asked[0][2]


@pytest.mark.parametrize(
    ("status", "kind"), [(429, Transient), (503, Transient), (400, Permanent), (401, Permanent), (413, Permanent)]
)
def test_a_server_that_refuses(whisper, status, kind):
    whisper.answers["/v1/audio/transcriptions"] = Answer(status, headers={"Retry-After": "7"})
    with pytest.raises((Transient, Permanent)) as caught:
        listen(whisper)
    assert type(caught.value) is kind
    if kind is Transient:
        assert caught.value.retry_after == 7.0


@pytest.mark.parametrize("content", [b"", b"[]", b'{"text": null}', b"\xff"])
def test_an_answer_without_words_is_refused(whisper, content):
    whisper.answers["/v1/audio/transcriptions"] = Answer(content=content)
    with pytest.raises(Permanent):
        listen(whisper)


def test_a_server_that_is_away_is_tried_again(whisper):
    whisper.answers["/v1/audio/transcriptions"] = Answer(hangs_up=True)
    with pytest.raises(Transient):
        listen(whisper)
    with pytest.raises(Permanent):
        listen(whisper, key="sk\n")


def test_only_where_a_server_is_named_is_there_a_transcriber():
    assert transcriber(Settings(_env_file=None)) is None
    assert transcriber(Settings(_env_file=None, transcription_base_url="http://127.0.0.1:1/v1")) is not None


# -- reading ---------------------------------------------------------------------


def voice(text: str = "", **more: Any) -> Message:
    more = {"user": "ana", "id": "v", "kind": "audio", "media": FILE, **more}
    return Message(text=text, phone="5511999990001", **more)


def image(text: str = "", **more: Any) -> Message:
    more = {"id": "i", "kind": "image", "media": Media("9", mime_type="image/jpeg"), **more}
    return Message(user="ana", text=text, phone="5511999990001", **more)


class Files:
    """A channel that has one file; keeps the limits it was asked with."""

    def __init__(self, content: bytes = VOICE) -> None:
        self.content, self.limits, self.script = content, [], []

    def download(self, message: Message, limit: int) -> bytes:
        self.limits.append(limit)
        if self.script:
            raise self.script.pop(0)
        return self.content


def reader(files: Files, *, words: str | None = "olá", vision: bool = True, max_bytes: int = 10**8) -> MediaReader:
    transcribe = None if words is None else lambda _audio, _type: words
    return MediaReader(files.download, transcribe, vision=vision, max_bytes=max_bytes)


def test_a_voice_note_becomes_its_words():
    files = Files()
    reading = reader(files, words=" quero um bolo \n", max_bytes=77).read(voice())
    assert (reading.message.text, reading.image, reading.refusal) == ("quero um bolo", "", None)
    assert files.limits == [77]
    assert reader(Files()).read(voice("legenda")).message.text == "legenda\nolá"


@pytest.mark.parametrize("words", [None, "", "  "])
def test_what_cannot_be_heard_is_said_kindly(words):
    reading = reader(Files(), words=words).read(voice())
    assert (reading.message.text, reading.refusal) == (SILENT, texts.INAUDIBLE)
    reading = reader(Files(), words=words).read(voice("o preço?"))
    assert (reading.message.text, reading.refusal) == (f"o preço?\n{SILENT}", None)


def test_a_file_that_is_refused_for_good_is_said_kindly_and_a_passing_failure_is_raised():
    files = Files()
    files.script = [Permanent("too large"), Transient("503"), ChannelDown("token")]
    assert reader(files).read(voice()).refusal == texts.INAUDIBLE
    with pytest.raises(Transient, match="503"):
        reader(files).read(voice())
    with pytest.raises(ChannelDown):
        reader(files).read(voice())


@pytest.mark.parametrize(
    ("content", "mime_type"),
    [(PNG, "image/png"), (b"\xff\xd8\xff\xe0jfif", "image/jpeg"), (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp")],
)
def test_an_image_is_shown_as_what_it_is(content, mime_type):
    files = Files(content)
    reading = reader(files).read(image("o que é isto?"))
    assert reading.message.text == f"{SHOWN}\no que é isto?"
    assert reading.image == f"data:{mime_type};base64,{base64.b64encode(content).decode()}"
    assert files.limits == [IMAGE_BYTES]
    assert reader(files).read(image()).message.text == SHOWN


def test_an_image_nobody_can_see_is_said_kindly_or_answered_by_its_caption():
    files = Files(PNG)
    assert reader(files, vision=False).read(image()).refusal == texts.UNSEEN
    assert reader(files, vision=False).read(image("quanto custa?")).message.text == f"quanto custa?\n{HIDDEN}"
    assert files.limits == [], "what is not looked at is not fetched"
    assert reader(Files(b"GIF89a")).read(image()).refusal == texts.UNSEEN


@pytest.mark.parametrize(
    ("kind", "mime_type"),
    [("sticker", "image/webp"), ("document", "application/pdf"), ("document", "image/png"), ("video", "video/mp4"),
     ("stickerMessage", "image/webp"), ("text", "")],
)  # fmt: skip
def test_other_files_are_not_fetched(kind, mime_type):
    message, files = image("legenda", kind=kind, media=Media("9", mime_type=mime_type)), Files()
    assert reader(files).read(message) == Reading(message)
    assert files.limits == []


@pytest.mark.parametrize(
    ("kind", "media"),
    [("audio", Media("1")), ("audioMessage", Media("1")), ("x", Media("1", voice=True)),
     ("x", Media("1", mime_type="Audio/OGG"))],
)  # fmt: skip
def test_audio_is_known_by_its_kind_or_its_type(kind, media):
    assert reader(Files()).read(voice(kind=kind, media=media)).message.text == "olá"


@pytest.mark.parametrize("note", [SHOWN, HIDDEN, SILENT])
def test_our_notes_speak_for_no_language(note):
    assert texts.guess(note, "15550001111") == "en"


# -- one turn --------------------------------------------------------------------


class Echo:
    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.past: list[str] = []
        self.script: list[Exception] = []

    def reply(self, message: Message, history: Any, image: str = "") -> str:
        self.asked.append((message.text, image))
        self.past = [turn.message.text for turn in history]
        if self.script:
            raise self.script.pop(0)
        return f"eco {message.text}"


class Published:
    def __init__(self) -> None:
        self.buried: list[tuple[Message, str]] = []
        self.told: list[str] = []

    def wake_sender(self, user, number): ...
    def mark_read(self, message, *, at): ...

    def bury(self, message, reason):
        self.buried.append((message, reason))

    def notify(self, message, what, text):
        self.told.append(what)


class Talk:
    def __init__(self, files: Files, **options: Any) -> None:
        self.redis = connect(f"fakeredis://media-{next(fresh)}")
        self.store = Store(self.redis, history_turns=5, retention=100, clock=lambda: 1.0)
        self.agent, self.published = Echo(), Published()
        self.now = 0.0
        self.breaker = Breaker(failures=5, rest=60, clock=lambda: self.now)
        self.conversation = Conversation(
            self.store, lambda: self.agent, self.published, runs=Runs("here", Presence(self.redis)), llm_tries=3,
            breaker=self.breaker,
            read=reader(files, **options).read, sleep=lambda _: None,
        )  # fmt: skip

    def answer(self, message: Message):
        return self.conversation.answer(message)

    def stored(self) -> str:
        """Return everything Redis holds."""
        held = []
        for key in self.redis.keys("*"):
            kind = self.redis.type(key)
            read = {"hash": self.redis.hgetall, "string": self.redis.get}.get(kind)
            held.append(str(read(key) if read else self.redis.lrange(key, 0, -1) if kind == "list" else ""))
        return "".join(held)


def test_the_turn_and_the_past_hold_the_words():
    talk = Talk(Files(), words="meu nome é Ana")
    turn = talk.answer(voice())
    assert (turn.message.text, turn.reply) == ("meu nome é Ana", "eco meu nome é Ana")
    talk.answer(Message(user="ana", id="2", text="e agora?"))
    assert talk.agent.past == ["meu nome é Ana"]
    assert talk.store.history("ana")[0].message.media == FILE


def test_a_message_delivered_again_is_not_fetched_again():
    files = Files()
    talk = Talk(files)
    assert talk.answer(voice()) == talk.answer(voice())
    assert len(files.limits) == 1


def test_who_cannot_be_heard_is_told_in_the_language_they_wrote_in():
    talk = Talk(Files(), words=None)
    talk.answer(Message(user="ana", id="1", text="Hello, what is the price?", phone="5511999990001"))
    turn = talk.answer(voice())
    assert (turn.reply, turn.failure) == (texts.INAUDIBLE["en"], "")
    assert turn.message.text == SILENT, "the past tells the agent that there was one"
    assert talk.answer(voice(id="v2")).reply == texts.INAUDIBLE["en"]
    assert len(talk.agent.asked) == 1
    assert talk.published.buried == []


def test_fetching_is_tried_again_in_place_then_waits_and_ends_in_an_apology():
    files = Files()
    talk = Talk(files)
    files.script = [Transient("503")] * (READ_TRIES - 1)
    assert talk.answer(voice()).reply == "eco olá"
    for _ in range(MAX_WAITS):
        files.script = [Transient("503")] * READ_TRIES
        with pytest.raises(Transient):
            talk.answer(voice(id="v2"))
    assert talk.published.told == ["waiting"], "once"
    files.script = [Transient("503")] * READ_TRIES
    turn = talk.answer(voice(id="v2"))
    assert turn.reply == texts.APOLOGY["pt"]
    assert talk.published.buried == [(voice(id="v2"), "Transient: 503")], "with its file: it may be replayed"
    assert len(files.limits) == (MAX_WAITS + 2) * READ_TRIES
    assert len(talk.agent.asked) == 1


def test_an_image_is_shown_once_and_stored_nowhere():
    talk = Talk(Files(PNG))
    talk.agent.script = [Transient("429")]
    talk.answer(image("o que é isto?"))
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert talk.agent.asked == [(f"{SHOWN}\no que é isto?", url)] * 2
    assert base64.b64encode(PNG).decode() not in talk.stored()
    assert SHOWN in talk.stored()


def test_while_the_model_rests_nothing_is_fetched():
    files = Files()
    talk = Talk(files)
    talk.agent.script = [ServiceDown("down")] * 5
    for n, user in enumerate(("caio", "dora")):
        try:
            talk.answer(Message(user=user, id=str(n), text="oi"))
        except Transient:
            pass
    for _ in range(3):
        with pytest.raises(CircuitOpen):
            talk.answer(voice())
    assert files.limits == []
    assert talk.published.told == ["waiting"] * 3, "for each message that waits; the sender says it once an hour"
    talk.breaker._clock = lambda: float("inf")
    assert talk.answer(voice()).reply == "eco olá"


def waits(talk: Talk, message: Message) -> str:
    """Return what the message waits for, or its reply."""
    try:
        return talk.answer(message).reply
    except Transient as err:
        return type(err).__name__


def text(user: str, n: object) -> Message:
    return Message(user=user, id=f"{user} {n}", text="oi")


def test_while_the_model_is_down_for_everybody_a_voice_note_waits_as_a_text_does():
    files = Files()
    talk = Talk(files)
    talk.agent.script = [ServiceDown("down")] * 1_000
    for n, user in enumerate(("caio", "dora")):
        waits(talk, text(user, n))
    for _ in range(MAX_WAITS * 3):
        talk.now += 30.0  # now and then it is the one that is tried with
        assert waits(talk, voice()) in {"CircuitOpen", "ServiceDown"}
    assert talk.published.buried == []
    talk.agent.script.clear()
    talk.now += 60.0
    assert waits(talk, voice()) == "eco olá"


@pytest.mark.parametrize("errors", [[Transient("429")] * 3, [ServiceDown("down")] * 3])
def test_who_waited_while_the_model_was_down_is_not_given_up_for_one_failure_after_it(errors):
    talk = Talk(Files())
    talk.agent.script = [ServiceDown("down")] * 5
    for n, user in enumerate(("caio", "dora")):
        waits(talk, text(user, n))
    for _ in range(MAX_WAITS * 2):
        assert {waits(talk, voice()), waits(talk, text("bia", 1))} == {"CircuitOpen"}
    talk.now += 60.0
    assert waits(talk, text("caio", 0)) == "eco oi"
    for message in (voice(), text("bia", 1)):
        talk.agent.script = list(errors)
        assert waits(talk, message) == type(errors[0]).__name__
        assert waits(talk, message).startswith("eco")


def test_while_transcription_is_down_for_everybody_voice_notes_wait_and_texts_are_answered():
    files = Files()
    talk = Talk(files)
    talk.answer(text("caio", 0))
    files.script = [Transient("503")] * 1_000
    for n in range(MAX_WAITS * 4):
        talk.now += 60.0  # each is the one that is tried with, every other time
        waiting = {waits(talk, voice(user=user, id=f"v {user}")) for user in ("ana", "bia")}
        assert waiting <= {"Transient", "CircuitOpen"}
        assert waits(talk, text("caio", n + 1)) == "eco oi"
    assert talk.published.buried == []
    assert len(files.limits) < MAX_WAITS * 4 * 2 * READ_TRIES, "a server that is down is spared"
    files.script.clear()
    talk.now += 60.0
    assert [waits(talk, voice(user=user, id=f"v {user}")) for user in ("bia", "ana")] == ["eco olá"] * 2


def test_a_file_that_fails_alone_is_given_up_while_those_of_others_are_read():
    files = Files()
    talk = Talk(files)
    for n in range(MAX_WAITS):
        assert waits(talk, voice(user="bia", id=f"b{n}")) == "eco olá"
        files.script = [Transient("503")] * READ_TRIES
        assert waits(talk, voice()) == "Transient"
    files.script = [Transient("503")] * READ_TRIES
    assert waits(talk, voice()) == texts.APOLOGY["pt"]
    assert [message.user for message, _ in talk.published.buried] == ["ana"]


def test_files_that_fail_for_ever_hold_nobody_up_for_ever():
    files = Files()
    talk = Talk(files)
    files.script = [Transient("503")] * 1_000
    replies = []
    for _ in range(MAX_FILE_WAITS * 4):
        talk.now += 60.0
        replies += [waits(talk, voice(user=user, id=f"v {user}")) for user in ("ana", "bia")]
        if replies[-2:] == [texts.APOLOGY["pt"]] * 2:
            break
    assert replies.index(texts.APOLOGY["pt"]) > MAX_WAITS * 2
    assert {message.user for message, _ in talk.published.buried} == {"ana", "bia"}


def test_a_voice_note_that_was_heard_waits_for_the_model_also_where_nobody_else_writes():
    talk = Talk(Files())
    talk.agent.script = [ServiceDown("loading")] * 3 * (MAX_WAITS + 2)
    for _ in range(MAX_WAITS + 2):
        assert waits(talk, voice()) == "ServiceDown"
    assert waits(talk, voice()) == "eco olá"


def test_an_image_that_the_model_fails_at_alone_is_given_up():
    talk = Talk(Files(PNG))
    talk.agent.script = [ServiceDown("500")] * 1_000
    for _ in range(MAX_WAITS):
        assert waits(talk, image("o que é isto?")) == "ServiceDown"
    assert waits(talk, image("o que é isto?")) == texts.APOLOGY["pt"]


def test_a_sticker_is_refused_as_ever():
    talk = Talk(Files())
    assert talk.answer(image(kind="sticker")).reply == texts.UNREADABLE["pt"]
    assert talk.agent.asked == []


# -- chatbot doctor --------------------------------------------------------------


def found(whisper: Server, model: str = "whisper-1", base_url: str | None = "/v1"):
    settings = Settings(
        _env_file=None, transcription_base_url=base_url and whisper.url + base_url, transcription_model=model,
        broker_url="memory://", redis_url="fakeredis://doctor", whatsapp_graph_url=f"{whisper.url}/v26.0",
    )  # fmt: skip
    return {finding.part: finding for finding in examine(Chatbot(settings))}.get("transcription")


def test_the_doctor_looks_for_the_transcription_server(whisper):
    assert found(whisper).ok, "whisper.cpp lists no models"
    whisper.answers["/v1/models"] = Answer(content=b'{"data": [{"id": "whisper-1"}]}')
    assert found(whisper).says == "whisper-1 is served"
    assert "not among" in found(whisper, "other").says
    whisper.answers["/v1/models"] = Answer(401)
    assert "CHATBOT_TRANSCRIPTION_API_KEY" in found(whisper).says
    del whisper.answers["/v1/audio/transcriptions"]
    assert "CHATBOT_TRANSCRIPTION_BASE_URL" in found(whisper).says
    assert found(whisper, base_url=None) is None


# -- the whole, in one process ---------------------------------------------------


def test_what_the_settings_name_is_what_reads(graph, whisper):
    settings = Settings(
        _env_file=None, broker_url="memory://", redis_url="fakeredis://whole", whatsapp_graph_url=f"{graph.url}/v26.0",
        whatsapp_access_token="t", transcription_base_url=f"{whisper.url}/v1/",
    )  # fmt: skip
    bot = Chatbot(settings)
    assert bot.media_reader.read(voice(channel="whatsapp")).message.text == "olá, tudo bem?"
    assert bot.media_reader.read(image(channel="whatsapp")).refusal == texts.UNSEEN
    assert bot.media_reader.read(voice(channel="shell")).refusal == texts.INAUDIBLE
