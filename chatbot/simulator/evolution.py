"""Plays Evolution API v2 too: its webhooks for what people say, its REST API for what we send.

What people say ``via`` it is posted as ``messages.upsert``, one webhook a message, with the
secret in a header; what the business sends lands in the same bubbles. It reports nothing
of ours back. Source: Evolution API 2.3, ``sendMessage.router.ts``, ``chat.router.ts``.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, jsonify, request

from chatbot.simulator import graph
from chatbot.simulator.simulator import Simulator


def serve(blueprint: Blueprint, simulator: Simulator) -> None:
    """Add the part of the REST API that a business calls, under ``/evolution``."""
    routes: dict[str, Callable[[Simulator, dict[str, Any]], Response]] = {
        "message/sendText": _send_text,
        "chat/markMessageAsRead": _mark_read,
        "chat/sendPresence": _presence,
        "chat/getBase64FromMediaMessage": _file,
    }

    @blueprint.post("/evolution/<group>/<call>/<instance>")
    def call(group: str, call: str, instance: str) -> Response:
        answer = routes.get(f"{group}/{call}")
        refused = _refused(simulator, instance)
        if answer is None:
            return _answer(404, {"message": [f"Cannot POST /{group}/{call}"]}, "Not Found")
        return refused or answer(simulator, request.get_json(silent=True) or {})

    @blueprint.get("/evolution/instance/connectionState/<instance>")
    def connection(instance: str) -> Response:
        refused = _refused(simulator, instance)
        return refused or _answer(200, {"instance": {"instanceName": instance, "state": "open"}})


def _send_text(simulator: Simulator, body: dict[str, Any]) -> Response:
    to, text = str(body.get("number") or "").partition("@")[0], body.get("text")
    if not to or not isinstance(text, str) or not text.strip():
        return _answer(400, {"message": ['instance requires property "number" and "text"']}, "Bad Request")
    fault = simulator.faults.take(to)
    if fault is not None and fault.refuses:
        simulator.wait(fault.delay)
        return _answer(fault.status, {"message": [f"Scripted {fault.kind}"]}, "Scripted")
    message_id = simulator.accept(graph.Text(to, text), silent=True)
    simulator.state.called(kind="text", to=to, text=text, callback="", status=201, outcome="accepted", id=message_id)
    return _answer(201, {"key": {"remoteJid": f"{to}@s.whatsapp.net", "fromMe": True, "id": message_id}})


def _mark_read(simulator: Simulator, body: dict[str, Any]) -> Response:
    for item in body.get("readMessages") or []:
        simulator.state.read(str(item.get("id")), typing=False)
    return _answer(201, {"message": "Read messages", "read": "success"})


def _presence(simulator: Simulator, body: dict[str, Any]) -> Response:
    to = str(body.get("number") or "")
    simulator.state.called(kind="typing", to=to, status=201, outcome="accepted", id="")
    return _answer(201, {"presence": body.get("presence")})


def _file(simulator: Simulator, body: dict[str, Any]) -> Response:
    file = simulator.files.get(str(((body.get("message") or {}).get("key") or {}).get("id")))
    if file is None:
        return _answer(400, {"message": ["Message not found"]}, "Bad Request")
    return _answer(201, {"mimetype": file.mime_type, "base64": base64.b64encode(file.content).decode()})


def _refused(simulator: Simulator, instance: str) -> Response | None:
    played = simulator.evolution
    if played is None or not hmac.compare_digest(request.headers.get("apikey", "").encode(), played.api_key.encode()):
        return _answer(401, {"message": "Unauthorized"}, "Unauthorized")
    if instance != played.name:
        return _answer(404, {"message": [f'The "{instance[:64]}" instance does not exist']}, "Not Found")
    return None


def _answer(status: int, body: dict[str, Any], error: str = "") -> Response:
    answer = jsonify({"status": status, "error": error, "response": body} if error else body)
    answer.status_code = status
    return answer
