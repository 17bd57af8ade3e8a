"""Texts without the passwords that URLs in them have: what is shown of a source, and of what its driver says.

Write path: **read** → encode → partition → sort → seal. Rather too much is hidden than too little: who writes a password
into a URL does not always quote what has a meaning there (`/`, `?`, `#`, `@`).
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, unquote_plus

MASK: Final = "***"
_PARAMETER: Final = re.compile(r"(\b(?:ssl)?password\s*=\s*)('[^']*'|[^&\s'\"]+)", re.IGNORECASE)
_DATABASE: Final = re.compile(r"(postgres(?:ql)?://[^\s:\"]*):[^\s\"]*@", re.IGNORECASE)
_USER: Final = re.compile(r"(://[^/\s:\"@]*):[^/\s\"]*@")
_WEB: Final = re.compile(r"\b((?:https?|ftps?|sftp|ssh)://)[^/\s\"]*@", re.IGNORECASE)
_SECRET: Final = re.compile(r"//[^:]*:(.*)@", re.DOTALL)
_QUOTED: Final = re.compile(r'"([^"]+)"')


def mask(text: str) -> str:
    """A text without the passwords of URLs, and of parameters called so."""
    text = _PARAMETER.sub(rf"\1{MASK}", text)
    text = _DATABASE.sub(rf"\1:{MASK}@", text)
    text = _WEB.sub(rf"\1{MASK}@", text)
    return _USER.sub(rf"\1:{MASK}@", text)


def hide(text: str, url: str) -> str:
    """A text about a database's URL without any part of its password: a driver quotes what it took for a port or a host."""
    spans = [found.span(2) for found in _PARAMETER.finditer(url)]
    spans += [found.span(1) for found in _SECRET.finditer(url)]
    secrets = {form for begin, end in spans if begin < end for raw in (url[begin:end],) for form in (raw, unquote(raw), unquote_plus(raw))}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)

    def quoted(found: re.Match[str]) -> str:
        said = found[1]
        within = any(said in secret for secret in secrets) or any(
            place.start() < end and place.start() + len(said) > begin for place in re.finditer(re.escape(said), url) for begin, end in spans
        )
        return f'"{MASK}"' if within else found[0]

    return mask(_QUOTED.sub(quoted, text) if text != url else text)
