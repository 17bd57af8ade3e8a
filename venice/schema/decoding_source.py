"""Source of decoders: the statements that move the offset `o` through the bytes `b`."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from venice.schema.decoding_steps import RUNS, read_block, read_empty_block, refuse_number
from venice.schema.source import Source
from venice.schema.varint import decode_size, unsigned_tail

Tail = Callable[[bytes, int, int, int], tuple[int, int]]


class DecoderSource(Source):
    """Each method writes statements; those that return a string return the name of a local variable."""

    def keep(self, expression: str) -> str:
        """The expression's value now, under a name."""
        name = self.fresh("v")
        self.line(f"{name} = {expression}")
        return name

    def byte(self) -> str:
        """The next byte."""
        name = self.fresh("n")
        self.line(f"{name} = b[o]")
        self.line("o += 1")
        return name

    def unsigned(self, tail: Tail = unsigned_tail) -> str:
        """A number before zig-zag; up to three bytes inline, which holds what most fields hold."""
        number, more = self.byte(), self.fresh("m")
        with self.block(f"if {number} > 127"):
            self.line(f"{more} = b[o]")
            self.line("o += 1")
            self.line(f"{number} += ({more} << 7) - 128")
            with self.block(f"if {more} > 127"):
                self.line(f"{more} = b[o]")
                self.line("o += 1")
                self.line(f"{number} += ({more} << 14) - 16384")
                with self.block(f"if {more} > 127"):
                    self.line(f"{number}, o = {self.share(tail, 'tail')}(b, o, {number} - 2097152, 21)")
        return number

    def signed(self, tail: Tail) -> str:
        """A number."""
        number = self.unsigned(tail)
        return self.keep(f"({number} >> 1) ^ -({number} & 1)")

    def span(self) -> str:
        """A length and as many bytes: moves `o` past them; the name of where they start."""
        start = self.fresh("s")
        self.line(f"{start} = b[o]")
        with self.block(f"if {start} & 129"):
            self.line(f"{start}, o = {self.share(decode_size, 'size')}(b, o)")
            self.line(f"{start}, o = o, o + {start}")
        with self.block("else"):
            self.line(f"{start}, o = o + 1, o + 1 + ({start} >> 1)")
        return start

    def fixed_run(self, kinds: list[str]) -> list[str]:
        """Consecutive floats and doubles, read by one call."""
        layout = struct.Struct("<" + "".join("f" if kind == "float" else "d" for kind in kinds))
        names = [self.fresh("v") for _ in kinds]
        self.line(f"{', '.join(names)}, = {self.share(layout.unpack_from, 'unpack')}(b, o)")
        self.line(f"o += {layout.size}")
        return names

    @contextmanager
    def items(self, held: str | None = None) -> Iterator[None]:
        """Around the code of one item of an array or a map.

        Args:
            held: Expression of how many items there are already, if they take no bytes.
        """
        count = self.byte()
        with self.block(f"while {count}"):
            if held is not None:
                self.line(f"{count}, o = {self.share(read_empty_block, 'block')}(b, o - 1, {held})")
            else:
                with self.block(f"if {count} & 129"):
                    self.line(f"{count}, o = {self.share(read_block, 'block')}(b, o - 1)")
                with self.block("else"):
                    self.line(f"{count} >>= 1")
            with self.block(f"for _ in range({count})"):
                yield
            self.line(f"{count} = b[o]")
            self.line("o += 1")

    def numbers(self, kind: str) -> str:
        """An array of floats or doubles: one call a block, and one block is what writers write."""
        unpackers, width = RUNS[kind]
        run, value = self.share(unpackers, "run"), self.fresh("v")
        count = self.byte()
        with self.block(f"if {count} & 129 or not {count}"):
            self.line(f"{value} = []")
        with self.block("else"):
            self.line(f"{count} >>= 1")
            self.line(f"{value} = list({run}[{count}](b, o))")
            self.line(f"o += {count} * {width}")
            self.line(f"{count} = b[o]")
            self.line("o += 1")
        with self.block(f"while {count}"):
            self._long_block(count, width)
            self.line(f"{value} += {run}[{count}](b, o)")
            self.line(f"o += {count} * {width}")
            self.line(f"{count} = b[o]")
            self.line("o += 1")
        return value

    def skip_numbers(self, kind: str) -> None:
        """Past an array of floats or doubles."""
        width = RUNS[kind][1]
        count = self.byte()
        with self.block(f"while {count}"):
            self._long_block(count, width)
            self.line(f"o += {count} * {width}")
            self.line(f"{count} = b[o]")
            self.line("o += 1")

    def _long_block(self, count: str, width: int) -> None:
        self.line(f"{count}, o = {self.share(read_block, 'block')}(b, o - 1)")
        with self.block(f"if {count} * {width} > len(b) - o"):
            self.line(f"{self.share(refuse_number, 'bad')}()")
