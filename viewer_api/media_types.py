# SPDX-License-Identifier: Apache-2.0
"""Negotiation of media types and transfer syntaxes (PS3.18 8.7, RFC 9110 12.5.1): functions of values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from viewer_api.errors import BadRequestError, NotAcceptableError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DICOM = "application/dicom"
DICOM_JSON = "application/dicom+json"
JSON = "application/json"
OCTETS = "application/octet-stream"
PNG = "image/png"
JPEG = "image/jpeg"
MULTIPART = "multipart/related"

EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
_MAX_CHARACTERS = 8192
_TYPE = re.compile(r"\s*([\w!#$&^.+*-]+)/([\w!#$&^.+*-]+)\s*")
# Parameters: a token or a quoted string; both forms of type= are met in the field.
_PARAMETER = re.compile(r';\s*([\w-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;,"\s]*)\s*')


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One element of an Accept header: lower-case media type (``*`` allowed), parameters, quality."""

    media_type: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    quality: float = 1.0

    @property
    def is_multipart(self) -> bool:
        """Whether parts are asked for."""
        return self.media_type in (MULTIPART, "multipart/*")

    @property
    def part_type(self) -> str:
        """Media type of the parts (``type`` of multipart/related); any if it is not named."""
        return self.parameters.get("type", "*/*").lower() if self.is_multipart else self.media_type

    @property
    def transfer_syntax(self) -> str:
        """Transfer syntax that is asked for: a UID, ``*``, or empty for the default of the media type."""
        return self.parameters.get("transfer-syntax", "")


@dataclass(frozen=True, slots=True)
class Offer:
    """One form in which a resource can be sent."""

    media_type: str
    is_multipart: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """The form that is sent, and the transfer syntaxes that the client takes in it, the best first."""

    offer: Offer
    transfer_syntaxes: tuple[str, ...]


def parse_accept(text: str) -> list[MediaRange]:
    """Parse an Accept header, the most wanted first; an empty one accepts anything.

    Raises
    ------
    BadRequestError
        If it is not a list of media types.
    """
    if len(text) > _MAX_CHARACTERS:
        raise BadRequestError(f"Accept has {len(text)} characters, at most {_MAX_CHARACTERS} are read.")
    ranges: list[MediaRange] = []
    position = 0
    while position < len(text):
        found = _TYPE.match(text, position)
        if found is None:
            raise BadRequestError("Accept is malformed, expected media types like application/dicom+json.")
        position, parameters = _parameters(text, found.end())
        quality = _quality(parameters.pop("q", "1"))
        if quality > 0:
            ranges.append(MediaRange(f"{found[1]}/{found[2]}".lower(), parameters, quality))
        if position < len(text) and text[position] != ",":
            raise BadRequestError("Accept is malformed, expected a comma between media types.")
        position += 1
        # A trailing comma adds nothing.
        if not text[position:].strip():
            break
    if not ranges and not text.strip():
        return [MediaRange("*/*")]
    return sorted(ranges, key=lambda one: -one.quality)


def choose(accepted: Sequence[MediaRange], offers: Sequence[Offer]) -> Choice:
    """Choose the form to send: the client's order counts first, then the server's.

    Raises
    ------
    NotAcceptableError
        If the client takes none of them.
    """
    for one in accepted:
        for offer in offers:
            if _takes(one, offer):
                wanted = [other.transfer_syntax for other in accepted if _takes(other, offer)]
                # Who takes anything at all takes any syntax.
                if any(other.media_type == "*/*" for other in accepted):
                    wanted.append("*")
                return Choice(offer, tuple(dict.fromkeys(wanted)))
    listed = ", ".join(f'{MULTIPART}; type="{o.media_type}"' if o.is_multipart else o.media_type for o in offers)
    raise NotAcceptableError(f"None of the accepted media types can be sent, expected one of: {listed}.")


def _takes(one: MediaRange, offer: Offer) -> bool:
    """Whether a media range covers an offer."""
    if one.media_type == "*/*":
        return True
    if one.is_multipart != offer.is_multipart:
        return False
    wanted = one.part_type
    return wanted in ("*/*", offer.media_type) or wanted == offer.media_type.split("/")[0] + "/*"


def _parameters(text: str, position: int) -> tuple[int, dict[str, str]]:
    """Parameters from `position` on, and where they end."""
    parameters: dict[str, str] = {}
    while found := _PARAMETER.match(text, position):
        value = found[2]
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        parameters.setdefault(found[1].lower(), value)
        position = found.end()
    return position, parameters


def _quality(text: str) -> float:
    """The weight of a media range."""
    if not re.fullmatch(r"[01](\.\d{0,3})?", text):
        raise BadRequestError(f"Accept has a q of '{text[:16]}', expected 0 to 1.")
    return min(float(text), 1.0)
