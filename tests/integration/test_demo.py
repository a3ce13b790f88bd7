"""``make demo``: everything embedded, in one process; replies in order, page included."""

from __future__ import annotations

import os
import shutil
import sys

import httpx
import pytest

from tests.servers import PYTHON, Process, free_port, wait_until
from tests.system import sign, webhook_body

MARIA, JOAO = "5511999990001", "5521988880002"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """The running demo: its address and process."""
    folder = tmp_path_factory.mktemp("demo")
    port = free_port()
    env = {**os.environ, "PORT": str(port), "CHATBOT_IDLE_TIMEOUT": "2", "CHATBOT_HOUSEKEEPING_INTERVAL": "1",
           "CHATBOT_LOG_LEVEL": "INFO", "CHATBOT_OFFLINE_SECONDS": "0"}  # fmt: skip
    process = Process([PYTHON, "-m", "chatbot.cli", "demo"], log=folder / "demo.log", env=env, cwd=folder).start()

    def ready():
        assert process.alive, process.output()
        return f"http://127.0.0.1:{port}/simulator" in process.output()

    wait_until(ready, seconds=90, what="demo ready")
    yield f"http://127.0.0.1:{port}", process
    process.terminate(seconds=20)
    assert "stopping" in process.output()
    assert "Traceback" not in process.output(), process.output()


@pytest.fixture
def demo(running):
    """The running demo's address."""
    return running[0]


def post(demo, *messages):
    body = webhook_body(messages, "100000000000001")
    signature = {"X-Hub-Signature-256": sign(body, "demo-app-secret")}
    answer = httpx.post(f"{demo}/webhook/whatsapp", content=body, headers=signature)
    assert answer.status_code == 200, answer.text


def last_session_line(process):
    """Return the last line that says a turn was taken or a session closed."""
    lines = [line for line in process.output().splitlines() if "session.closed" in line or "turn.committed" in line]
    return lines[-1]


def texts(demo, user):
    return [item["text"] for item in httpx.get(f"{demo}/simulator/sent", params={"to": user}).json()]


def test_a_signed_webhook_with_messages_of_two_users_gets_their_replies(demo):
    httpx.delete(f"{demo}/simulator/sent")
    post(demo, (MARIA, "d1", "Oi, meu nome é Maria"), (JOAO, "d2", "Bom dia"), (MARIA, "d3", "Qual é o meu nome?"))
    wait_until(lambda: len(texts(demo, MARIA)) == 2 and len(texts(demo, JOAO)) == 1, what="replies")
    assert texts(demo, MARIA) == ["Prazer, Maria! Vou me lembrar do seu nome.", "Seu nome é Maria."]
    assert "Bom dia" in texts(demo, JOAO)[0]
    sent = httpx.get(f"{demo}/simulator/sent", params={"to": MARIA}).json()
    assert [item["time"] for item in sent] == sorted(item["time"] for item in sent)


def test_the_root_leads_to_the_page(demo):
    answer = httpx.get(demo, follow_redirects=True)
    assert (str(answer.url), answer.status_code) == (f"{demo}/simulator", 200)


def test_order_within_users_and_memory_across_sessions(demo, running):
    process = running[1]
    httpx.delete(f"{demo}/simulator/sent")
    users = [f"55117777{n:05}" for n in range(6)]
    for n in range(10):
        post(demo, *((user, f"o.{user}.{n}", f"recado {n}") for user in users))
    for user in users:
        wait_until(lambda u=user: len(texts(demo, u)) == 10, what="replies")
        assert [text.split("recado ")[1][0] for text in texts(demo, user)] == [str(n) for n in range(10)]
    post(demo, (users[0], "o.name", "me chamo Zeca"))
    wait_until(lambda: len(texts(demo, users[0])) == 11, what="reply")
    # Idle for longer than the timeout: the session is closed, the conversation is not.
    wait_until(lambda: "session.closed" in last_session_line(process) and "sessions=0" in last_session_line(process))
    post(demo, (users[0], "o.back", "qual é o meu nome?"))
    wait_until(lambda: len(texts(demo, users[0])) == 12, what="reply")
    assert texts(demo, users[0])[-1] == "Seu nome é Zeca."


def test_the_page_chats(demo):
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser_path:
        if os.environ.get("CI"):
            pytest.fail("Chromium is not installed; `make setup` installs it")
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import expect, sync_playwright

    httpx.delete(f"{demo}/simulator/sent")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync"]  # fmt: skip
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=arguments)
        page = browser.new_page(viewport={"width": 1280, "height": 800}, locale="pt-BR")
        errors = []
        page.on("pageerror", lambda error: errors.append(error))  # noqa: PLW0108  # it wants a function
        page.goto(f"{demo}/simulator")
        maria = page.locator(f'[data-phone="{MARIA}"]')
        joao = page.locator(f'[data-phone="{JOAO}"]')
        for phone, said in (
            (maria, "Oi, meu nome é Maria"),
            (joao, "Olá, me chamo João"),
            (maria, "qual é o meu nome?"),
        ):
            box = phone.locator(".composer textarea, .composer input").first
            box.fill(said)
            box.press("Enter")
            expect(phone.locator(".bubble.out .text", has_text=said)).to_be_visible()
        expect(maria.locator(".bubble.in .text").last).to_have_text("Seu nome é Maria.", timeout=15_000)
        expect(joao.locator(".bubble.in .text").last).to_have_text("Prazer, João! Vou me lembrar do seu nome.")
        expect(maria.locator(".bubble.in")).to_have_count(2)
        expect(joao.locator(".bubble.in")).to_have_count(1)
        if "--screenshot" in sys.argv:
            page.screenshot(path="screenshot.png")
        browser.close()
        assert errors == []


def test_a_taken_port_is_said_with_what_to_do(demo, tmp_path):
    port = demo.rpartition(":")[2]
    env = {**os.environ, "PORT": port}
    second = Process([PYTHON, "-m", "chatbot.cli", "demo"], log=tmp_path / "second.log", env=env, cwd=tmp_path).start()
    wait_until(lambda: not second.alive, what="second demo ended")
    assert "PORT=" in second.output()
    assert "Traceback" not in second.output()


def test_production_refuses_the_simulator(tmp_path):
    env = {**os.environ, "CHATBOT_ENV": "production"}
    process = Process([PYTHON, "-m", "chatbot.cli", "demo"], log=tmp_path / "p.log", env=env, cwd=tmp_path).start()
    wait_until(lambda: not process.alive, what="demo refused")
    assert "CHATBOT_SIMULATOR is refused" in process.output()
