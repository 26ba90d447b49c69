"""Resources as bytes for an API server."""

import json
import re
from typing import Any

_NOT_RAW = re.compile("[\x7f-\x9f\ufeff\ufffe\uffff]")
_SURROGATES = re.compile("[\ud800-\udfff]")


def json_and_yaml(value: Any) -> bytes:
    r"""JSON that is YAML as well, which is what server-side apply reads: it has no JSON of its own.

    YAML has no surrogate pairs, JSON's only escape of what lies beyond U+FFFF, such as emoji: these stand as they are.
    Control characters must not (YAML 1.2, section 5.1), and are escaped. A surrogate alone is no character, but what
    is left of bytes that were no UTF-8: it becomes U+FFFD.
    """
    text = _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    return _NOT_RAW.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()
