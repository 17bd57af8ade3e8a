"""The errors of Venice: one class per thing a caller would do about it.

    VeniceError
    ├── InvalidRequest   the call is wrong: change it
    ├── NotFound         no such store, version, topic or file
    ├── Conflict         somebody else holds it, or it already exists: wait, or name another
    ├── Incompatible     a schema does not fit the ones before it
    ├── Unavailable      not now: try again (`retryable`)
    ├── Corrupt          the bytes are not what was written: stop and inspect
    ├── Fenced           a newer session has taken over: stop
    └── Full             a disk, a quota or a size limit is reached

A missing key is not an error: reads answer `None` for it. A broken assumption inside Venice is an `assert`.
"""

from __future__ import annotations

from typing import Any, ClassVar


class VeniceError(Exception):
    """Base of every error Venice raises on purpose.

    Args:
        message: What is wrong, naming the thing: store, file, field, offset.
        hint: What the reader should do next, as one sentence.
        data: Facts for programs (never parse them out of the text).
    """

    kind: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.data = data

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments do not survive the default pickling of exceptions, and errors cross process pools.
        return _rebuild, (type(self), self.message, self.hint, self.data)


class InvalidRequest(VeniceError):
    """The call cannot succeed as written."""

    kind = "invalid_request"


class NotFound(VeniceError):
    """The named store, version, schema, topic or file does not exist."""

    kind = "not_found"


class Conflict(VeniceError):
    """The thing exists already, or another operation holds it."""

    kind = "conflict"


class Incompatible(VeniceError):
    """A schema cannot stand beside the schemas registered before it."""

    kind = "incompatible"


class Unavailable(VeniceError):
    """A process or a replica cannot answer now; the same call may succeed later."""

    kind = "unavailable"
    retryable = True


class Corrupt(VeniceError):
    """Bytes read are not the bytes written."""

    kind = "corrupt"


class Fenced(VeniceError):
    """A newer session has taken this one's place."""

    kind = "fenced"


class Full(VeniceError):
    """A disk, a quota or a size limit leaves no room."""

    kind = "full"


def _rebuild(cls: type[VeniceError], message: str, hint: str, data: dict[str, Any]) -> VeniceError:
    return cls(message, hint=hint, **data)


BY_KIND: dict[str, type[VeniceError]] = {
    cls.kind: cls for cls in (VeniceError, InvalidRequest, NotFound, Conflict, Incompatible, Unavailable, Corrupt, Fenced, Full)
}
