# SPDX-License-Identifier: Apache-2.0
"""Kinds of jobs: what parameters each takes, what it needs, and what runs it."""

from __future__ import annotations

import dataclasses
import importlib
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from jobs.errors import JobParameterError, KindUnavailableError, UnknownKindError
from jobs.texts import json_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from jobs.records import Resources

#: Parameters are names and numbers; pixels and lists of files belong into the store.
MAX_PARAMETER_BYTES = 256 << 10
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class JobKind:
    """One kind of job, registered by the program that offers it.

    Attributes
    ----------
    name : lower case, e.g. ``reconstruct``
    title : one line for people
    parameters : a frozen dataclass; its fields, types and defaults are the schema.  What it refuses in
        ``__post_init__`` it refuses by a ValueError
    resources : what a job with some parameters (an instance of that dataclass) needs
    run : does the work: (the runner's context, the parameters) -> result as JSON values; an import path
        ``package.module:function``, resolved where it runs, so that who only submits needs none of its libraries
    """

    name: str
    title: str
    parameters: type[Any]
    resources: Callable[[Any], Resources]
    run: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"kind of job '{self.name}': expected a name of a-z, 0-9, _ and -, at most 64 characters")
        if not dataclasses.is_dataclass(self.parameters):
            raise ValueError(f"kind of job '{self.name}': its parameters must be a dataclass, got {self.parameters!r}")
        if len(self.run.split(":")) != 2:
            raise ValueError(f"kind of job '{self.name}': expected package.module:function, got '{self.run}'")


def kinds_by_name(kinds: Iterable[JobKind]) -> Mapping[str, JobKind]:
    """Return kinds by their names, for `jobs.queue.JobQueue`.

    Raises
    ------
    ValueError
        If two have the same name.
    """
    found: dict[str, JobKind] = {}
    for kind in kinds:
        if kind.name in found:
            raise ValueError(f"two kinds of jobs are named '{kind.name}': '{found[kind.name].title}', '{kind.title}'")
        found[kind.name] = kind
    return MappingProxyType(found)


def find_kind(kinds: Mapping[str, JobKind], name: str) -> JobKind:
    """Return the kind of that name.

    Raises
    ------
    UnknownKindError
        If there is none; the message lists those there are.
    """
    if name not in kinds:
        raise UnknownKindError(f"no kind of job is named '{name}'; there are {', '.join(sorted(kinds)) or 'none'}")
    return kinds[name]


def check_parameters(kind: JobKind, values: Mapping[str, Any]) -> dict[str, Any]:
    """Check JSON values against a kind's parameters and complete them with its defaults.

    Returns
    -------
    dict
        JSON values, every field of the dataclass among them.

    Raises
    ------
    JobParameterError
        If a field is missing, unknown or wrong, or all together are too large: one sentence about the first.
    """
    complete: dict[str, Any] = _adapter(kind).dump_python(read_parameters(kind, values), mode="json")
    # A dataclass ignores names that it does not know, at any depth: what was given and is not there now is unknown.
    unknown = _first_unknown(values, complete, "")
    if unknown:
        known = ", ".join(field.name for field in dataclasses.fields(kind.parameters))
        raise JobParameterError(f"{kind.name}: there is no parameter '{unknown}'; there are {known}")
    _json_text(kind, complete)
    return complete


def read_parameters(kind: JobKind, values: Mapping[str, Any]) -> Any:
    """Return the kind's dataclass made of JSON values, such as a job's parameters.

    Raises
    ------
    JobParameterError
        If a field is missing or wrong, or all together are too large.
    """
    text = _json_text(kind, values)
    try:
        return _adapter(kind).validate_json(text)
    except ValidationError as error:
        raise JobParameterError(f"{kind.name}: {_sentence(error)}") from error


def json_schema(kind: JobKind) -> dict[str, Any]:
    """JSON schema of a kind's parameters, for forms and clients."""
    return {**_adapter(kind).json_schema(), "additionalProperties": False}


def load_run(kind: JobKind) -> Callable[[Any, Any], Mapping[str, Any]]:
    """Import the function that does a kind's work.

    Raises
    ------
    KindUnavailableError
        If its module or a library that it needs is not installed here, or has no such function.
    """
    module_name, _, function_name = kind.run.partition(":")
    refused = f"jobs of kind '{kind.name}' cannot be run here"
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise KindUnavailableError(f"{refused}: {error}") from error
    function = getattr(module, function_name, None)
    if function is None:
        raise KindUnavailableError(f"{refused}: {module_name} has no '{function_name}'")
    if not callable(function):
        raise KindUnavailableError(f"{refused}: {kind.run} is not a function")
    found: Callable[[Any, Any], Mapping[str, Any]] = function
    return found


def _adapter(kind: JobKind) -> TypeAdapter[Any]:
    return TypeAdapter(kind.parameters)


def _json_text(kind: JobKind, values: Mapping[str, Any]) -> str:
    """Values as JSON text, if they are JSON and not too large."""
    return json_object(f"parameters of kind '{kind.name}'", values, MAX_PARAMETER_BYTES)


def _first_unknown(given: Any, known: Any, path: str) -> str:
    """Path of the first name in `given` that is not in `known`, or ""."""
    if isinstance(given, dict) and isinstance(known, dict):
        for name, value in given.items():
            here = f"{path}.{name}" if path else str(name)
            found = here if name not in known else _first_unknown(value, known[name], here)
            if found:
                return found
    if isinstance(given, list | tuple) and isinstance(known, list) and len(given) == len(known):
        for index, (one, other) in enumerate(zip(given, known, strict=True)):
            found = _first_unknown(one, other, f"{path}[{index}]")
            if found:
                return found
    return ""


def _sentence(error: ValidationError) -> str:
    """The first fault in one sentence that names the field."""
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] in ("missing", "missing_argument"):
        return f"the parameter '{path}' is missing"
    reason = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if not path:
        return reason
    got = repr(first["input"])
    return f"parameter '{path}': {reason[:1].lower()}{reason[1:]}, got {got if len(got) <= 80 else got[:77] + '...'}"
