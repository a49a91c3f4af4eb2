"""Every Python block in the README and the docs runs, page by page, in order."""

import re
from pathlib import Path

import pytest

from ponder.core.registry import REGISTRIES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python[ \t]*(.*?)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page):
    """Code of a page; a block marked `no-run` is a signature or needs an endpoint."""
    return [code for mark, code in BLOCK.findall(page.read_text(encoding="utf-8")) if "no-run" not in mark]


@pytest.mark.parametrize("page", [p for p in PAGES if p.exists() and blocks(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_the_blocks_of(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    for registry in REGISTRIES.values():  # what a page registers is forgotten after it
        registry.names()
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
        monkeypatch.setattr(registry, "_aliases", dict(registry._aliases))
    namespace = {"__name__": "docs"}
    for code in blocks(page):
        exec(compile(code, str(page), "exec"), namespace)


def test_every_link_between_pages_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:", "mailto:")):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_the_readme_lists_every_strategy_selector_and_verifier():
    from ponder.core.registry import SELECTORS, STRATEGIES, VERIFIERS

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for registry in (STRATEGIES, SELECTORS, VERIFIERS):
        missing = [name for name in registry.names() if f"[`{name}`]" not in readme]
        assert not missing, f"the README's table of {registry.kind} lacks {missing}"
