"""Settings: wrong ones stop the process with what to write; the manual shows them all."""

from __future__ import annotations

import pytest

from chatbot import config
from tests.servers import ROOT


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # no .env of a developer is read


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("CHATBOT_BROKER_URL", "http://x", "must begin with one of"),
        ("CHATBOT_BROKER_URL", "amqp:///", "names no host"),
        ("CHATBOT_REDIS_URL", "localhost:6379", "redis://host:6379/0"),
        ("CHATBOT_IDLE_TIMEOUT", "soon", "valid number"),
        ("CHATBOT_IDLE_TIMEOUT", "-1", "greater than 0"),
        ("CHATBOT_MAX_SESSIONS", "70000", "65535"),
        ("CHATBOT_AGENT_FILE", "/no/such.yaml", "is not a file"),
        ("CHATBOT_WHATSAPP_GRAPH_URL", "graph.facebook.com", "https://"),
        ("CHATBOT_ENV", "prod", "production"),
        ("CHATBOT_TRANSCRIPTION_BASE_URL", "whisper:8000/v1", "https://"),
        ("CHATBOT_TRANSCRIPTION_TIMEOUT", "600", "less than or equal to 90"),
        ("CHATBOT_LLM_VISION", "perhaps", "valid boolean"),
        ("CHATBOT_LLM_VISION", "true", "CHATBOT_LLM_MODEL=offline cannot"),
        ("CHATBOT_MEDIA_MAX_BYTES", "0", "greater than 0"),
        ("CHATBOT_PSEUDONYM_KEY", "too short", "fewer than 16 characters"),
    ],
)
def test_a_wrong_value_is_named_with_what_to_write(monkeypatch, name, value, says):
    monkeypatch.setenv(name, value)
    with pytest.raises(config.SettingsError) as error:
        config.load()
    assert name in str(error.value)
    assert says in str(error.value)


def test_several_wrong_values_are_all_named(monkeypatch):
    monkeypatch.setenv("CHATBOT_BROKER_URL", "x")
    monkeypatch.setenv("CHATBOT_IDLE_TIMEOUT", "x")
    with pytest.raises(config.SettingsError, match="(?s)BROKER_URL.*IDLE_TIMEOUT"):
        config.load()


def test_a_secret_never_shows_in_an_error(monkeypatch):
    monkeypatch.setenv("CHATBOT_ENV", "production")
    monkeypatch.setenv("CHATBOT_LLM_API_KEY", "sk-very-secret")
    monkeypatch.setenv("CHATBOT_SIMULATOR", "true")
    with pytest.raises(config.SettingsError, match="CHATBOT_SIMULATOR is refused") as error:
        config.load()
    assert "sk-very-secret" not in str(error.value)


def test_production_refuses_the_offline_model(monkeypatch):
    monkeypatch.setenv("CHATBOT_ENV", "production")
    with pytest.raises(config.SettingsError, match="CHATBOT_LLM_MODEL=offline"):
        config.load()


def test_openai_needs_a_key(monkeypatch):
    monkeypatch.setenv("CHATBOT_LLM_MODEL", "gpt-4o-mini")
    with pytest.raises(config.SettingsError, match="OPENAI_API_KEY"):
        config.load()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    assert config.load().llm_api_key.get_secret_value() == "sk-x"


def test_the_demo_embeds_what_the_environment_does_not_name(monkeypatch):
    demo = config.load(config.DemoSettings)
    assert (demo.broker_url, demo.llm_model, demo.port) == ("memory://localhost/", "offline", 8000)
    assert demo.whatsapp_app_secret.get_secret_value() == "demo-app-secret"
    assert demo.whatsapp_verify_token.get_secret_value() == "demo-verify-token"
    assert demo.whatsapp_phone_number_id == "100000000000001"
    assert (demo.offline_seconds, config.load().offline_seconds) == (1.2, 0.0)
    monkeypatch.setenv("PORT", "8123")
    monkeypatch.setenv("CHATBOT_BROKER_URL", "amqp://u:p@rabbit:5672//")
    monkeypatch.setenv("CHATBOT_REDIS_URL", "redis://redis:6379/0")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    demo = config.load(config.DemoSettings)
    assert demo.broker_url == "amqp://u:p@rabbit:5672//"
    assert demo.redis_url == "redis://redis:6379/0"
    assert demo.llm_model == "gpt-4o-mini"
    assert demo.whatsapp_graph_url == "http://127.0.0.1:8123/simulator/graph/v26.0"


def test_the_demo_uses_a_local_model(monkeypatch):
    monkeypatch.setenv("CHATBOT_LLM_BASE_URL", "http://127.0.0.1:8080/v1/")
    demo = config.load(config.DemoSettings)
    assert (demo.llm_model, demo.llm_base_url) == ("local", "http://127.0.0.1:8080/v1")


def test_only_config_reads_the_environment():
    readers = [
        path.name
        for path in (ROOT / "chatbot").rglob("*.py")
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
    ]
    assert sorted(readers) == ["config.py", "models.py"], "models.py sets what CrewAI reads; nobody else touches it"


def test_a_misspelt_setting_stops_the_process_and_the_right_one_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHATBOT_REDIS_ULR", "redis://redis:6379/0")
    monkeypatch.setenv("CHATBOT_TEST_RABBITMQ_ROOT", "/")
    (tmp_path / ".env").write_text("CHATBOT_BROKER_URI=amqp://rabbit//\nPOSTGRES_URL=x\nchatbot_llm_modell=x\n")
    with pytest.raises(config.SettingsError) as wrong:
        config.load()
    said = str(wrong.value)
    assert "CHATBOT_REDIS_ULR: there is no such setting; did you mean CHATBOT_REDIS_URL?" in said
    assert "CHATBOT_BROKER_URI: there is no such setting; did you mean CHATBOT_BROKER_URL?" in said
    assert "chatbot_llm_modell: there is no such setting; did you mean CHATBOT_LLM_MODEL?" in said
    assert str(tmp_path / ".env") in said
    assert "POSTGRES" not in said
    assert "RABBITMQ_ROOT" not in said


def test_a_wrong_value_and_a_misspelt_name_are_told_together(monkeypatch):
    monkeypatch.setenv("CHATBOT_PORT", "many")
    monkeypatch.setenv("CHATBOT_SOMETHING_ELSE_ALTOGETHER", "x")
    with pytest.raises(config.SettingsError) as wrong:
        config.load()
    assert "CHATBOT_PORT" in str(wrong.value)
    assert "CHATBOT_SOMETHING_ELSE_ALTOGETHER: there is no such setting" in str(wrong.value)


def test_the_manual_shows_every_setting():
    page = (ROOT / "docs/settings.md").read_text()
    shown = page.split("<!-- settings:begin -->")[1].split("<!-- settings:end -->")[0].strip()
    assert shown == config.table(), "run `chatbot settings` and paste"


def test_the_portuguese_manual_names_the_same_settings_and_defaults():
    def cells(text):
        rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `CHATBOT_")]
        return [(name, default if "`" in default else "in words") for name, default in rows]

    portuguese = (ROOT / "docs/pt-BR/settings.md").read_text()
    assert cells(portuguese) == cells(config.table())
