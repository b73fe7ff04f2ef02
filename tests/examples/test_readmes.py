"""What the examples' README files say: their links, their commands, their languages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import test_code_blocks as held

READMES = sorted((held.doc.ROOT / "examples").rglob("README.md"))


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.parent.name)
def test_a_readme_is_held_to_the_rules_of_the_docs(page: Path) -> None:
    held.test_shell_commands_exist(page)
    held.test_every_block_has_a_language(page)
    held.test_links_lead_somewhere(page)


def test_every_application_has_a_readme() -> None:
    applications = {path.parent for path in (held.doc.ROOT / "examples").glob("*/*.py")}
    assert applications == {page.parent for page in READMES}
