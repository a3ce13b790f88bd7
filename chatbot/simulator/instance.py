"""An Evolution API instance as the simulator plays it: whose phone it is, and the webhooks it posts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from chatbot.simulator.files import File
from chatbot.simulator.webhooks import Poster

_TYPES = {
    "image": "imageMessage", "audio": "audioMessage", "sticker": "stickerMessage", "document": "documentMessage",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Instance:
    """One connected phone on the pretended server: its name, its key, and where its webhooks go."""

    name: str
    api_key: str
    webhook_url: str
    webhook_secret: str

    def poster(self) -> Poster:
        """Return what posts its webhooks."""
        return Poster(self.webhook_url, lambda _: {"X-Webhook-Secret": self.webhook_secret})

    def upsert(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return the webhook for one message; like the real one, it tells the instance's key."""
        file: File | None = message.get("file")
        content: dict[str, Any] = {"conversation": message["text"]}
        if file is not None:
            told = {"mimetype": file.mime_type, "ptt": file.kind == "audio"}
            if file.kind == "document":
                told["fileName"] = file.filename
            content = {_TYPES[file.kind]: told | ({"caption": message["text"]} if message["text"] else {})}
        return {
            "event": "messages.upsert",
            "instance": self.name,
            "data": {
                "key": {"remoteJid": f"{message['from']}@s.whatsapp.net", "fromMe": False, "id": message["id"]},
                "pushName": message["name"],
                "message": content,
                "messageType": next(iter(content)),
                "messageTimestamp": int(time.time()),
            },
            "sender": "5511400000000@s.whatsapp.net",
            "apikey": self.api_key,
        }
