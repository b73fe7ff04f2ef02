"""What the applications' README files say: their links, their commands, their languages."""

from __future__ import annotations

import pytest

from tests.docs import test_code_blocks as held


@pytest.mark.parametrize("application", ["fastapi_app", "flask_app", "postgres_workers"])
def test_a_readme_is_held_to_the_rules_of_the_docs(application: str) -> None:
    page = held.doc.ROOT / "examples" / application / "README.md"
    held.test_shell_commands_exist(page)
    held.test_every_block_has_a_language(page)
    held.test_links_lead_somewhere(page)
