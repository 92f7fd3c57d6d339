# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from cli.bundles import takes

WidthOption = Annotated[float, typer.Option("--width", help="Width in mm.")]
NameOption = Annotated[list[str] | None, typer.Option("--name")]


@dataclass(frozen=True)
class Sizes:
    width: WidthOption = 2.5
    names: NameOption = None


def invoke(verb, *arguments):
    app = typer.Typer()
    app.command()(verb)
    typer.main.get_command(app)(list(arguments), standalone_mode=False)


def test_a_verb_gets_the_fields_of_a_bundle_as_options():
    seen = []

    @takes(sizes=Sizes)
    def measure(scan_id: str, sizes: Sizes, again: bool = False) -> None:
        """Measure."""
        seen.append((scan_id, sizes, again))

    assert measure.__doc__ == "Measure."
    assert list(measure.__annotations__) == ["scan_id", "width", "names", "again"]
    invoke(measure, "stone")
    invoke(measure, "stone", "--width", "3", "--name", "a", "--name", "b", "--again")
    assert seen == [("stone", Sizes(), False), ("stone", Sizes(3.0, ["a", "b"]), True)]
