"""Files people send: kept for a while, described and handed out as Meta does.

In come bytes, out go an id for the webhook and, for who asks with it, the bytes again. Only
the last ``MOST_KEPT`` are kept; safe between threads.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

MOST_KEPT = 50
_MB = 1024 * 1024
#: Largest file by kind, in bytes (Meta, "Supported media types"; documents: 100 MB there).
LARGEST = {"image": 5 * _MB, "audio": 16 * _MB, "sticker": 500 * 1024, "document": 16 * _MB}
LONGEST_FILENAME = 240

_MIME_TYPE = re.compile(r"[\w.+-]{1,80}/[\w.+-]{1,80}(; ?[\w-]{1,20}=[\w.,+-]{1,40}){0,3}", re.ASCII)
#: What may be written in no name of a file: paths, and what is no character.
_UNNAMEABLE = re.compile(r"[\x00-\x1f\x7f/\\]")


@dataclass(frozen=True, slots=True)
class File:
    """One file; ``kind`` is one of ``LARGEST``, ``voice`` set for a voice note."""

    id: str
    kind: str
    mime_type: str
    content: bytes
    voice: bool = False
    filename: str = ""

    @classmethod
    def from_dict(cls, given: Any) -> File:
        """Build one from ``mime_type``, ``data`` (base64), and perhaps ``voice``, ``kind``, ``filename``.

        Without a ``kind`` the type says it. Raises ``ValueError`` saying what is wrong.
        """
        given = given if isinstance(given, dict) else {}
        mime_type = str(given.get("mime_type") or "")
        kind = str(given.get("kind") or mime_type.partition("/")[0])
        if kind not in LARGEST or not _MIME_TYPE.fullmatch(mime_type) or not _fits(kind, mime_type):
            raise ValueError("`media` has a `mime_type` of an image or of audio, or is a sticker (WebP) or a document")
        try:
            content = base64.b64decode(str(given.get("data") or ""), validate=True)
        except (ValueError, binascii.Error):
            content = b""
        if not 0 < len(content) <= LARGEST[kind]:
            raise ValueError(f"`data` of `media` is base64 of 1 to {LARGEST[kind]} bytes")
        voice = kind == "audio" and bool(given.get("voice"))
        filename = _UNNAMEABLE.sub("", str(given.get("filename") or ""))[:LONGEST_FILENAME]
        filename = filename.encode("utf-8", "ignore").decode()  # half a surrogate pair is no name
        return cls(str(secrets.randbelow(9 * 10**14) + 10**14), kind, mime_type, content, voice, filename)

    @property
    def sha256(self) -> str:
        """The hash of the content, in hex."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def animated(self) -> bool:
        """Whether a WebP moves: the flags of its extended header say so."""
        header = self.content[:21]
        return len(header) == 21 and header[12:16] == b"VP8X" and bool(header[20] & 2)

    def in_message(self, caption: str) -> dict[str, Any]:
        """Return the file as a message in a webhook names it; audio and stickers have no caption."""
        about: dict[str, Any] = {"id": self.id, "mime_type": self.mime_type, "sha256": self.sha256}
        if self.kind == "audio":
            return {**about, "voice": self.voice}
        if self.kind == "sticker":
            return {**about, "animated": self.animated}
        if self.kind == "document":
            about["filename"] = self.filename or "documento"
        return {**about, "caption": caption} if caption else about

    def shown(self) -> dict[str, Any]:
        """Return what a page needs to show the file; it fetches the bytes by ``id``."""
        return {
            "id": self.id,
            "mime_type": self.mime_type,
            "filename": self.filename,
            "size": len(self.content),
            "voice": self.voice,
        }

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


def _fits(kind: str, mime_type: str) -> bool:
    if kind == "sticker":
        return mime_type == "image/webp"
    return kind == "document" or mime_type.startswith(f"{kind}/")
