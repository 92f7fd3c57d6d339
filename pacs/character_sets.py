# SPDX-License-Identifier: Apache-2.0
"""Text of received objects to Unicode by Specific Character Set (PS3.3 C.12.1.1.2, PS3.5 6.1.2), never failing.

What cannot be decoded becomes replacement characters: an instance is kept and found by its UIDs even where a name
in it is broken.
"""

from __future__ import annotations

import re

from pydicom.charset import CODES_TO_ENCODINGS, handled_encodings, python_encoding

#: Codec of the default repertoire, wide enough for files that wrongly leave the character set out.
DEFAULT_CODEC = "iso8859"
_FRAGMENTS = re.compile(rb"[^\x1b]+|\x1b[^\x1b]*")
_TEXT_DELIMITERS = re.compile(rb"[\r\n\t\f\\]")
_NAME_DELIMITERS = re.compile(rb"[\r\n\t\f\\^=]")


def codecs_of(specific_character_set: bytes) -> tuple[str, ...]:
    """Return the Python codecs of the raw value of (0008,0005); unknown terms mean the default repertoire."""
    terms = [term.strip() for term in specific_character_set.decode("ascii", "replace").rstrip("\0 ").split("\\")]
    return tuple(python_encoding.get(term, DEFAULT_CODEC) for term in terms)


def decode_text(value: bytes, codecs: tuple[str, ...], *, is_name: bool) -> str:
    """Decode a text value; `is_name` for PN, whose ``^`` and ``=`` end a code extension."""
    if b"\x1b" not in value:
        return value.decode(codecs[0], "replace")
    delimiters = _NAME_DELIMITERS if is_name else _TEXT_DELIMITERS
    return "".join(_decode_fragment(fragment, codecs, delimiters) for fragment in _FRAGMENTS.findall(value))


def _decode_fragment(fragment: bytes, codecs: tuple[str, ...], delimiters: re.Pattern[bytes]) -> str:
    """Decode what follows one escape sequence, or what stands before the first."""
    if not fragment.startswith(b"\x1b"):
        return fragment.decode(codecs[0], "replace")
    length = 4 if fragment.startswith((b"\x1b$(", b"\x1b$)")) else 3
    codec = CODES_TO_ENCODINGS.get(fragment[:length], codecs[0])
    if codec in handled_encodings:
        return fragment.decode(codec, "replace")
    text = fragment[length:]
    delimiter = delimiters.search(text)
    end = len(text) if delimiter is None else delimiter.start()
    return text[:end].decode(codec, "replace") + text[end:].decode(codecs[0], "replace")
