"""Settings: the only place that reads the environment.

Every variable begins with ``CHATBOT_`` (``OPENAI_API_KEY`` is also understood, as
every OpenAI client does). Wrong values stop the process at start, with an error
that names the variable, says what is wrong and what to write.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

#: The channels there are: name → module and class of it, which has ``from_settings``.
CHANNELS = {
    "whatsapp": "chatbot.channels.cloud.channel:WhatsApp",
    "evolution": "chatbot.channels.evolution.channel:Evolution",
}

PREFIX = "CHATBOT_"
#: What the tests read beside it.
TEST_PREFIX = "CHATBOT_TEST_"

DEFAULT_ROLE = "Atendente virtual da empresa no WhatsApp"
DEFAULT_GOAL = (
    "Ajudar cada cliente com clareza e simpatia, em mensagens curtas, "
    "sempre no idioma em que o cliente escreve (português do Brasil, se houver dúvida)"
)
DEFAULT_BACKSTORY = (
    "Você atende clientes pelo WhatsApp. Você é cordial e objetivo, usa o que o cliente "
    "já contou nesta conversa e nunca inventa preços, prazos ou dados: quando não sabe, "
    "diz que não sabe e oferece um caminho."
)

#: Characters of a key that nobody guesses.
MIN_KEY = 16

Seconds = Annotated[float, Field(gt=0)]


class SettingsError(ValueError):
    """The environment does not describe a working system; the text says what to write."""


class Settings(BaseSettings):
    """One process's settings. Durations in seconds, lengths in characters."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        populate_by_name=True,
    )

    env: Literal["development", "test", "production"] = Field(
        "development", description="`production` refuses the simulator and demo secrets"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="least severe event that is logged"
    )
    log_format: Literal["console", "json"] = Field("console", description="how log lines look")

    broker_url: str = Field("amqp://guest:guest@127.0.0.1:5672//", description="RabbitMQ (`memory://` in the demo)")
    broker_shards: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="every broker, separated by commas, where users are spread over several"
    )
    broker_management_url: str | None = Field(
        None, description="RabbitMQ's management API, for `chatbot doctor` (default: port 15672 of the broker)"
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", description="Redis for conversations (`fakeredis://` in the demo)"
    )
    broker_tls_ca: Path | None = Field(
        None, description="with `amqps://`: file of the CA that signed the broker's certificate (default: the system's)"
    )
    broker_tls_cert: Path | None = Field(None, description="client certificate, where the broker asks for one")
    broker_tls_key: Path | None = Field(None, description="its key")
    broker_tls_check_name: bool = Field(
        True, description="whether the broker's certificate must name the host that CHATBOT_BROKER_URL names"
    )
    redis_tls_ca: Path | None = Field(None, description="the same for Redis, with `rediss://`")
    redis_tls_cert: Path | None = Field(None, description="client certificate, where Redis asks for one")
    redis_tls_key: Path | None = Field(None, description="its key")
    redis_tls_check_name: bool = Field(
        True, description="whether Redis' certificate must name the host that CHATBOT_REDIS_URL names"
    )
    dead_letters_max: int = Field(
        100_000, gt=0, description="dead letters that are kept; the oldest make room for the next"
    )
    dead_letters_max_bytes: int = Field(1024**3, gt=0, description="bytes of dead letters that are kept, likewise")
    publish_timeout: Seconds = Field(
        5.0, description="a webhook that the broker does not confirm is answered 503 within this time"
    )
    reply_window: Seconds = Field(86_400.0, description="unanswered messages older than this go to the dead letters")
    max_waiting: int = Field(200, gt=0, description="messages that may wait in one user's queue; more are refused")
    max_sessions: int = Field(10_000, gt=0, le=65_535, description="live sessions one worker takes")
    idle_timeout: Seconds = Field(1800.0, description="a session without activity for this long is closed")
    housekeeping_interval: Seconds = Field(10.0, description="how often beat looks for idle and for orphaned sessions")

    history_turns: int = Field(20, ge=0, description="turns of the past an agent is shown")
    history_chars: int = Field(24_000, gt=0, description="characters of the past an agent is shown")
    retention: Seconds = Field(90 * 86_400.0, description="a conversation is forgotten this long after its last turn")

    llm_model: str = Field(
        "offline", description="`offline`, `gpt-4o-mini`, `ollama/…`, or any name with an LLM base URL"
    )
    llm_base_url: str | None = Field(
        None, description="OpenAI-compatible server (llama.cpp, vLLM, LM Studio) or Ollama"
    )
    llm_api_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("CHATBOT_LLM_API_KEY", "OPENAI_API_KEY"),
        description="key of the LLM; `OPENAI_API_KEY` is read too",
    )
    llm_timeout: Seconds = Field(60.0, le=120, description="one LLM call may take this long")
    llm_context: int | None = Field(
        None, ge=512, description="tokens the LLM's context holds; unset, its server is asked (8192 where nothing says)"
    )
    llm_max_tokens: int = Field(
        1024,
        gt=0,
        description="tokens an answer may have (a model that thinks aloud is given up to four times as many)",
    )
    llm_temperature: float | None = Field(None, ge=0, le=2, description="the LLM's temperature (default: its own)")
    llm_concurrency: int | None = Field(
        None, gt=0, description="LLM calls in flight at once, of all workers together (default: no limit)"
    )
    llm_tries: int = Field(3, ge=1, le=5, description="LLM calls in a row, before the message waits in its queue")

    offline_seconds: float = Field(
        0.0, ge=0, le=30, description="how long the `offline` model takes to answer (1.2 in the demo: typing is seen)"
    )
    llm_vision: bool = Field(False, description="whether the LLM can see: it is shown the images people send")
    transcription_base_url: str | None = Field(
        None,
        description="OpenAI-compatible server that writes down voice notes; without one, people are asked to write",
    )
    transcription_model: str = Field("whisper-1", min_length=1, description="its model")
    transcription_api_key: SecretStr | None = Field(None, description="its key, where it wants one")
    transcription_timeout: Seconds = Field(60.0, le=90, description="one transcription may take this long")
    media_max_bytes: int = Field(
        16 * 1024 * 1024,
        gt=0,
        le=100 * 1024 * 1024,
        description="larger files are not fetched (images: 5 MiB at most); WhatsApp's own limit for audio is 16 MiB",
    )

    breaker_failures: int = Field(5, gt=0, description="LLM calls that fail in a row before it is spared for a while")
    breaker_rest: Seconds = Field(5.0, description="how long it is spared at first; doubles up to a minute")

    agent_file: Path | None = Field(None, description="YAML file with `role`, `goal`, `backstory`")
    agent_role: str = Field(DEFAULT_ROLE, description="who the agent is")
    agent_goal: str = Field(DEFAULT_GOAL, description="what it wants")
    agent_backstory: str = Field(DEFAULT_BACKSTORY, description="what it knows about itself")

    pseudonym_key: SecretStr | None = Field(
        None, description="with it queue names, Flower and logs show keyed hashes and no phone numbers; never change it"
    )
    channels: Annotated[tuple[str, ...], NoDecode] = Field(
        ("whatsapp",), description="the channels in use, separated by commas: `whatsapp`, `evolution`"
    )
    whatsapp_graph_url: str = Field(
        "https://graph.facebook.com/v26.0", description="Graph API, up to and including the version"
    )
    whatsapp_app_secret: SecretStr | None = Field(None, description="signs webhook bodies")
    whatsapp_app_secret_previous: SecretStr | None = Field(
        None, description="the secret before, valid too while Meta rotates it"
    )
    whatsapp_verify_token: SecretStr | None = Field(None, description="answers Meta's GET verification")
    whatsapp_access_token: SecretStr | None = Field(None, description="authorises calls to the Graph API")
    whatsapp_phone_number_id: str | None = Field(None, description="our number, as Meta counts them")
    whatsapp_template: str = Field(
        "",
        pattern=r"^([a-z0-9_]{1,512}(:[A-Za-z_]{2,7})?)?$",
        description="approved template (`name:language`) for who wrote over 24 h ago; without one, a dead letter",
    )
    whatsapp_rate: float = Field(
        80.0, gt=0, description="messages a second the number may send, by all senders together"
    )
    whatsapp_pair_seconds: Seconds = Field(6.0, description="to one person, one message in so many seconds …")
    whatsapp_pair_burst: int = Field(45, gt=0, description="… and so many at once before that")
    evolution_url: str | None = Field(None, description="Evolution API's address")
    evolution_api_key: SecretStr | None = Field(None, description="authorises calls to it")
    evolution_instance: str = Field("", description="the instance to send from where no message says another")
    evolution_webhook_secret: SecretStr | None = Field(
        None, description="what a header of its webhooks must carry (`X-Webhook-Secret`)"
    )
    evolution_jwt_key: SecretStr | None = Field(None, description="or: the `jwt_key` it signs tokens with")
    evolution_rate: float = Field(5.0, gt=0, description="messages a second an instance may send, by all senders")
    send_timeout: Seconds = Field(15.0, le=30, description="one call to the channel's API may take this long")
    send_tries: int = Field(5, ge=1, le=8, description="calls to the channel's API before it is left for later")

    settle_timeout: Seconds = Field(
        60.0, description="a send whose outcome is unknown waits this long for its status webhook before it is repeated"
    )
    host: str = Field("127.0.0.1", description="address the web process listens on")
    port: int = Field(
        8000,
        gt=0,
        le=65_535,
        validation_alias=AliasChoices("CHATBOT_PORT", "PORT"),
        description="its port; `PORT` is read too",
    )
    web_workers: int = Field(2, gt=0, description="web processes (one where the simulator is on)")
    web_threads: int = Field(8, gt=0, description="threads of each web process")
    simulator: bool = Field(False, description="serve the simulator at `/simulator` (never in production)")

    @field_validator("broker_url")
    @classmethod
    def _broker(cls, url: str) -> str:
        return _url(url, {"amqp", "amqps", "pyamqp", "memory"}, "amqp://user:password@host:5672//")

    @field_validator("broker_shards", mode="before")
    @classmethod
    def _shards(cls, urls: object) -> object:
        if not isinstance(urls, str):
            return urls
        found = tuple(filter(None, (url.strip() for url in urls.split(","))))
        return tuple(_url(url, {"amqp", "amqps", "pyamqp"}, "amqp://user:password@host:5672//") for url in found)

    @field_validator("channels", mode="before")
    @classmethod
    def _channels(cls, names: object) -> object:
        if not isinstance(names, str):
            return names
        found = tuple(filter(None, (name.strip() for name in names.split(","))))
        if unknown := set(found) - set(CHANNELS):
            raise ValueError(f"knows no {', '.join(sorted(unknown))}; write one or more of {', '.join(CHANNELS)}")
        return found

    @field_validator("pseudonym_key")
    @classmethod
    def _key(cls, key: SecretStr | None) -> SecretStr | None:
        if key and len(key.get_secret_value()) < MIN_KEY:
            raise ValueError(f"has fewer than {MIN_KEY} characters; write what `openssl rand -hex 32` prints")
        return key

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, url: str) -> str:
        return _url(url, {"redis", "rediss", "unix", "fakeredis"}, "redis://host:6379/0")

    @field_validator(
        "llm_base_url", "transcription_base_url", "whatsapp_graph_url", "broker_management_url", "evolution_url"
    )
    @classmethod
    def _http(cls, url: str | None) -> str | None:
        return url and _url(url, {"http", "https"}, "http://127.0.0.1:8080/v1").rstrip("/")

    @field_validator("agent_file")
    @classmethod
    def _file(cls, path: Path | None) -> Path | None:
        if path and not path.is_file():
            raise ValueError(f"{path} is not a file; write the path of a YAML file")
        return path

    @field_validator(
        "broker_tls_ca", "broker_tls_cert", "broker_tls_key", "redis_tls_ca", "redis_tls_cert", "redis_tls_key"
    )
    @classmethod
    def _pem(cls, path: Path | None) -> Path | None:
        if path and not path.is_file():
            raise ValueError(f"{path} is not a file; write the path of a PEM file")
        return path

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.env == "production" and self.simulator:
            raise ValueError("CHATBOT_SIMULATOR is refused with CHATBOT_ENV=production; unset one of them")
        if self.env == "production" and _demo(self.whatsapp_app_secret, self.whatsapp_verify_token):
            raise ValueError(
                "CHATBOT_WHATSAPP_APP_SECRET and CHATBOT_WHATSAPP_VERIFY_TOKEN are the demo's, which everybody "
                "knows; write your app's own"
            )
        if self.broker_shards and (
            len(set(self.broker_shards)) < max(2, len(self.broker_shards)) or self.broker_url not in self.broker_shards
        ):
            raise ValueError(
                "CHATBOT_BROKER_SHARDS names two brokers or more, each once, and CHATBOT_BROKER_URL is one of them: "
                "the one that this process consumes from"
            )
        if "evolution" in self.channels and not (self.evolution_url and self.evolution_api_key):
            raise ValueError(
                "CHATBOT_CHANNELS names evolution: set CHATBOT_EVOLUTION_URL (e.g. http://127.0.0.1:8080) "
                "and CHATBOT_EVOLUTION_API_KEY"
            )
        if "evolution" in self.channels and not (self.evolution_webhook_secret or self.evolution_jwt_key):
            raise ValueError(
                "CHATBOT_CHANNELS names evolution: set CHATBOT_EVOLUTION_WEBHOOK_SECRET to what its webhooks "
                "carry in the header X-Webhook-Secret, or CHATBOT_EVOLUTION_JWT_KEY"
            )
        if self.env == "production" and self.llm_model == "offline":
            raise ValueError(
                "CHATBOT_LLM_MODEL=offline only plays an assistant; in production write gpt-4o-mini, "
                "ollama/<model>, or a model name together with CHATBOT_LLM_BASE_URL"
            )
        if self.llm_vision and self.llm_model == "offline":
            raise ValueError("CHATBOT_LLM_VISION=true needs a model that can see; CHATBOT_LLM_MODEL=offline cannot")
        if self.llm_model == "gpt-4o-mini" and not self.llm_base_url and not self.llm_api_key:
            raise ValueError("CHATBOT_LLM_MODEL=gpt-4o-mini needs a key: set CHATBOT_LLM_API_KEY (or OPENAI_API_KEY)")
        return self

    @model_validator(mode="after")
    def _tls(self) -> Self:
        for prefix, scheme, urls in (
            ("BROKER", "amqps", (self.broker_url, *self.broker_shards)),
            ("REDIS", "rediss", (self.redis_url,)),
        ):
            given = {part: getattr(self, f"{prefix.lower()}_tls_{part}") for part in ("ca", "cert", "key")}
            named = [f"{PREFIX}{prefix}_TLS_{part.upper()}" for part, path in given.items() if path]
            if named and not any(url.startswith(f"{scheme}:") for url in urls):
                raise ValueError(f"{', '.join(named)} is for TLS: write {PREFIX}{prefix}_URL={scheme}://…")
            if bool(given["cert"]) != bool(given["key"]):
                raise ValueError(f"{PREFIX}{prefix}_TLS_CERT and {PREFIX}{prefix}_TLS_KEY go together: set both")
        return self

    @property
    def embedded_broker(self) -> bool:
        """Whether the broker lives in this process and ends with it."""
        return self.broker_url.startswith("memory:")


class DemoSettings(Settings):
    """What ``make demo`` runs with where the environment says nothing else: all embedded."""

    broker_url: str = "memory://localhost/"
    redis_url: str = "fakeredis://demo"
    whatsapp_app_secret: SecretStr | None = SecretStr("demo-app-secret")
    whatsapp_verify_token: SecretStr | None = SecretStr("demo-verify-token")
    whatsapp_access_token: SecretStr | None = SecretStr("demo-access-token")
    whatsapp_phone_number_id: str | None = "100000000000001"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"
    simulator: bool = True
    offline_seconds: float = 1.2

    @model_validator(mode="before")
    @classmethod
    def _choose(cls, values: dict[str, Any]) -> dict[str, Any]:
        port = values.get("CHATBOT_PORT") or values.get("PORT") or 8000
        if "whatsapp_graph_url" not in values:  # our own stand-in takes messages as fast as they come
            values["whatsapp_graph_url"] = f"http://127.0.0.1:{port}/simulator/graph/v26.0"
            values.setdefault("whatsapp_rate", 1000.0)
            values.setdefault("whatsapp_pair_seconds", 0.01)
        if "llm_model" not in values and values.get("llm_base_url"):
            values["llm_model"] = "local"
        elif "llm_model" not in values and (values.get("CHATBOT_LLM_API_KEY") or values.get("OPENAI_API_KEY")):
            values["llm_model"] = "gpt-4o-mini"
        return values


def load(kind: type[Settings] = Settings, **overrides: object) -> Settings:
    """Read and validate the environment; ``overrides`` win over it.

    Raises ``SettingsError`` with one line for each variable that is wrong.
    """
    unknown = _unknown(kind)
    try:
        settings = kind(**overrides)  # type: ignore[arg-type]  # pydantic validates what is passed
    except ValidationError as err:
        lines = [_explain(error["loc"], error["msg"], error.get("input")) for error in err.errors()]
        raise _unusable(kind, [*lines, *unknown]) from None
    if unknown:
        raise _unusable(kind, unknown)
    return settings


def _unusable(kind: type[Settings], lines: list[str]) -> SettingsError:
    file = _env_file(kind)
    read = f" (the environment and {file} were read)" if file else ""
    return SettingsError(f"settings are not usable{read}:\n" + "\n".join(lines))


def _env_file(kind: type[Settings]) -> Path | None:
    """Return the ``.env`` that is read, by its whole path; ``None`` where there is none."""
    name = kind.model_config.get("env_file")
    path = Path(str(name)).resolve() if name else None
    return path if path and path.is_file() else None


def _unknown(kind: type[Settings]) -> list[str]:
    """Return a line for each variable that is named like a setting and is none: a slip would go unnoticed."""
    known = {f"{PREFIX}{name}".upper() for name in kind.model_fields}
    file = _env_file(kind)
    given = {*os.environ, *(dotenv_values(file) if file else ())}
    lines = []
    for name in sorted(name for name in given if name.upper().startswith(PREFIX)):
        if name.upper() not in known and not name.upper().startswith(TEST_PREFIX):
            near = difflib.get_close_matches(name.upper(), known, n=1)
            meant = f"did you mean {near[0]}?" if near else "`chatbot settings` lists those there are"
            lines.append(f"  {name}: there is no such setting; {meant}")
    return lines


def table() -> str:
    """Return every setting with its default as a Markdown table; docs/settings.md holds this text."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        given = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        default = "" if given in (None, "") else f"`{given}`"
        if name in {"agent_role", "agent_goal", "agent_backstory"}:
            default = "a friendly assistant in Brazilian Portuguese"
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


def secret(value: SecretStr | None) -> str:
    """Return a secret's text, ``""`` where there is none."""
    return value.get_secret_value() if value else ""


def _explain(where: tuple[int | str, ...], what: str, given: object) -> str:
    what = what.removeprefix("Value error, ")
    if not where:
        return f"  {what}"
    name = str(where[0])
    name = name if name.isupper() else PREFIX + name.upper()
    secret = any(word in name for word in ("KEY", "SECRET", "TOKEN")) or "@" in str(given)
    shown = "" if secret else f" (it is {given!r})"
    return f"  {name}: {what}{shown}"


def _demo(*secrets: SecretStr | None) -> bool:
    return any(secret is not None and secret.get_secret_value().startswith("demo-") for secret in secrets)


def _url(url: str, schemes: set[str], example: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in schemes:
        raise ValueError(
            f"must begin with one of {', '.join(sorted(f'{s}://' for s in schemes))}; write e.g. {example}"
        )
    if parts.scheme not in {"memory", "fakeredis", "unix"} and not parts.hostname:
        raise ValueError(f"names no host; write e.g. {example}")
    return url
