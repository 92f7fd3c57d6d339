# SPDX-License-Identifier: Apache-2.0
"""The manual and the command name the same verbs and options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from cli.main import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def verbs(command, path=()):
    """Every command below one, with the words that lead to it."""
    below = getattr(command, "commands", None)
    if not below:
        return {path: command}
    return {key: value for name, one in below.items() for key, value in verbs(one, (*path, name)).items()}


COMMAND = typer.main.get_command(app)
VERBS = verbs(COMMAND)


def options_of(command):
    return {
        text
        for parameter in command.params
        for text in (*parameter.opts, *parameter.secondary_opts)
        if text.startswith("--")
    }


def commands_of(page):
    """Command lines of a page's code blocks that call conepacs, as words, continued lines joined."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```[a-z]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.match(r"\s*(?:\$ )?(?:\S*/)?conepacs (.+)", line):
                yield re.split(r"\s#\s|\s[|>&]", found[1])[0].split()


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_commands_of_the_manual_exist(page):
    for words in commands_of(page):
        given = [word.split("=")[0] for word in words if OPTION.fullmatch(word.split("=")[0])]
        rest = [word for word in words if not word.startswith("-")]
        path = max((key for key in VERBS if tuple(rest[: len(key)]) == key), key=len, default=None)
        if rest[:2] == ["jobs", "submit"] and (path is None or {"--parameters", "--set"} & set(given)):
            path = ("jobs", "submit", "KIND")  # any kind with plain parameters
        if path is None:
            assert not rest or rest[0] in {key[0] for key in VERBS} or not rest[0].isidentifier(), (page.name, words)
            continue
        unknown = set(given) - options_of(VERBS[path]) - options_of(COMMAND) - {"--help"}
        assert not unknown, f"{page.name}: 'conepacs {' '.join(words)}' has {unknown}"


def test_every_option_is_in_the_manual():
    manual = " ".join(page.read_text(encoding="utf-8") for page in PAGES)
    told = set(OPTION.findall(manual))
    missing = [
        (" ".join(path), parameter.opts)
        for path, command in VERBS.items()
        for parameter in command.params
        for names in [{name for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("--")}]
        if names and not names & told
    ]
    assert not missing
