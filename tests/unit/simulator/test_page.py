"""The simulator's page in a real browser, with a business that answers when it is told to.

``python -m tests.unit.simulator.test_page`` makes ``docs/images/simulator.png``
anew, which the manual shows.
"""

from __future__ import annotations

import io
import math
import os
import shutil
import struct
import threading
import wave
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask, Response, request
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, ViewportSize, expect, sync_playwright

from chatbot.simulator.routes import create_app
from chatbot.simulator.simulator import Simulator
from tests.servers import PYTHON, ROOT, Process, free_port, wait_until
from tests.unit.simulator.test_simulator import AUTHORIZED, JOAO, MARIA, NUMBER, interactive, serving

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
TYPING = {"typing_indicator": {"type": "text"}}


SCREENSHOT = ROOT / "docs/images/simulator.png"
DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 320, "height": 640}


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser. Raises ``FileNotFoundError`` where there is none."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        raise FileNotFoundError("Chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the file. Skipped on a laptop without one, an error in CI."""
    try:
        with chromium() as browser:
            yield browser
    except FileNotFoundError as err:
        if os.environ.get("CI"):
            pytest.fail(str(err))
        pytest.skip(str(err))


class Business:
    """Takes webhooks; reads, types and answers when the test says so."""

    def __init__(self) -> None:
        self.url = ""
        self.answers = 200
        self.received: list[dict[str, Any]] = []
        self.arrived = threading.Condition()
        self.app = Flask("business")
        self.app.post("/webhook")(self.receive)

    def receive(self) -> Response:
        value = request.get_json()["entry"][0]["changes"][0]["value"]
        with self.arrived:
            if self.answers == 200:
                self.received += value.get("messages", [])
            self.arrived.notify_all()
        return Response(status=self.answers)

    def heard(self, count: int) -> dict[str, Any]:
        """Wait for so many messages; return the last."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.received) >= count, timeout=10)
            return self.received[-1]

    def read(self, message_id: str, **more: object) -> None:
        self.call({"status": "read", "message_id": message_id, **more})

    def send(self, to: str, text: str) -> None:
        self.call({"to": to, "type": "text", "text": {"body": text}})

    def call(self, body: dict[str, object]) -> None:
        url = f"{self.url}/simulator/graph/v26.0/{NUMBER}/messages"
        httpx.post(url, json={"messaging_product": "whatsapp", **body}, headers=AUTHORIZED).raise_for_status()


@contextmanager
def in_business() -> Iterator[Business]:
    """A business and its simulator, each on a real server."""
    business = Business()
    with serving(business.app) as webhook:
        simulator = Simulator(webhook_url=f"{webhook}/webhook", app_secret="secret")
        simulator.start()
        with serving(create_app(simulator)) as business.url:
            yield business
            simulator.close()


@pytest.fixture
def business() -> Iterator[Business]:
    with in_business() as business:
        yield business


@pytest.fixture
def opened(browser: Browser, business: Business) -> Iterator[Callable[..., Page]]:
    """Open the page; anything but ``expected`` that it writes to the console as an error fails the test."""
    errors: list[str] = []

    def go(*, expected: str = "", **options: object) -> Page:
        context = browser.new_context(locale="pt-BR", **options)  # type: ignore[arg-type]  # Playwright's options
        context.set_default_timeout(10_000)
        page = context.new_page()

        def note(message: ConsoleMessage) -> None:
            if message.type == "error" and not (expected and expected in message.text):
                errors.append(message.text)

        page.on("console", note)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{business.url}/simulator")
        expect(page.locator(".presence").first).to_have_text("online")
        return page

    yield go
    for context in browser.contexts:
        context.close()
    assert errors == []


@pytest.fixture
def page(opened: Callable[..., Page]) -> Page:
    """The page on a desktop."""
    return opened(viewport=DESKTOP)


def write(page: Page, user: str, text: str) -> None:
    """Type a message in somebody's phone and send it with Enter."""
    field = page.locator(f'[data-phone="{user}"] .composer textarea')
    field.fill(text)
    field.press("Enter")


def picture(width: int = 320, height: int = 200, *, seed: int = 0) -> bytes:
    """Return a PNG: hills at dusk."""
    rows = bytearray()
    for y in range(height):
        rows.append(0)
        for x in range(width):
            hill = height * (0.62 + 0.14 * math.sin(x / 41 + seed) + 0.05 * math.sin(x / 13))
            sun = math.hypot(x - width * 0.72, y - height * 0.34) < height * 0.14
            sky = (250 - 60 * y // height, 190 - 50 * y // height, 120 + 60 * y // height)
            rows += bytes((255, 236, 170) if sun else (38, 96 + y // 8, 84) if y > hill else sky)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def voice(seconds: float = 0.3) -> bytes:
    """Return a WAV with a tone."""
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        tone = (int(9000 * math.sin(n / 3)) for n in range(int(8000 * seconds)))
        sound.writeframes(struct.pack(f"<{int(8000 * seconds)}h", *tone))
    return out.getvalue()


PICTURE = ("praia.png", "image/png", picture())
VOICE = ("voz.wav", "audio/wav", voice())


def attach(page: Page, user: str, what: str, file: tuple[str, str, bytes]) -> None:
    """Choose a file in the panel of somebody's phone."""
    page.locator(f'[data-phone="{user}"]').get_by_role("button", name="Anexar").click()
    with page.expect_file_chooser() as chosen:
        page.get_by_role("dialog", name="Anexar").get_by_role("button", name=what, exact=True).click()
    name, mime_type, content = file
    chosen.value.set_files({"name": name, "mimeType": mime_type, "buffer": content})


def fill_in(page: Page, user: str, what: str, **given: str) -> None:
    """Send a place or a card by its form."""
    page.locator(f'[data-phone="{user}"]').get_by_role("button", name="Anexar").click()
    page.get_by_role("dialog", name="Anexar").get_by_role("button", name=what).click()
    form = page.get_by_role("dialog", name=f"Enviar {what.lower()}")
    for label, value in given.items():
        form.get_by_label(label).fill(value)
    form.get_by_role("button", name="Enviar").click()


def act(page: Page, bubble: Locator, what: str) -> None:
    """Choose what is done with one message."""
    bubble.hover()
    bubble.get_by_role("button", name="Ações da mensagem").click()
    page.get_by_role("dialog", name="Ações da mensagem").get_by_role("button", name=what).click()


def expect_shown(image: Locator) -> None:
    """Wait until the browser has drawn an image."""
    expect(image).to_have_js_property("complete", value=True)
    wait_until(lambda: image.evaluate("image => image.naturalWidth") > 0, what="image drawn")


def test_a_conversation_from_writing_to_reading_the_reply(page: Page, business: Business) -> None:
    maria, joao = page.locator(f'[data-phone="{MARIA}"]'), page.locator(f'[data-phone="{JOAO}"]')
    write(page, MARIA, "oi, tudo bem?")
    mine = maria.locator(".bubble.out")
    expect(mine.locator(".text")).to_have_text("oi, tudo bem?")
    expect(mine.locator(".ticks")).to_have_attribute("aria-label", "entregue")
    business.read(business.heard(1)["id"], **TYPING)
    expect(mine).to_have_attribute("data-state", "read")
    expect(mine.locator(".ticks")).to_have_attribute("aria-label", "lida")
    expect(maria.locator(".typing")).to_be_visible()
    expect(maria.locator(".presence")).to_have_text("digitando…")
    business.send(MARIA, "Olá, Maria!")
    expect(maria.locator(".bubble.in .text")).to_have_text("Olá, Maria!")
    expect(maria.locator(".typing")).to_be_hidden()
    expect(maria.locator(".presence")).to_have_text("online")
    expect(joao.locator(".bubble")).to_have_count(0)
    expect(joao.locator(".typing")).to_be_hidden()


def test_what_is_written_is_shown_and_never_run(page: Page, business: Business) -> None:
    nasty = "<img src=x onerror=\"document.title='p'+'wned'\"><b>oi</b>"
    write(page, MARIA, nasty)
    business.heard(1)
    business.send(MARIA, f"eco: {nasty} javascript:alert(1)")
    theirs = page.locator(".bubble.in .text")
    expect(theirs).to_have_text(f"eco: {nasty} javascript:alert(1)")
    expect(page.locator(".bubble.out .text")).to_have_text(nasty)
    expect(page.locator(".bubble .text :is(img, b, a, script)")).to_have_count(0)
    expect(page).to_have_title("Simulador")


def test_whatsapp_formatting(page: Page, business: Business) -> None:
    business.send(
        MARIA,
        "*negrito* e _itálico com ~risco~_, `x = 1`\n```\ndef f():\n    *nada*\n```\n- um\n- dois\n"
        "2*3*4 fica, snake_case_aqui também; https://example.org/a?b=1.",
    )
    text = page.locator(f'[data-phone="{MARIA}"] .bubble .text')
    expect(text.locator("strong")).to_have_text("negrito")
    expect(text.locator("em")).to_have_text("itálico com risco")
    expect(text.locator("em s")).to_have_text("risco")
    expect(text.locator("code.block")).to_have_text("def f():\n    *nada*", use_inner_text=True)
    expect(text.locator(".item")).to_have_text(["•um", "•dois"])
    expect(text.locator("a")).to_have_attribute("href", "https://example.org/a?b=1")
    expect(text).to_contain_text("2*3*4 fica, snake_case_aqui também")


def test_a_message_that_was_not_taken_can_be_tried_again(page: Page, business: Business) -> None:
    business.answers = 503
    write(page, MARIA, "oi")
    bubble = page.locator(".bubble.out")
    expect(bubble).to_have_attribute("data-state", "failed")
    business.answers = 200
    bubble.get_by_role("button", name="Não entregue").click()
    expect(bubble).to_have_attribute("data-state", "delivered")
    expect(bubble).to_have_count(1)
    expect(bubble.get_by_role("button", name="Não entregue")).to_be_hidden()


def test_an_image_goes_with_its_caption_also_the_second_time_and_audio_as_a_voice_note(
    page: Page, business: Business
) -> None:
    maria = page.locator(f'[data-phone="{MARIA}"]')
    maria.locator("textarea").fill("o que é isto?")
    business.answers = 503
    attach(page, MARIA, "Foto", PICTURE)
    bubble = maria.locator(".bubble.out")
    expect(bubble.locator(".text")).to_have_text("o que é isto?")
    expect(maria.locator("textarea")).to_have_value("")
    expect_shown(bubble.locator("img"))
    expect(bubble).to_have_attribute("data-state", "failed")
    business.answers = 200
    bubble.get_by_role("button", name="Não entregue").click()
    assert business.heard(1)["image"]["caption"] == "o que é isto?"
    expect(bubble).to_have_count(1)
    attach(page, MARIA, "Mensagem de voz", VOICE)
    expect(bubble.last.locator("audio")).to_have_attribute("aria-label", "Mensagem de voz")
    assert business.heard(2)["audio"]["voice"] is True


def test_a_picture_is_seen_and_a_voice_note_played_also_after_a_reload(page: Page, business: Business) -> None:
    attach(page, MARIA, "Foto", PICTURE)
    assert business.heard(1)["image"]["mime_type"] == "image/png"
    attach(page, MARIA, "Mensagem de voz", VOICE)
    assert business.heard(2)["audio"]["mime_type"] == "audio/wav"
    for _ in range(2):
        maria = page.locator(f'[data-phone="{MARIA}"]')
        expect_shown(maria.locator(".bubble.out img"))
        link = maria.get_by_role("link", name="Abrir imagem")
        assert httpx.get(f"{business.url}{link.get_attribute('href')}").content == PICTURE[2]
        audio = maria.locator(".bubble.out audio")
        audio.evaluate("audio => audio.play()")
        expect(audio).to_have_js_property("ended", value=True)
        assert audio.evaluate("audio => audio.duration") == pytest.approx(0.3, abs=0.05)
        page.reload()


def test_a_document_goes_with_its_name_and_can_be_fetched(page: Page, business: Business) -> None:
    maria = page.locator(f'[data-phone="{MARIA}"]')
    maria.locator("textarea").fill("segue o boleto")
    attach(page, MARIA, "Documento", ("boleto de maio.pdf", "application/pdf", b"%PDF-1.7 " * 300))
    document = business.heard(1)["document"]
    assert (document["filename"], document["mime_type"]) == ("boleto de maio.pdf", "application/pdf")
    assert document["caption"] == "segue o boleto"
    bubble = maria.locator(".bubble.out")
    expect(bubble.locator(".card strong")).to_have_text("boleto de maio.pdf")
    expect(bubble.locator(".text")).to_have_text("segue o boleto")
    with page.expect_download() as fetched:
        bubble.get_by_role("link", name="Baixar boleto de maio.pdf").click()
    assert fetched.value.suggested_filename == "boleto de maio.pdf"
    assert fetched.value.path().read_bytes() == b"%PDF-1.7 " * 300


def test_any_picture_becomes_a_sticker(page: Page, business: Business) -> None:
    attach(page, MARIA, "Figurinha", PICTURE)
    sticker = business.heard(1)["sticker"]
    assert (sticker["mime_type"], sticker["animated"]) == ("image/webp", False)
    image = page.locator(f'[data-phone="{MARIA}"] .bubble[data-type="sticker"] img')
    expect_shown(image)
    assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [512, 512]


def test_what_is_no_picture_is_said_and_not_sent(page: Page, business: Business) -> None:
    maria = page.locator(f'[data-phone="{MARIA}"]')
    attach(page, MARIA, "Figurinha", ("x.png", "image/png", b"no picture"))
    expect(maria.get_by_role("status")).to_have_text("Este arquivo não é uma imagem.")
    attach(page, MARIA, "Foto", ("x.png", "image/png", b"x" * (5 * 1024 * 1024 + 1)))
    expect(maria.get_by_role("status")).to_have_text("Grande demais: no máximo 5120 KB.")
    write(page, MARIA, "oi")
    assert business.heard(1)["type"] == "text"
    expect(maria.locator(".bubble.out")).to_have_count(1)
    expect(maria.get_by_role("status")).to_be_hidden()


def test_a_place_and_a_card_are_sent_by_their_forms(page: Page, business: Business) -> None:
    fill_in(page, MARIA, "Localização", **{"Nome do lugar": "Praça da Sé", "Latitude": "-23.55"})
    assert business.heard(1)["location"] == {
        "latitude": -23.55, "longitude": -46.655881, "name": "Praça da Sé", "address": "Av. Paulista, 1578",
    }  # fmt: skip
    fill_in(page, MARIA, "Contato", Nome="Ana Clara Lima", Telefone="+55 11 97777-0003")
    assert business.heard(2)["contacts"] == [{
        "name": {"formatted_name": "Ana Clara Lima", "first_name": "Ana", "last_name": "Clara Lima"},
        "phones": [{"phone": "+55 11 97777-0003", "type": "CELL", "wa_id": "5511977770003"}],
    }]  # fmt: skip
    cards = page.locator(f'[data-phone="{MARIA}"] .bubble.out .card')
    expect(cards.first).to_contain_text("Praça da Sé")
    expect(cards.first).to_contain_text("-23.55, -46.655881")
    expect(cards.last).to_contain_text("Ana Clara Lima")


def test_a_message_is_quoted(page: Page, business: Business) -> None:
    maria = page.locator(f'[data-phone="{MARIA}"]')
    business.send(MARIA, "Quer *dois* ou três?")
    theirs = maria.locator(".bubble.in")
    act(page, theirs, "Responder")
    expect(maria.locator(".banner")).to_contain_text("Resposta a Assistente")
    page.keyboard.type("dois")
    page.keyboard.press("Enter")
    [sent] = httpx.get(f"{business.url}/simulator/sent").json()
    message = business.heard(1)
    assert message["context"] == {"from": "5511400000000", "id": sent["id"]}
    assert message["text"] == {"body": "dois"}
    mine = maria.locator(".bubble.out")
    expect(mine.locator(".quoted .said")).to_have_text("Quer dois ou três?")
    expect(maria.locator(".banner")).to_be_hidden()
    business.call({"to": MARIA, "text": {"body": "Dois, então."}, "context": {"message_id": message["id"]}})
    expect(theirs.last.locator(".quoted")).to_contain_text("dois")
    act(page, mine, "Responder")
    page.keyboard.press("Escape")
    write(page, MARIA, "outra coisa")
    assert "context" not in business.heard(2)
    page.reload()
    expect(mine.first.locator(".quoted .said")).to_have_text("Quer dois ou três?")


def test_a_reaction_is_shown_and_taken_back(page: Page, business: Business) -> None:
    maria = page.locator(f'[data-phone="{MARIA}"]')
    business.send(MARIA, "Pronto!")
    theirs = maria.locator(".bubble.in")
    act(page, theirs, "Reagir com coração")
    [sent] = httpx.get(f"{business.url}/simulator/sent").json()
    assert business.heard(1)["reaction"] == {"message_id": sent["id"], "emoji": "❤️"}
    expect(theirs.locator(".reaction .emoji")).to_have_text("❤️")
    page.reload()
    theirs.locator(".reaction").click()
    assert business.heard(2)["reaction"] == {"message_id": sent["id"]}
    expect(theirs.locator(".reaction")).to_be_hidden()
    expect(maria.locator(".bubble")).to_have_count(1)


def test_what_was_written_is_edited_and_deleted(page: Page, business: Business) -> None:
    maria = page.locator(f'[data-phone="{MARIA}"]')
    mine, field = maria.locator(".bubble.out"), maria.locator("textarea")
    write(page, MARIA, "quero doi")
    original = business.heard(1)["id"]
    field.fill("rascunho")
    act(page, mine, "Editar")
    expect(field).to_have_value("quero doi")
    field.fill("quero dois")
    field.press("Enter")
    assert business.heard(2)["edit"] == {
        "original_message_id": original, "message": {"type": "text", "text": {"body": "quero dois"}},
    }  # fmt: skip
    expect(mine.locator(".text")).to_have_text("quero dois")
    expect(mine.locator(".edited")).to_be_visible()
    expect(field).to_have_value("rascunho")
    act(page, mine, "Apagar")
    assert business.heard(3)["revoke"] == {"original_message_id": original}
    expect(mine.locator(".text")).to_have_text("Você apagou esta mensagem")
    expect(mine.get_by_role("button", name="Ações da mensagem")).to_be_hidden()
    business.send(MARIA, "ok")
    theirs = maria.locator(".bubble.in")
    theirs.hover()
    theirs.get_by_role("button", name="Ações da mensagem").click()
    offered = page.get_by_role("dialog", name="Ações da mensagem").get_by_role("button")
    expect(offered.filter(has_text="Responder")).to_be_visible()
    expect(offered.filter(has_text="Apagar")).to_be_hidden()
    expect(offered.filter(has_text="Editar")).to_be_hidden()


def test_a_list_shows_its_descriptions_and_a_tap_tells_the_row(page: Page, business: Business) -> None:
    asked = interactive("list", "Manhã", "Tarde")
    rows = asked["interactive"]["action"]["sections"][0]["rows"]
    rows[0]["description"] = "das 8h às 12h"
    business.call(asked)
    [sent] = httpx.get(f"{business.url}/simulator/sent").json()
    theirs = page.locator(f'[data-phone="{MARIA}"] .bubble.in')
    expect(theirs.locator(".menu")).to_have_text("Ver")
    expect(theirs.locator(".description")).to_have_text("das 8h às 12h")
    assert theirs.locator(".label").first.evaluate("label => label.offsetHeight") > 10, "the title is seen"
    theirs.get_by_role("button", name="Manhã").click()
    message = business.heard(1)
    assert message["interactive"] == {
        "type": "list_reply", "list_reply": {"id": "0", "title": "Manhã", "description": "das 8h às 12h"},
    }  # fmt: skip
    assert message["context"]["id"] == sent["id"]
    expect(page.locator(f'[data-phone="{MARIA}"] .bubble.out .text')).to_have_text("Manhã")


def test_every_new_kind_is_shown_and_never_run(page: Page, business: Business) -> None:
    nasty = "<img src=x onerror=\"document.title='p'+'wned'\">"
    asked = interactive("list", "<b>a</b>")
    asked["interactive"]["action"]["sections"][0]["rows"][0]["description"] = nasty
    asked["interactive"]["action"]["button"] = "<i>ver</i>"
    business.call(asked)
    maria = page.locator(f'[data-phone="{MARIA}"]')
    fill_in(page, MARIA, "Localização", **{"Nome do lugar": nasty})
    fill_in(page, MARIA, "Contato", Nome=nasty)
    attach(page, MARIA, "Documento", (f"{nasty}.html".replace("/", ""), "text/html", nasty.encode()))
    maria.locator("textarea").fill(nasty)
    attach(page, MARIA, "Foto", PICTURE)
    business.heard(4)
    act(page, maria.locator(".bubble.in"), "Responder")
    page.keyboard.type(nasty)
    page.keyboard.press("Enter")
    expect(maria.locator(".bubble.out")).to_have_count(5)
    act(page, maria.locator(".bubble.out").last, "Responder")
    expect(maria.locator(".banner .said")).to_have_text(nasty)
    expect(page.locator(".bubble :is(b, i, script), .bubble img:not(.picture img), .banner img")).to_have_count(0)
    expect(page).to_have_title("Simulador")
    address = maria.get_by_role("link", name="Baixar").get_attribute("href")
    answer = httpx.get(f"{business.url}{address}")
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


class Away:
    """A simulator in a process of its own, which can be killed and started again."""

    def __init__(self, folder: Path, webhook: str) -> None:
        port = free_port()
        self.url, self._log = f"http://127.0.0.1:{port}/simulator", folder / "simulator.log"
        self._command = [
            PYTHON, "-m", "chatbot.simulator", "--webhook-url", webhook, "--app-secret", "s", "--port", str(port),
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        self._process = Process(self._command, log=self._log).start()
        wait_until(self.answers, what="simulator up")

    def answers(self) -> bool:
        try:
            return httpx.get(self.url).is_success
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        self._process.kill()


@pytest.fixture
def away(tmp_path: Path) -> Iterator[tuple[Away, Business]]:
    business = Business()
    with serving(business.app) as webhook:
        away = Away(tmp_path, f"{webhook}/webhook")
        yield away, business
        away.kill()


def test_what_is_written_while_the_server_is_away_goes_when_it_is_back(
    browser: Browser, away: tuple[Away, Business]
) -> None:
    server, business = away
    with browser.new_context(locale="pt-BR", viewport=DESKTOP) as context:
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.goto(server.url)
        maria = page.locator(f'[data-phone="{MARIA}"]')
        expect(maria.locator(".presence")).to_have_text("online")
        write(page, MARIA, "um")
        mine = maria.locator(".bubble.out")
        expect(mine).to_have_attribute("data-state", "delivered")
        server.kill()
        write(page, MARIA, "dois")
        expect(mine.last).to_have_attribute("data-state", "unsent")
        attach(page, MARIA, "Foto", PICTURE)
        write(page, MARIA, "três")
        fill_in(page, MARIA, "Contato")
        act(page, mine.first, "Reagir com joinha")
        unsent = maria.locator('.bubble[data-state="unsent"]')
        expect(unsent).to_have_count(4)
        expect(unsent.first).to_contain_text("Não enviada")
        expect(unsent.first.locator(".ticks")).to_have_attribute("aria-label", "não enviada")
        expect(maria.get_by_role("status")).to_have_text("Sem servidor: vai quando ele voltar.")
        maria.locator("textarea").fill("meia fra")
        expect(maria.locator(".presence")).to_have_text("conectando…")
        server.start()
        business.heard(6)
        expect(maria.locator('.bubble[data-state="delivered"]')).to_have_count(4)
        expect(unsent).to_have_count(0)
        expect(maria.get_by_role("status")).to_be_hidden()
        expect(maria.locator("textarea")).to_have_value("meia fra")
        page.reload()
        expect(maria.locator("textarea")).to_have_value("meia fra")
        write(page, MARIA, "fim")
        business.heard(7)
        kinds = ["text", "text", "image", "text", "contacts", "reaction", "text"]
        assert [message["type"] for message in business.received] == kinds, "each once, in order"
        page.reload()
        expect(maria.locator("textarea")).to_have_value("")


def test_what_waits_survives_a_reload_and_a_lost_answer_doubles_nothing(
    opened: Callable[..., Page], business: Business
) -> None:
    page = opened(viewport=DESKTOP, expected="status of 502")
    lost = []

    def lose(route: Any) -> None:
        if not lost:
            lost.append(route.fetch().status)  # the server has it, the page never hears of it
        route.fulfill(status=502)

    page.route("**/simulator/say", lose)
    write(page, MARIA, "um")
    mine = page.locator(f'[data-phone="{MARIA}"] .bubble.out')
    write(page, MARIA, "dois")
    wait_until(lambda: bool(lost), what="the first was posted")
    assert business.heard(1)["text"]["body"] == "um"
    expect(mine.last).to_have_attribute("data-state", "unsent")
    page.unroute("**/simulator/say")
    page.reload()
    assert business.heard(2)["text"]["body"] == "dois"
    expect(mine).to_have_count(2)
    expect(mine.first).to_have_attribute("data-state", "delivered")
    expect(mine.last).to_have_attribute("data-state", "delivered")
    write(page, MARIA, "três")
    business.heard(3)
    assert [message["text"]["body"] for message in business.received] == ["um", "dois", "três"]


def test_the_keyboard_alone_suffices(page: Page, business: Business) -> None:
    business.send(MARIA, "primeira")
    business.send(MARIA, "segunda")
    maria = page.locator(f'[data-phone="{MARIA}"]')
    expect(maria.locator(".bubble")).to_have_count(2)
    maria.locator("textarea").focus()
    page.keyboard.press("Shift+Tab")
    expect(maria.locator(".bubble").last.locator(".act")).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(maria.locator(".bubble").first.locator(".act")).to_be_focused()
    page.keyboard.press("Enter")
    panel = page.get_by_role("dialog", name="Ações da mensagem")
    expect(panel.get_by_role("button", name="Reagir com joinha")).to_be_focused()
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(maria.locator(".bubble").first.locator(".act")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowUp")
    expect(panel.get_by_role("button", name="Responder")).to_be_focused()
    page.keyboard.press("Enter")
    expect(maria.locator("textarea")).to_be_focused()
    page.keyboard.type("a primeira")
    page.keyboard.press("Enter")
    assert business.heard(1)["context"]["id"] == httpx.get(f"{business.url}/simulator/sent").json()[0]["id"]
    page.keyboard.press("Tab")
    expect(maria.get_by_role("button", name="Anexar")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(4):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    form = page.get_by_role("dialog", name="Enviar localização")
    expect(form.get_by_label("Nome do lugar")).to_be_focused()
    page.keyboard.press("Enter")
    assert business.heard(2)["location"]["name"] == "MASP"
    expect(maria.locator("textarea")).to_be_focused()


def all_kinds(page: Page, business: Business) -> None:
    """Have Maria's phone show every kind of message."""
    business.send(MARIA, "Bom dia! Em que *posso ajudar*? https://example.org/uma/pagina/de/nome/bem/comprido")
    attach(page, MARIA, "Foto", PICTURE)
    attach(page, MARIA, "Mensagem de voz", VOICE)
    attach(
        page, MARIA, "Documento", ("um-nome-de-arquivo-sem-espacos-e-muito-comprido.pdf", "application/pdf", b"%PDF")
    )
    attach(page, MARIA, "Figurinha", PICTURE)
    fill_in(page, MARIA, "Localização")
    fill_in(page, MARIA, "Contato")
    business.heard(6)
    act(page, page.locator(f'[data-phone="{MARIA}"] .bubble.in').first, "Reagir com joinha")
    act(page, page.locator(f'[data-phone="{MARIA}"] .bubble.in').first, "Responder")
    page.keyboard.type("isso")
    page.keyboard.press("Enter")
    asked = interactive("list", "Manhã", "Tarde")
    asked["interactive"]["action"]["sections"][0]["rows"][0]["description"] = "das 8h às 12h, todos os dias da semana"
    business.call(asked)
    business.heard(8)
    business.answers = 503
    write(page, MARIA, "não chega")
    expect(page.locator('.bubble[data-state="failed"]')).to_be_visible()


#: What sticks out of the window, and what is smaller than a finger; links within a text are exempt.
TOO_WIDE = """() => [...document.querySelectorAll("body *")].filter((part) => {
  const { left, right, width } = part.getBoundingClientRect();
  return width && !part.closest(".visually-hidden, .topbar .title") && (left < 0 || right > innerWidth);
}).map((part) => part.outerHTML.slice(0, 120))"""
TOO_SMALL = """() => [...document.querySelectorAll("button, input, textarea, audio, a, select")].filter((part) => {
  const { width, height } = part.getBoundingClientRect();
  return width && !part.closest(".text") && (width < 40 || height < 40);
}).map((part) => part.outerHTML.slice(0, 120))"""
UNNAMED = """() => [...document.querySelectorAll("button, input, textarea, audio, a, img")].filter((part) =>
  part.checkVisibility() && !part.labels?.length && !part.ariaLabel && !part.textContent.trim() && !part.alt
).map((part) => part.outerHTML.slice(0, 120)).filter((html) => !html.includes('class="logo"'))"""


def expect_fit(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0
    assert page.locator(".active .log").evaluate("log => log.scrollWidth - log.clientWidth") == 0
    assert (page.evaluate(TOO_WIDE), page.evaluate(TOO_SMALL), page.evaluate(UNNAMED)) == ([], [], [])


def test_everything_fits_320_pixels_and_a_finger(opened: Callable[..., Page], business: Business) -> None:
    page = opened(viewport=PHONE, has_touch=True, is_mobile=True, reduced_motion="reduce")
    all_kinds(page, business)
    maria = page.locator(f'[data-phone="{MARIA}"]')
    expect_shown(maria.locator("img").first)
    expect_fit(page)
    maria.get_by_role("button", name="Anexar").click()
    expect_fit(page)
    page.keyboard.press("Escape")
    for bubble in (maria.locator(".bubble.in").first, maria.locator('.bubble[data-type="image"]')):
        bubble.get_by_role("button", name="Ações da mensagem").click()
        expect_fit(page)
        page.get_by_role("dialog", name="Ações da mensagem").get_by_role("button", name="Responder").click()
        expect_fit(page)
    for what in ("Localização", "Contato"):
        maria.get_by_role("button", name="Anexar").click()
        page.get_by_role("dialog", name="Anexar").get_by_role("button", name=what).click()
        expect_fit(page)
        page.get_by_role("button", name="Cancelar").last.click()


def test_the_conversation_is_there_after_a_reload(page: Page, business: Business) -> None:
    write(page, MARIA, "oi")
    business.read(business.heard(1)["id"], **TYPING)
    expect(page.locator(".bubble.out")).to_have_attribute("data-state", "read")
    page.reload()
    maria = page.locator(f'[data-phone="{MARIA}"]')
    expect(maria.locator(".bubble.out")).to_have_attribute("data-state", "read")
    expect(maria.locator(".typing")).to_be_visible()
    business.send(MARIA, "voltou")
    expect(maria.locator(".bubble.in .text")).to_have_text("voltou")


def test_a_new_person_gets_a_phone_of_their_own(page: Page, business: Business) -> None:
    page.get_by_role("button", name="Nova pessoa").click()
    expect(page.locator("[data-phone]")).to_have_count(3)
    page.keyboard.type("sou nova")
    page.keyboard.press("Enter")
    newcomer = business.heard(1)["from"]
    assert newcomer not in (MARIA, JOAO)
    business.send(newcomer, "bem-vinda")
    expect(page.locator(f'[data-phone="{newcomer}"] .bubble.in .text')).to_have_text("bem-vinda")
    expect(page.locator(f'[data-phone="{MARIA}"] .bubble')).to_have_count(0)
    page.reload()
    expect(page.locator(f'[data-phone="{newcomer}"] .bubble')).to_have_count(2)
    page.get_by_role("button", name="Tirar o celular").click()
    expect(page.locator("[data-phone]")).to_have_count(2)


def test_the_message_of_a_long_conversation_is_in_sight(page: Page, business: Business) -> None:
    for number in range(30):
        business.send(MARIA, f"mensagem {number}")
    maria = page.locator(f'[data-phone="{MARIA}"]')
    expect(maria.locator(".bubble")).to_have_count(30)
    expect(maria.locator(".bubble").last).to_be_in_viewport()
    maria.locator(".log").evaluate("log => log.scrollTo(0, 0)")
    down = maria.get_by_role("button", name="Ir para o fim")
    expect(down).to_be_visible()
    business.send(MARIA, "mais uma")
    expect(down.locator(".count")).to_have_text("1")
    down.click()
    expect(maria.locator(".bubble").last).to_be_in_viewport()
    expect(down).to_be_hidden()


def test_a_narrow_screen_shows_one_phone_and_counts_what_waits(opened: Callable[..., Page], business: Business) -> None:
    page = opened(viewport={"width": 390, "height": 844}, has_touch=True)
    maria, joao = page.locator(f'[data-phone="{MARIA}"]'), page.locator(f'[data-phone="{JOAO}"]')
    expect(maria).to_be_visible()
    expect(joao).to_be_hidden()
    business.send(JOAO, "oi, João")
    tab = page.get_by_role("tab", name="João")
    expect(tab.locator(".count")).to_have_text("1")
    tab.click()
    expect(joao.locator(".bubble.in .text")).to_have_text("oi, João")
    expect(tab.locator(".count")).to_be_hidden()
    expect(maria).to_be_hidden()
    page.keyboard.press("ArrowLeft")
    expect(maria).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def screenshot() -> None:
    """Make the picture that the manual shows; colours of emojis need a font that has them."""
    with chromium() as browser, in_business() as business:
        page = browser.new_context(locale="pt-BR", viewport=DESKTOP).new_page()
        page.goto(f"{business.url}/simulator")
        expect(page.locator(".presence").last).to_have_text("online")
        maria = page.locator(f'[data-phone="{MARIA}"]')
        maria.locator("textarea").fill("Tem desta paisagem em quadro?")
        attach(page, MARIA, "Foto", ("praia.png", "image/png", picture(320, 150)))
        business.read(business.heard(1)["id"])
        business.send(MARIA, "Que linda! Temos, sim: *40 × 60 cm*, com moldura. Quer ver as opções?")
        act(page, maria.locator(".bubble.in"), "Reagir com coração")
        act(page, maria.locator(".bubble.in"), "Responder")
        page.keyboard.type("Quero! Mas só a moldura clara.")
        page.keyboard.press("Enter")
        business.read(business.heard(3)["id"], **TYPING)
        joao = page.locator(f'[data-phone="{JOAO}"]')
        attach(page, JOAO, "Mensagem de voz", ("voz.wav", "audio/wav", voice(7)))
        business.read(business.heard(4)["id"])
        asked = {**interactive("list", "Manhã", "Tarde"), "to": JOAO}
        asked["interactive"]["body"]["text"] = "Entendi! Em que horário?"
        asked["interactive"]["action"]["button"] = "Horários"
        for row, hours in zip(
            asked["interactive"]["action"]["sections"][0]["rows"], ("das 8h às 12h", "das 13h às 18h"), strict=True
        ):
            row["description"] = hours
        business.call(asked)
        joao.get_by_role("button", name="Manhã").click()
        business.read(business.heard(5)["id"])
        fill_in(page, JOAO, "Localização")
        business.read(business.heard(6)["id"])
        expect(joao.locator(".bubble").last).to_have_attribute("data-state", "read")
        expect(maria.locator(".typing")).to_be_visible()
        expect_shown(maria.locator(".bubble img"))
        page.mouse.move(0, 0)
        page.screenshot(path=SCREENSHOT, animations="disabled")


if __name__ == "__main__":
    screenshot()
