"""Speech becomes words, by OpenAI's client and any server that speaks its API.

In comes audio, out go the words in it. Promises: a call is over after ``timeout`` seconds, and its answer has at
most ``WORDS_BYTES``; an error holds no word of what a server wrote. The client is imported by the first call.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from chatbot import http
from chatbot.agent import model_errors
from chatbot.errors import Permanent, Transient

if TYPE_CHECKING:
    import httpx

#: No transcription has more bytes.
WORDS_BYTES = 1024 * 1024
#: Extension by audio type: transcription servers judge a file by its name.
EXTENSIONS = {
    "audio/ogg": "ogg", "audio/opus": "ogg", "audio/mpeg": "mp3", "audio/mp3": "mp3", "audio/mp4": "m4a",
    "audio/x-m4a": "m4a", "audio/aac": "aac", "audio/amr": "amr", "audio/wav": "wav", "audio/x-wav": "wav",
    "audio/webm": "webm", "audio/flac": "flac",
}  # fmt: skip


class Transcriber:
    """Writes down speech through any OpenAI-compatible ``/audio/transcriptions``.

    ``timeout`` in seconds bounds the whole of a call. No language is given: the model finds it out.
    """

    def __init__(self, base_url: str, *, model: str, api_key: str, timeout: float) -> None:
        self._base_url = base_url
        self._model = model
        self._service = http.Service(
            "the transcription server",
            setting="CHATBOT_TRANSCRIPTION_API_KEY",
            timeout=timeout,
            max_bytes=WORDS_BYTES,
            # As bytes: a key with odd characters is the server's to refuse.
            headers={b"Authorization": f"Bearer {api_key}".encode("utf-8", "replace")} if api_key else {},
        )

    def transcribe(self, audio: bytes, mime_type: str) -> str:
        """Return the words in ``audio``, ``""`` where nobody speaks. Raises ``Transient``, ``Permanent``."""
        plain = mime_type.partition(";")[0].strip().lower() or "audio/ogg"
        file = (f"audio.{EXTENSIONS.get(plain, 'ogg')}", audio, plain)
        with self._service.calling(sends=False, unusable=Permanent):
            answer = self._post(file)
        if answer.is_success:
            return _words(answer)
        says = f"the transcription server answered {answer.status_code}"
        if answer.status_code in {408, 409, 429} or answer.is_server_error:
            raise Transient(says, retry_after=model_errors.pause(answer.headers.get("retry-after")))
        raise Permanent(says)

    def _post(self, file: tuple[str, bytes, str]) -> httpx.Response:
        """Return the answer, whatever its status. Raises httpx's errors, which OpenAI's client wraps."""
        import openai

        ours = self._service.client()
        client = openai.OpenAI(
            base_url=self._base_url, api_key="none", http_client=ours, timeout=ours.timeout, max_retries=0
        )
        try:
            return client.audio.transcriptions.with_raw_response.create(
                file=file,
                model=self._model,
                response_format="json",
                extra_headers={"Authorization": openai.Omit()},  # ours has it, as bytes
            ).http_response
        except openai.APIStatusError as err:
            return err.response
        except openai.APIConnectionError as err:
            unanswered = err.__cause__ or err
        raise unanswered  # out here: inside, it would be the cause of its own context

    def close(self) -> None:
        """Close the connections, if there are any; a later call opens new ones."""
        self._service.close()


def _words(answer: httpx.Response) -> str:
    try:
        body: Any = json.loads(answer.content)
    except (ValueError, RecursionError):
        body = None
    text = body.get("text") if isinstance(body, dict) else None
    if not isinstance(text, str):
        raise Permanent("the transcription server answered with no text")
    return text
