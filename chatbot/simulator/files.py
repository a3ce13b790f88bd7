"""Files people send: kept for a while, described and handed out as Meta does.

In come bytes, out go an id for the webhook and, for who asks with it, the bytes again. Only
the last ``MOST_KEPT`` are kept; safe between threads.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

MOST_KEPT = 50
#: Largest file by kind, in bytes (Meta, "Supported media types").
LARGEST = {"image": 5 * 1024 * 1024, "audio": 16 * 1024 * 1024}


@dataclass(frozen=True, slots=True)
class File:
    """One file; ``kind`` is ``image`` or ``audio``, ``voice`` set for a voice note."""

    id: str
    kind: str
    mime_type: str
    content: bytes
    voice: bool = False

    @classmethod
    def from_dict(cls, given: Any) -> File:
        """Build one from ``mime_type``, ``data`` (base64) and ``voice``. Raises ``ValueError`` saying what is wrong."""
        given = given if isinstance(given, dict) else {}
        mime_type = str(given.get("mime_type") or "")[:100]
        kind = mime_type.partition("/")[0]
        if kind not in LARGEST:
            raise ValueError("`media` has a `mime_type` of an image or of audio")
        try:
            content = base64.b64decode(str(given.get("data") or ""), validate=True)
        except (ValueError, binascii.Error):
            content = b""
        if not 0 < len(content) <= LARGEST[kind]:
            raise ValueError(f"`data` of `media` is base64 of 1 to {LARGEST[kind]} bytes")
        voice = kind == "audio" and bool(given.get("voice"))
        return cls(str(secrets.randbelow(9 * 10**14) + 10**14), kind, mime_type, content, voice)

    @property
    def sha256(self) -> str:
        """The hash of the content, in hex."""
        return hashlib.sha256(self.content).hexdigest()

    def in_message(self, caption: str) -> dict[str, Any]:
        """Return the file as a message in a webhook names it; audio has no caption."""
        about: dict[str, Any] = {"id": self.id, "mime_type": self.mime_type, "sha256": self.sha256}
        if self.kind == "audio":
            return {**about, "voice": self.voice}
        return {**about, "caption": caption} if caption else about

    def described(self, url: str) -> dict[str, Any]:
        """Return Meta's answer to who asks where the file lies."""
        return {
            "messaging_product": "whatsapp",
            "url": url,
            "mime_type": self.mime_type,
            "sha256": self.sha256,
            "file_size": len(self.content),
            "id": self.id,
        }


class Files:
    """The files of one simulator."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[str, File] = OrderedDict()

    def keep(self, file: File) -> None:
        """Keep a file; the oldest goes when there are too many."""
        with self._lock:
            self._files[file.id] = file
            while len(self._files) > MOST_KEPT:
                self._files.popitem(last=False)

    def get(self, file_id: str) -> File | None:
        """Return a file, ``None`` where it is not kept."""
        with self._lock:
            return self._files.get(file_id)
