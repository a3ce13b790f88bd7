"""README and the manual in ``docs/``: short where it must be, whole in both languages, true in what it names.

``make docs`` checks links between the pages. What it does not check is checked here.
"""

from __future__ import annotations

import re

import pytest
import yaml

from tests.servers import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
READMES = [ROOT / "README.md", ROOT / "README.pt-BR.md"]
USERS = sorted(page.name for page in DOCS.glob("*.md"))
WRITTEN = [*READMES, *PAGES, *sorted((ROOT / ".github").rglob("*.md"))]
#: A README is a front page.
README_BYTES = 10_000

_PATH = re.compile(r"`((?:chatbot|tests|docs|docker|\.github|\.ci)/[\w./-]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_EVENT = re.compile(r"^\| (`\w+\.\w+`(?:, `\w+\.\w+`)*) \|", re.MULTILINE)


def named(page):
    return str(page.relative_to(ROOT))


def without_blocks(text):
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def headings(page):
    """Return level and words of each heading."""
    return re.findall(r"^(#+) (.+)$", without_blocks(page.read_text()), re.MULTILINE)


def anchors(page):
    """Return the anchors of a page's headings, as code hosts and the manual make them."""
    return {re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-") for _, words in headings(page)}


def figures(text):
    """Return the numbers of a text without their points and commas, which mean the opposite in Portuguese."""
    prose = re.sub(r"`[^`\n]+`", "", without_blocks(text))
    return {re.sub(r"[.,]", "", figure) for figure in re.findall(r"(?<![\w.,])\d[\d.,]*", prose)}


def navigation(entry):
    """Return the pages that an entry of the navigation leads to."""
    if isinstance(entry, str):
        return [entry]
    values = entry.values() if isinstance(entry, dict) else entry
    return [page for value in values for page in navigation(value)]


@pytest.mark.parametrize("readme", READMES, ids=named)
def test_a_readme_is_a_front_page(readme):
    assert readme.stat().st_size <= README_BYTES


@pytest.mark.parametrize("page", [*READMES, *sorted((ROOT / ".github").rglob("*.md"))], ids=named)
def test_links_of_readme_lead_somewhere(page):
    for link in _LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_navigation():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(navigation(nav)) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_pictures_are_there(page):
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)|<img[^>]* src=\"([^\"]+)\"", page.read_text()):
        assert (page.parent / "".join(picture)).is_file(), picture


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_files_that_a_page_names_exist(page):
    missing = [path for path in _PATH.findall(page.read_text()) if not (ROOT / path).exists()]
    assert missing == []


def test_folders_and_modules_that_the_map_of_the_code_names_exist():
    rows = re.findall(
        r"^\| [\w ]+ \| (`\w+/`[^|]*) \| (.+) \|$", (DOCS / "dev/architecture.md").read_text(), re.MULTILINE
    )
    assert len(rows) >= 8
    for folders, modules in rows:
        inside = [ROOT / "chatbot" / folder for folder in re.findall(r"`(\w+)/`", folders)]
        assert all(folder.is_dir() for folder in inside), folders
        for module in re.findall(r"`(\w+)`", modules):
            assert any((folder / f"{module}.py").is_file() for folder in inside), module
        for subfolder in re.findall(r"`(\w+)/`", modules):
            assert any((folder / subfolder).is_dir() for folder in inside), subfolder


def test_users_and_operators_have_every_page_in_both_languages():
    assert sorted(page.name for page in (DOCS / "pt-BR").glob("*.md")) == USERS


@pytest.mark.parametrize("page", ["README.md", *USERS])
def test_both_languages_have_the_same_sections_and_tables(page):
    english = ROOT / page if page == "README.md" else DOCS / page
    portuguese = READMES[1] if page == "README.md" else DOCS / "pt-BR" / page
    assert [level for level, _ in headings(english)] == [level for level, _ in headings(portuguese)]
    rows = [sum(line.startswith("|") for line in each.read_text().splitlines()) for each in (english, portuguese)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("page", USERS)
def test_both_languages_name_the_same_settings_and_figures(page):
    english, portuguese = (DOCS / page).read_text(), (DOCS / "pt-BR" / page).read_text()
    names = r"CHATBOT_\w+|…_[A-Z_]+"
    assert set(re.findall(names, english)) == set(re.findall(names, portuguese))
    assert figures(english) == figures(portuguese)


@pytest.mark.parametrize("page", ["operate.md", "pt-BR/operate.md"])
def test_events_in_the_table_of_logs_are_logged(page):
    logged = "\n".join(file.read_text() for file in (ROOT / "chatbot").rglob("*.py"))
    events = [event for row in _EVENT.findall((DOCS / page).read_text()) for event in re.findall(r"`(\w+\.\w+)`", row)]
    counts = [event for event in events if event.startswith("notice.") and event != "notice.received"]
    assert len(events) - len(counts) > 30
    assert [event for event in events if event not in counts and f'"{event}"' not in logged] == []


def test_a_decision_says_its_context_its_choice_and_its_cost():
    for page in sorted((DOCS / "dev/decisions").glob("*.md")):
        if page.stem in {"index", "libraries"}:
            continue
        parts = re.findall(r"^## (\w+)$", page.read_text(), re.MULTILINE)
        assert parts == ["Context", "Choice", "Cost"], page.name


def test_the_manual_asks_no_other_host_for_anything():
    assert yaml.safe_load((ROOT / "mkdocs.yml").read_text())["theme"]["font"] is False
    for page in WRITTEN:
        assert not re.search(r"!\[[^]]*\]\(https?:|src=\"https?:|```mermaid", page.read_text()), named(page)


def steps(workflow):
    jobs = yaml.safe_load((ROOT / ".github/workflows" / workflow).read_text())["jobs"]
    return [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]


def test_the_workflows_run_what_is_run_everywhere():
    assert steps("check.yml") == ["bash .ci/run"]
    assert steps("docs.yml") == ["make docs"]


def test_what_runs_before_a_commit_are_checks_of_make_check():
    makefile = (ROOT / "Makefile").read_text()
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["entry"].split(" --")[0].replace(".venv/bin/", "$(BIN)/").replace("make ", "") in makefile
