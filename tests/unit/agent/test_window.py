"""How large a model's context is: asked from servers that say so, assumed where none does."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from chatbot.agent.window import ASSUMED, OLLAMA_LOADS, Window, ask_server, fixed


@pytest.fixture
def server():
    """A server that answers what ``told`` says, by path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found = httpd.told.get(self.path)
            payload = found if isinstance(found, bytes) else json.dumps(found).encode()
            httpd.keys.append(self.headers.get("Authorization"))
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.told, httpd.keys = {}, []
    httpd.url = f"http://127.0.0.1:{httpd.server_port}/v1"
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


LLAMA_MODELS = {"object": "list", "data": [{"id": "m", "meta": {"n_ctx_train": 131_072}}]}
SHOWN = {"model_info": {"llama.context_length": 131_072}, "parameters": 'stop "<|eot_id|>"\nnum_ctx 16384'}

TOLD = {
    "llama.cpp": ({"/v1/models": LLAMA_MODELS, "/props": {"default_generation_settings": {"n_ctx": 4096}}}, 4096),
    "vLLM": ({"/v1/models": {"data": [{"id": "x", "max_model_len": 1}, {"id": "m", "max_model_len": 32_768}]}}, 32_768),
    "LM Studio": ({"/api/v0/models": {"data": [{"id": "m", "max_context_length": 99, "loaded_context_length": 7}]}}, 7),
    "OpenRouter": ({"/v1/models": {"data": [{"id": "m", "context_length": 128_000}]}}, 128_000),
    "Groq": ({"/v1/models": {"data": [{"id": "m", "context_window": 131_072}]}}, 131_072),
    "Ollama, loaded": ({"/api/ps": {"models": [{"name": "m:latest", "context_length": 9}]}, "/api/show": SHOWN}, 9),
    "Ollama, told": ({"/api/ps": {"models": []}, "/api/show": SHOWN}, 16_384),
    "Ollama, as it comes": ({"/api/show": {"model_info": {"qwen2.context_length": 32_768}}}, OLLAMA_LOADS),
    "Ollama, a small model": ({"/api/show": {"model_info": {"bert.context_length": 512}}}, 512),
    "nothing": ({}, None),
    "another model": ({"/v1/models": {"data": [{"id": "x", "max_model_len": 1}]}}, None),
    "odd shapes": ({"/v1/models": {"data": [1, None, {"id": "m", "max_model_len": "9"}]}, "/props": [],
                    "/api/v0/models": {"data": 5}, "/api/ps": {"models": 3}, "/api/show": {"model_info": 1}}, None),
    "garbage": ({"/v1/models": b"<html>", "/props": b"\xff", "/api/ps": b"[" * 100_000}, None),
    "nonsense": ({"/v1/models": {"data": [{"id": "m", "max_model_len": -5}]}, "/props": {"default_generation_settings":
                  {"n_ctx": True}}}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", TOLD)
def test_servers_say_how_much_their_model_holds(server, name):
    server.told, tokens = TOLD[name]
    assert ask_server(server.url, "m", "sk-1") == tokens
    assert set(server.keys) == {"Bearer sk-1"}


def test_a_server_that_is_not_there_says_nothing():
    assert ask_server("http://127.0.0.1:1/v1", "m", "") is None


def test_it_is_asked_once_and_again_where_a_request_was_too_long():
    told, now = iter([4096, 2048]), [100.0]
    window = Window(lambda: next(told), clock=lambda: now[0])
    assert [window.tokens(), window.tokens()] == [4096, 4096]
    window.forget()
    assert window.tokens() == 4096, "not more often than once a minute"
    now[0] += 61
    assert [window.tokens(), window.tokens()] == [2048, 2048]


def test_a_server_that_says_nothing_is_asked_again_after_a_while():
    now, asked = [100.0], []

    def ask():
        asked.append(1)
        return None if len(asked) < 2 else 4096

    window = Window(ask, clock=lambda: now[0])
    assert [window.tokens(), window.tokens(), len(asked)] == [ASSUMED, ASSUMED, 1]
    now[0] += 61
    assert [window.tokens(), len(asked)] == [4096, 2]


def test_who_comes_while_it_is_asked_does_not_wait():
    asked, go = threading.Event(), threading.Event()

    def ask():
        asked.set()
        assert go.wait(10)
        return 4096

    window = Window(ask)
    first = threading.Thread(target=window.tokens)
    first.start()
    assert asked.wait(10)
    assert window.tokens() == ASSUMED
    go.set()
    first.join(10)
    assert window.tokens() == 4096


def test_a_size_that_is_set_is_that_size():
    window = fixed(2048)
    window.forget()
    assert window.tokens() == 2048
