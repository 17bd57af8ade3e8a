"""FORMAT of the log: what a payload in a topic means."""

from __future__ import annotations

Vector = tuple[tuple[int, int, int], ...]
