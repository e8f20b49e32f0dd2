"""The code in the README and in docs/ runs, top to bottom, each page in a folder of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mnemos.memory import Declaration
from mnemos.tasks import entries
from mnemos.tasks import registry as tasks
from mnemos.zoo import registry

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [page for page in PAGES if "```python" in page.read_text()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # A page may publish a system, declare a choice of its own, or add a task.
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(tasks, "_entries", dict(entries()))
    monkeypatch.setattr(Declaration, "kinds", dict(Declaration.kinds))
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in blocks:
        exec(compile(block, str(page), "exec", dont_inherit=True), namespace)


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_readme_lists_the_zoo() -> None:
    readme = (ROOT / "README.md").read_text()
    listed = readme.split("<!-- systems -->\n")[1].split("<!-- /systems -->")[0]
    assert listed == registry.table(), "README's table is out of date: `mnemos zoo --markdown` prints the new one"


def test_the_tasks_page_lists_the_tasks() -> None:
    page = (ROOT / "docs" / "tasks.md").read_text()
    listed = page.split("<!-- tasks -->\n")[1].split("<!-- /tasks -->")[0]
    assert listed == tasks.table(), "docs/tasks.md is out of date: `mnemos tasks --markdown` prints the new table"
