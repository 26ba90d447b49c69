"""Characters: mojibake repaired, one form of each, no control characters."""

import re
import unicodedata

# All but tab and newline; also the byte order mark within a text and Unicode's line and paragraph separators.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufff9-\ufffb]")
_LINE_ENDS = re.compile("\r\n?|\x0b|\x0c|\x85|\u2028|\u2029")


def repaired(text: str) -> str:
    """Return the text with mojibake repaired (Speer 2019, ftfy) and in Unicode's form NFC; quotes stay as they are."""
    if text.isascii():
        return text
    import ftfy

    return unicodedata.normalize("NFC", ftfy.fix_encoding(text))


def without_controls(text: str) -> str:
    """Return the text with line ends as newlines and no other control characters but tabs."""
    if text.isascii() and text.isprintable():
        return text
    return _CONTROLS.sub("", _LINE_ENDS.sub("\n", text))
