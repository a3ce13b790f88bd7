"""The thinnest webhook there could be: check the HMAC, publish the body once, confirmed; answer.

``gunicorn tests.benchmarks.thin:app``, with ``CHATBOT_BROKER_URL`` and
``CHATBOT_WHATSAPP_APP_SECRET`` from the environment.
"""

from __future__ import annotations

import hashlib
import hmac
import os

import kombu
from flask import Flask, request
from kombu.pools import producers

QUEUE = "thin"

app = Flask(__name__)
secret = os.environ.get("CHATBOT_WHATSAPP_APP_SECRET", "").encode()
connection = kombu.Connection(os.environ.get("CHATBOT_BROKER_URL"), transport_options={"confirm_publish": True})
pool = producers[connection]


@app.post("/webhook/whatsapp")
def receive() -> tuple[str, int]:
    """Publish the body."""
    body = request.get_data()
    signature = "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(signature, request.headers.get("X-Hub-Signature-256", "")):
        return "", 401
    with pool.acquire(block=True) as producer:
        producer.publish(
            body, routing_key=QUEUE, content_type="application/json", content_encoding="utf-8",
            delivery_mode=2, mandatory=True,
        )  # fmt: skip
    return "", 200
