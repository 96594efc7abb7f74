"""What may be shown of an address: passwords and keys give way to three asterisks."""

from __future__ import annotations

import re

HIDDEN = "***"

# `user:password@` in an address. Those of databases may hold a slash; in others what follows a slash is a path.
_WEB = re.compile(r"(?<![\w+.-])(https?://[^:/@\s]*):[^@/?#\s]*@", re.IGNORECASE)
_OTHER = re.compile(r"(?<![\w+.-])(?!https?://)([a-z][\w+.-]*://[^:/@\s]*):[^@\s]*@", re.IGNORECASE)
_SETTING = re.compile(
    r"((?:^|[?&;\s])(?:[\w-]*(?:password|passwd|secret|token|signature|credential)[\w-]*|pwd|sig|(?:api|access)[_-]?key)"
    r"=)[^&;#\s]+",
    re.IGNORECASE,
)


def hide_secrets(text: str) -> str:
    """Return a text in which every password of an address is replaced.

    >>> hide_secrets("labels: 3 rows in postgresql://me:secret@host/shop")
    'labels: 3 rows in postgresql://me:***@host/shop'
    >>> hide_secrets("https://host/a.jpg?size=3&X-Amz-Signature=f00")
    'https://host/a.jpg?size=3&X-Amz-Signature=***'
    """
    if "://" not in text and "=" not in text:
        return text
    for pattern in (_WEB, _OTHER):
        text = pattern.sub(rf"\1:{HIDDEN}@", text)
    return _SETTING.sub(rf"\1{HIDDEN}", text)
