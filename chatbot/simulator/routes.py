"""The HTTP surface under ``/simulator``: page, events, stand-in, script.

In come requests, out go answers; what they do is in ``simulator`` and ``state``.

==============================================  ============================================
GET ``/simulator``                              the chat page
POST ``/graph/<version>/<number-id>/messages``  the stand-in for the Graph API
POST ``/evolution/…/<instance>``                the stand-in for Evolution API
GET ``/graph/<version>/<media-id>``, ``…/file``  where a file lies, and the file
POST ``/say``                                   write as a person (``said``): posts a signed webhook
GET ``/files/<id>``                             a file somebody sent, for the page
GET ``/conversations?users=a,b``                what a page shows when it loads
GET ``/events?since=n&users=a,b&shown=a``       what happens from then on (event stream)
GET, DELETE ``/sent``; GET ``/calls``           what the stand-in was asked; ``?to=<user>``
GET, POST, DELETE ``/faults``                   scripted failures
GET, POST, DELETE ``/rates``                    how fast the stand-in takes messages
==============================================  ============================================
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict
from io import BytesIO
from typing import Any

from flask import (
    Blueprint,
    Flask,
    Response,
    current_app,
    jsonify,
    redirect,
    render_template,
    request,
    send_file,
    url_for,
)
from werkzeug.exceptions import BadRequest, NotFound

from chatbot.simulator import evolution, graph, said
from chatbot.simulator.faults import Fault
from chatbot.simulator.files import File
from chatbot.simulator.rates import Rates
from chatbot.simulator.simulator import Simulator, new_id

STREAM_SECONDS = 20.0
HEARTBEAT = 5.0
#: Largest body of ``/say``: a file of 16 MiB in base64, and what is said around it.
LARGEST_SAID = 24 * 1024 * 1024
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def create_app(simulator: Simulator) -> Flask:
    """Return a WSGI application with nothing but the simulator."""
    app = Flask("chatbot.simulator")
    app.register_blueprint(create_blueprint(simulator))
    app.add_url_rule("/", "to_simulator", lambda: redirect(url_for("simulator.page").rstrip("/")))
    return app


def create_blueprint(simulator: Simulator) -> Blueprint:
    """Return everything under ``/simulator`` for this simulator."""
    blueprint = Blueprint(
        "simulator", __name__, url_prefix="/simulator", static_folder="static", template_folder="templates"
    )
    _serve_page(blueprint, simulator)
    _serve_graph(blueprint, simulator)
    _serve_script(blueprint, simulator)
    _serve_rates(blueprint, simulator)
    evolution.serve(blueprint, simulator)
    return blueprint


def _serve_page(blueprint: Blueprint, simulator: Simulator) -> None:
    @blueprint.get("")
    @blueprint.get("/")
    def page() -> Response:
        answer = Response(render_template("simulator.html"))
        answer.headers["Content-Security-Policy"] = CSP
        answer.headers["Referrer-Policy"] = "no-referrer"
        answer.headers["Cache-Control"] = "no-cache"
        return answer

    @blueprint.post("/say")
    def say() -> Response:
        request.max_content_length = LARGEST_SAID
        messages = _said(request.get_json())
        status = simulator.say(messages, once=bool(request.get_json().get("once")))
        return jsonify(id=[message["id"] for message in messages], status=status)

    @blueprint.get("/files/<path:file_id>")
    def shown(file_id: str) -> Response:
        return _shown(simulator.files.get(file_id))

    @blueprint.get("/conversations")
    def conversations() -> Response:
        return jsonify(simulator.state.conversations(_listed("users")))

    @blueprint.get("/events")
    def events() -> Response:
        since = request.headers.get("Last-Event-ID") or request.args.get("since") or simulator.state.last
        try:
            stream = _stream(simulator, int(since), set(_listed("users")), _listed("shown"))
        except ValueError:
            raise BadRequest("since is a number") from None
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return Response(stream, mimetype="text/event-stream", headers=headers)


def _serve_graph(blueprint: Blueprint, simulator: Simulator) -> None:
    @blueprint.post("/graph/<version>/<phone_number_id>/messages")
    def messages(version: str, phone_number_id: str) -> Response:
        body = request.get_json(silent=True)
        try:
            if not re.fullmatch(r"v\d+\.\d+", version) or phone_number_id != simulator.phone_number_id:
                raise graph.Refused(400, 100, f"Unsupported post request. Object {phone_number_id!r} is unknown")
            graph.authorize(request.headers.get("Authorization"))
            asked = graph.parse(body)
            return _read(simulator, asked) if isinstance(asked, graph.Read) else _text(simulator, asked)
        except graph.Refused as refused:
            return _refuse(simulator, refused, body if isinstance(body, dict) else {})

    @blueprint.get("/graph/<version>/<media_id>")
    def media(version: str, media_id: str) -> Response:
        try:
            file = _file(simulator, media_id)
        except graph.Refused as refused:
            return _refuse_file(refused)
        return jsonify(file.described(url_for(".file", version=version, media_id=media_id, _external=True)))

    @blueprint.get("/graph/<version>/<media_id>/file")
    def file(version: str, media_id: str) -> Response:  # noqa: ARG001  # a part of the address
        try:
            found = _file(simulator, media_id)
        except graph.Refused as refused:
            return _refuse_file(refused)
        return Response(found.content, mimetype=found.mime_type)


def _serve_script(blueprint: Blueprint, simulator: Simulator) -> None:
    @blueprint.get("/sent")
    def sent() -> Response:
        return jsonify(simulator.state.sent(request.args.get("to")))

    @blueprint.delete("/sent")
    def forget() -> Response:
        simulator.state.forget()
        return jsonify(success=True)

    @blueprint.get("/calls")
    def calls() -> Response:
        return jsonify(simulator.state.calls(request.args.get("to")))

    @blueprint.route("/faults", methods=["GET", "POST", "DELETE"])
    def faults() -> Response:
        if request.method == "DELETE":
            simulator.faults.clear()
        if request.method == "POST":
            scripted = request.get_json()
            try:
                simulator.faults.script(
                    [Fault.from_dict(f) for f in (scripted if isinstance(scripted, list) else [scripted])]
                )
            except ValueError as err:
                return _bad_request(str(err))
        return jsonify(simulator.faults.to_list())

    @blueprint.errorhandler(BadRequest)
    def bad_request(error: BadRequest) -> Response:
        return _bad_request(str(error.description))


def _serve_rates(blueprint: Blueprint, simulator: Simulator) -> None:
    @blueprint.route("/rates", methods=["GET", "POST", "DELETE"])
    def rates() -> Response:
        if request.method == "DELETE":
            simulator.rates.set(None)
        if request.method == "POST":
            try:
                simulator.rates.set(Rates.from_dict(request.get_json()))
            except ValueError as err:
                return _bad_request(str(err))
        kept = simulator.rates.rates
        return jsonify(asdict(kept) if kept else None)


def _bad_request(reason: str) -> Response:
    answer = jsonify(error=reason)
    answer.status_code = 400
    return answer


# People


def _said(body: Any) -> list[dict[str, Any]]:
    """Return the messages of a ``/say`` body. Raises ``BadRequest``."""
    listed = body.get("messages", [body]) if isinstance(body, dict) else None
    if not isinstance(listed, list) or not listed:
        raise BadRequest("say wants an object, or `messages` with a list of them")
    try:
        return [said.read(item, new_id()) for item in listed]
    except ValueError as err:
        raise BadRequest(str(err)) from None


def _listed(name: str) -> list[str]:
    return [user for user in request.args.get(name, "").split(",") if user]


def _shown(file: File | None) -> Response:
    """Return a file to a page, in parts where it asks for them. It is hostile: nothing in it is ever run."""
    if file is None:
        raise NotFound("only the last files are kept")
    answer = send_file(
        BytesIO(file.content), mimetype=file.mime_type, as_attachment=file.kind == "document",
        download_name=file.filename or file.id, etag=file.sha256, conditional=True,
    )  # fmt: skip
    answer.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Cache-Control"] = "private, max-age=3600"
    return answer


def _stream(simulator: Simulator, since: int, users: set[str], shown: list[str]) -> Iterator[str]:
    """Yield events as they happen, for a while; the browser connects again by itself.

    The end comes by the clock, so that no thread outlives a page that is gone.
    """
    state, ends = simulator.state, time.monotonic() + STREAM_SECONDS
    with state.watching(shown) as read:
        simulator.report_read(read)
        yield "retry: 250\n\n"
        while not state.closed and time.monotonic() < ends:
            events = state.events(since, wait=HEARTBEAT)
            if events is None:  # too old a number, or it is over
                yield "event: reset\ndata: {}\n\n"
                return
            for event in events:
                since = event.number
                if not users or event.user in users or not event.user:
                    data = {"number": since, "kind": event.kind, "user": event.user, **event.data}
                    yield f"id: {since}\ndata: {json.dumps(data)}\n\n"
            if not events:
                yield f"id: {since}\n: still here\n\n"


# The stand-in


def _text(simulator: Simulator, text: graph.Text) -> Response:
    fault = simulator.faults.take(text.to)
    if fault is not None and fault.refuses:
        simulator.wait(fault.delay)
        raise graph.Refused(
            fault.status, fault.code, f"(#{fault.code}) Scripted {fault.kind}", retry_after=fault.retry_after
        )
    simulator.rates.take(text.to)
    message_id = simulator.accept(text, fault)
    outcome = fault.kind if fault else "accepted"
    simulator.state.called(
        kind="text",
        to=text.to,
        text=text.body,
        callback=text.callback,
        status=200,
        outcome=outcome,
        id=message_id,
    )
    if fault is not None:
        simulator.wait(fault.delay)
        if fault.kind in ("drop_answer", "drop_all"):
            return _hang_up()
        if fault.kind == "error_after":
            return Response("<html><h1>Gateway Time-out</h1></html>", status=fault.status, mimetype="text/html")
    return jsonify(text.accepted(message_id))


def _read(simulator: Simulator, read: graph.Read) -> Response:
    user = simulator.state.read(read.message_id, typing=read.typing)
    simulator.state.called(
        kind="typing" if read.typing else "read", to=user, status=200, outcome="accepted", id=read.message_id
    )
    return jsonify(success=True)


def _refuse(simulator: Simulator, refused: graph.Refused, body: dict[str, Any]) -> Response:
    to = str(body.get("to") or body.get("recipient") or "").lstrip("+")
    simulator.state.called(
        kind="read" if "status" in body else "text",
        to=to,
        status=refused.status,
        outcome="refused",
        code=refused.code,
        error=str(refused),
    )
    answer = jsonify(refused.body)
    answer.status_code = refused.status
    if refused.retry_after is not None:
        answer.headers["Retry-After"] = f"{refused.retry_after:g}"
    return answer


def _file(simulator: Simulator, media_id: str) -> File:
    """Return a file to who may have it. Raises ``Refused`` as Meta would."""
    graph.authorize(request.headers.get("Authorization"))
    file = simulator.files.get(media_id)
    if file is None:
        raise graph.Refused(400, 100, f"Unsupported get request. Object {media_id[:32]!r} does not exist")
    return file


def _refuse_file(refused: graph.Refused) -> Response:
    answer = jsonify(refused.body)
    answer.status_code = refused.status
    return answer


def _hang_up() -> Response:
    """Cut the connection where the server lets us, so that the caller never hears back."""
    connection = request.environ.get("werkzeug.socket") or request.environ.get("gunicorn.socket")
    if isinstance(connection, socket.socket):
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            current_app.logger.debug("the caller was gone already")
    return Response("", status=500, mimetype="text/plain")
