# SPDX-License-Identifier: Apache-2.0
"""Options that several verbs share, kept together in one dataclass."""

from __future__ import annotations

import functools
import inspect
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Callable


def takes(**bundles: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb the options of dataclasses: each parameter named here becomes one option for each field.

    The fields are annotated as a verb's parameters are, and all have defaults.  The verb itself gets the dataclass,
    filled with what was typed.

        @takes(options=RequestOptions)
        def plan(scan_id: ScanArgument, options: RequestOptions, as_json: JsonOption = False) -> None: ...
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        spread: list[inspect.Parameter] = []
        hints = get_type_hints(verb, {**verb.__globals__, **_names(bundles)}, include_extras=True)
        for name, parameter in inspect.signature(verb).parameters.items():
            if name in bundles:
                spread += _parameters(bundles[name])
            else:
                spread.append(parameter.replace(annotation=hints[name]))

        @functools.wraps(verb)
        def run(**typed: Any) -> None:
            own = {
                name: bundle(**{field.name: typed.pop(field.name) for field in fields(bundle)})
                for name, bundle in bundles.items()
            }
            verb(**typed, **own)

        keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in spread]
        run.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in spread}
        return run

    return decorate


def _parameters(bundle: type[Any]) -> list[inspect.Parameter]:
    """A parameter for each field of a dataclass."""
    hints = get_type_hints(bundle, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(bundle)
    ]


def _names(bundles: dict[str, type[Any]]) -> dict[str, Any]:
    """The dataclasses by their names, as annotations have them."""
    return {bundle.__name__: bundle for bundle in bundles.values()}
