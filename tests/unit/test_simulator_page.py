"""The simulator's page in a real browser, with a business that answers when it is told to."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator

import httpx
import pytest
from flask import Flask, Response, request
from playwright.sync_api import Browser, Page, expect, sync_playwright

from chatbot.simulator import Simulator, create_app
from tests.unit.test_simulator import AUTHORIZED, JOAO, MARIA, NUMBER, serving

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
TYPING = {"typing_indicator": {"type": "text"}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the file. Skipped on a laptop without one, an error in CI."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        if os.environ.get("CI"):
            pytest.fail("Chromium is not installed")
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


class Business:
    """Takes webhooks; reads, types and answers when the test says so."""

    def __init__(self) -> None:
        self.url = ""
        self.answers = 200
        self.received: list[dict[str, str]] = []
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

    def heard(self, count: int) -> dict[str, str]:
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


@pytest.fixture
def business() -> Iterator[Business]:
    """A business and its simulator, each on a real server."""
    business = Business()
    with serving(business.app) as webhook:
        simulator = Simulator(webhook_url=f"{webhook}/webhook", app_secret="secret")
        simulator.start()
        with serving(create_app(simulator)) as business.url:
            yield business
            simulator.close()


@pytest.fixture
def opened(browser: Browser, business: Business) -> Iterator[Callable[..., Page]]:
    """Open the page; anything it writes to the console as an error fails the test."""
    errors: list[str] = []

    def go(**options: object) -> Page:
        context = browser.new_context(locale="pt-BR", **options)  # type: ignore[arg-type]  # Playwright's options
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
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
    return opened(viewport={"width": 1280, "height": 800})


def write(page: Page, user: str, text: str) -> None:
    """Type a message in somebody's phone and send it with Enter."""
    field = page.locator(f'[data-phone="{user}"] .composer textarea')
    field.fill(text)
    field.press("Enter")


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
    expect(bubble.get_by_role("button")).to_be_hidden()


def test_an_image_goes_with_its_caption_also_the_second_time_and_audio_as_a_voice_note(
    page: Page, business: Business
) -> None:
    maria = page.locator(f'[data-phone="{MARIA}"]')
    maria.locator("textarea").fill("o que é isto?")
    business.answers = 503
    maria.locator(".attach input").set_input_files({"name": "x.png", "mimeType": "image/png", "buffer": b"\x89PNG"})
    bubble = maria.locator(".bubble.out")
    expect(bubble.locator(".text")).to_have_text("📷 o que é isto?")
    expect(bubble).to_have_attribute("data-state", "failed")
    business.answers = 200
    bubble.get_by_role("button", name="Não entregue").click()
    assert business.heard(1)["image"]["caption"] == "o que é isto?"
    maria.locator(".attach input").set_input_files({"name": "x.ogg", "mimeType": "audio/ogg", "buffer": b"OggS"})
    expect(bubble.last.locator(".text")).to_have_text("🎤 Mensagem de voz")
    assert business.heard(2)["audio"]["voice"] is True


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
