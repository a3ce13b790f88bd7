"""What a file says: voice notes become words, images are shown to a model that can see.

In comes a message with a file, out goes a ``Reading``: the message with the words in its
text, perhaps an image for the agent, or what to tell the person instead. Promises: a file
is held in memory only while it is read, it is never stored, logged or published; what
cannot be heard or seen is said so, in the person's language.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from chatbot import texts
from chatbot.config import secret
from chatbot.errors import Permanent
from chatbot.messages import Message

if TYPE_CHECKING:
    from chatbot.config import Settings

log = structlog.get_logger(__name__)

#: Largest image that is shown (WhatsApp's own limit for images: 5 MB).
IMAGE_BYTES = 5 * 1024 * 1024
#: What an image looks like at its beginning, for the types that vision models take.
IMAGES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}
# What the text says of a file, for the agent now and in the past. No word of it is one
# that ``texts.guess`` goes by.
SHOWN = "[imagem em anexo]"
HIDDEN = "[imagem em anexo, invisível para o agente]"
SILENT = "[áudio em anexo, inaudível para o agente]"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a message came to.

    ``message`` is answered and kept, ``image`` (a data URL) is shown to the agent with it,
    ``refusal``, a text by language, is said instead of asking the agent.
    """

    message: Message
    image: str = ""
    refusal: Mapping[str, str] | None = None


class MediaReader:
    """Reads the files people send. ``max_bytes`` is the largest that is fetched.

    ``download(message, limit)`` returns the file of a message; ``transcribe(audio,
    mime_type)`` the words, ``None`` where nothing transcribes.
    """

    def __init__(
        self,
        download: Callable[[Message, int], bytes],
        transcribe: Callable[[bytes, str], str] | None,
        *,
        vision: bool,
        max_bytes: int,
    ) -> None:
        self._download = download
        self._transcribe = transcribe
        self._vision = vision
        self._max_bytes = max_bytes

    def read(self, message: Message) -> Reading:
        """Return what the message says with its file. Raises ``Transient``."""
        kind = kind_of(message)
        try:
            if kind == "audio":
                return self._heard(message)
            if kind == "image":
                return self._seen(message)
        except Permanent as err:
            log.warning("media.unreadable", message_id=message.id, kind=kind, reason=str(err))
            return _by_caption(message, kind)
        return Reading(message)

    def _heard(self, message: Message) -> Reading:
        if self._transcribe is None:
            return _by_caption(message, "audio")
        mime_type = message.media.mime_type if message.media else ""
        words = self._transcribe(self._download(message, self._max_bytes), mime_type).strip()
        if not words:
            raise Permanent("nothing is said in it")
        return Reading(_saying(message, message.text, words))

    def _seen(self, message: Message) -> Reading:
        if not self._vision:
            return _by_caption(message, "image")
        content = self._download(message, min(self._max_bytes, IMAGE_BYTES))
        url = f"data:{_image_type(content)};base64,{base64.b64encode(content).decode()}"
        return Reading(_saying(message, SHOWN, message.text), image=url)


def kind_of(message: Message) -> str:
    """Return ``audio``, ``image`` or ``""``: stickers, videos and documents are not read."""
    media, kind = message.media, message.kind.lower()
    if media is None or any(other in kind for other in ("sticker", "document", "video", "ptv")):
        return ""
    types = (media.mime_type.lower().partition("/")[0], kind)
    if media.voice or any("audio" in type_ for type_ in types):
        return "audio"
    return "image" if any("image" in type_ for type_ in types) else ""


def _by_caption(message: Message, kind: str) -> Reading:
    """Return the caption with a note on what is not read; where there is none, the note and a refusal."""
    note, refusal = (SILENT, texts.INAUDIBLE) if kind == "audio" else (HIDDEN, texts.UNSEEN)
    return Reading(_saying(message, message.text, note), refusal=None if message.text.strip() else refusal)


def _saying(message: Message, *texts: str) -> Message:
    return replace(message, text="\n".join(text.strip() for text in texts if text.strip()))


def _image_type(content: bytes) -> str:
    """Return the type by the content: what the sender says is not believed. Raises ``Permanent``."""
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "image/webp"
    for beginning, mime_type in IMAGES.items():
        if content.startswith(beginning):
            return mime_type
    raise Permanent("it is neither JPEG, PNG nor WebP")


def transcriber(settings: Settings) -> Callable[[bytes, str], str] | None:
    """Return what writes down speech as the settings describe it, ``None`` where they name no server."""
    if not settings.transcription_base_url:
        return None
    from chatbot.agent.transcription import Transcriber

    return Transcriber(
        settings.transcription_base_url,
        model=settings.transcription_model,
        api_key=secret(settings.transcription_api_key),
        timeout=settings.transcription_timeout,
    ).transcribe
