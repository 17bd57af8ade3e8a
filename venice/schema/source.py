"""Python source under construction: what the generators of decoders, encoders and copiers write into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

DEPTH_MAX: Final = 8
"""Indentation at which a generator starts a new function: Python allows 20 nested loops and 100 indentations."""


class Source:
    """Lines of one module and the objects they name.

    Text that comes from a schema enters the lines only through `repr` or as a shared object, never as code.
    """

    def __init__(self) -> None:
        self.depth = 0
        self._lines: list[str] = []
        self._globals: dict[str, Any] = {}
        self._shared: dict[int, str] = {}
        self._used = 0

    def line(self, text: str) -> None:
        """One statement at the present indentation."""
        self._lines.append("    " * self.depth + text)

    @contextmanager
    def block(self, header: str) -> Iterator[None]:
        """`header:` and, inside the `with`, its body (which must not be empty)."""
        self.line(f"{header}:")
        self.depth += 1
        yield
        self.depth -= 1

    def fresh(self, stem: str) -> str:
        """A name used nowhere else."""
        self._used += 1
        return f"{stem}{self._used}"

    def share(self, value: Any, stem: str) -> str:
        """The name under which the lines reach `value`."""
        name = self._shared.get(id(value))  # the globals keep the object, so its id stays its own
        if name is None:
            name = self._shared[id(value)] = self.fresh(stem)
            self._globals[name] = value
        return name

    def compile(self, entry: str) -> Any:
        """Compile all lines; the function called `entry`."""
        code = compile("\n".join(self._lines) + "\n", "<generated from an Avro schema>", "exec")
        exec(code, self._globals)
        return self._globals[entry]
