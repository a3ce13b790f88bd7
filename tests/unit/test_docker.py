"""What ``docker/`` says agrees with ``Procfile`` and the settings. Nothing is built or run here."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml

from chatbot.config import PREFIX, Settings
from tests.servers import ROOT

DOCKER = ROOT / "docker"


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]


@pytest.fixture(scope="module")
def procfile():
    lines = (ROOT / "Procfile").read_text().splitlines()
    return dict(re.split(r":\s+", line, maxsplit=1) for line in lines if line and not line.startswith("#"))


def dockerfile() -> list[str]:
    """Return its instructions, continued lines joined, comments left out."""
    text = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def stages() -> dict[str, list[str]]:
    """Return the instructions of each stage, its ``FROM`` first."""
    found: dict[str, list[str]] = {}
    for line in dockerfile():
        if line.startswith("FROM "):
            name = line.split(" AS ")[1]
            found[name] = []
        found[name].append(line)
    return found


def lineage(name: str) -> list[str]:
    """Return the instructions that a stage is made of: those of the stages it is built from, then its own."""
    own = stages()[name]
    parent = own[0].split()[1]
    return (lineage(parent) if parent in stages() else []) + own


def image_of(service: dict) -> str:
    """Return the stage of the Dockerfile that a service runs."""
    build = service["build"]
    assert (build["context"], build["dockerfile"]) == ("..", "docker/Dockerfile")
    assert service["image"].startswith(f"chatbot-{build['target']}:")
    return build["target"]


def command_of(service: dict) -> str:
    """Return what the shell in the container is given: Compose makes ``$`` of ``$$``."""
    shell, flag, line = service["command"]
    assert (shell, flag) == ("sh", "-c")
    assert line.startswith("exec "), "without exec the shell would get the signals"
    return line.removeprefix("exec ").replace("$$", "$")


def on_every_address(command: str) -> str:
    """Return Flower's command as containers run it: the loopback of one cannot be published."""
    return command.replace("--address=127.0.0.1", "--address=0.0.0.0")


def ours(services: dict) -> dict:
    return {name: service for name, service in services.items() if "build" in service}


def test_the_processes_are_those_of_the_procfile(services, procfile):
    assert set(ours(services)) == set(procfile)


@pytest.mark.parametrize("name", ["web", "worker", "sender", "beat", "flower"])
def test_a_process_runs_what_the_procfile_says(services, procfile, name):
    assert command_of(services[name]) == on_every_address(procfile[name])


def test_no_dollar_is_left_for_compose_to_replace(services):
    for name, service in ours(services).items():
        assert "$" not in service["command"][2].replace("$$", ""), name


IMAGES = {"web": "front", "sender": "front", "beat": "front", "worker": "worker", "flower": "flower"}


@pytest.mark.parametrize(("name", "image"), IMAGES.items())
def test_a_process_has_the_image_with_what_it_needs(services, name, image):
    assert image_of(services[name]) == image


def test_without_a_target_the_front_is_built():
    assert list(stages())[-1] == "front"


@pytest.mark.parametrize("image", ["front", "worker", "flower"])
def test_an_image_starts_its_process(procfile, image):
    command = yaml.safe_load(lineage(image)[-1].removeprefix("CMD "))
    if image == "front":
        assert " ".join(command) == procfile["web"].replace("'", "")
    else:
        shell, flag, line = command
        assert (shell, flag, line) == ("sh", "-c", f"exec {on_every_address(procfile[image])}")


@pytest.mark.parametrize("image", ["front", "worker", "flower"])
def test_an_image_runs_as_nobody_special(image):
    lines = lineage(image)
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert users[-1] not in {"root", "0"}
    assert not any("pip install" in line or "apt-get" in line for line in lines), "no build tools in it"


@pytest.mark.parametrize("image", ["front", "worker", "flower"])
def test_an_image_installs_what_is_pinned_and_nothing_else(image):
    [copied] = [line for line in stages()[image] if line.startswith("COPY ")]
    built = re.fullmatch(r"COPY --from=(\S+) /opt/chatbot /opt/chatbot", copied).group(1)
    lines = lineage(built)
    installs = [line.split("pip install ")[1] for line in lines if "pip install" in line]
    assert installs[-2:] == [f"--no-deps --require-hashes -r docker/{image}.lock", "--no-deps /wheel/*.whl"]
    locks = {re.search(r"docker/(\w+)\.lock", line).group(1) for line in installs[:-1]}
    assert locks == {"front", image}
    assert any("pip wheel --no-deps" in line for line in lineage("wheel"))


def test_the_images_have_a_health_check_and_compose_one_for_every_process_of_ours(services):
    assert any(line.startswith("HEALTHCHECK") and "/health" in line for line in lineage("front"))
    assert any(line.startswith("HEALTHCHECK") and '"alive", "worker"' in line for line in lineage("worker"))
    assert "/health" in services["web"]["healthcheck"]["test"][-1]
    for name in ("worker", "sender", "beat"):
        assert services[name]["healthcheck"]["test"] == ["CMD", "chatbot", "alive", name]
        assert services[name]["healthcheck"]["interval"]
    assert services["flower"]["healthcheck"] == {"disable": True}


def test_the_image_has_a_python_this_project_supports():
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    low, high = (tuple(map(int, part.split("."))) for part in re.fullmatch(r">=([\d.]+),<([\d.]+)", asked).groups())
    bases = [lines[0].split()[1] for lines in stages().values()]
    bases = [base for base in bases if base not in stages()]
    assert len(set(bases)) == 1
    version = tuple(map(int, re.fullmatch(r"python:([\d.]+)-slim", bases[0]).group(1).split(".")))
    assert low <= version < high


def test_what_the_image_copies_is_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = {
        name.removeprefix("./")
        for line in dockerfile()
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
    }
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignored, name


def test_every_variable_is_a_setting(services):
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    texts = [(DOCKER / name).read_text() for name in ("compose.yaml", ".env.example", "Dockerfile")]
    named = {name for text in texts for name in re.findall(rf"\b{PREFIX}[A-Z_]+", text)}
    assert named
    assert named <= known
    for service in ours(services).values():
        assert {"CHATBOT_BROKER_URL", "CHATBOT_REDIS_URL"} <= set(service["environment"])


def test_the_example_names_what_compose_asks_for():
    example = re.findall(r"^([A-Z_]+)=", (DOCKER / ".env.example").read_text(), re.MULTILINE)
    asked = re.findall(r"(?<!\$)\$\{([A-Z_]+)", (DOCKER / "compose.yaml").read_text())
    assert asked
    assert set(asked) <= set(example)


def test_the_example_holds_no_secret():
    lines = (DOCKER / ".env.example").read_text().splitlines()
    secrets = [line for line in lines if re.match(r"[A-Z_]*(PASS|SECRET|TOKEN|KEY)=", line)]
    assert len(secrets) >= 4
    assert all(line.endswith("=") for line in secrets)


def test_rabbitmq_is_a_4_with_management_and_descriptors(services):
    rabbitmq = services["rabbitmq"]
    assert re.fullmatch(r"rabbitmq:4[\d.]*-management(-alpine)?", rabbitmq["image"])
    assert rabbitmq["ulimits"]["nofile"]["soft"] >= 50_000
    assert {"RABBITMQ_DEFAULT_USER", "RABBITMQ_DEFAULT_PASS"} <= set(rabbitmq["environment"])
    assert rabbitmq["healthcheck"]["test"]


def test_redis_keeps_what_it_is_given(services):
    redis = services["redis"]
    assert "--appendonly yes" in redis["command"]
    assert "--maxmemory-policy noeviction" in redis["command"]
    assert "redis:/data" in redis["volumes"]
    assert redis["healthcheck"]["test"]


def test_our_processes_wait_for_what_they_need_and_come_back(services):
    for name, service in ours(services).items():
        assert service["restart"] == "unless-stopped"
        assert service["stop_grace_period"]
        needs = {"rabbitmq"} if name in {"web", "flower"} else {"rabbitmq", "redis"}
        assert set(service["depends_on"]) == needs
        assert all(need == {"condition": "service_healthy"} for need in service["depends_on"].values())


def test_nothing_is_published_beyond_this_host(services):
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"web", "flower", "rabbitmq"}
    for ports in published.values():
        assert all(port.startswith("127.0.0.1:") for port in ports)


def test_ollama_is_a_profile(services):
    assert services["ollama"]["profiles"] == ["ollama"]
    assert all("profiles" not in service for name, service in services.items() if name != "ollama")
