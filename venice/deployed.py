"""Dataflows of users that a node runs as its own: how each is started, and what is known of it.

Written by the node's supervisor whenever something changes, read by `venice doctor`:

    <data>/flows/<name>/state.json     what became of it
    <data>/flows/<name>/recovery/      Bytewax's state of the flow
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from venice.config import Flow, Settings

STEADY_S = 5.0
"""A process that ran for so long has started well: the pauses before its next starts begin small again."""

State = Literal["runs", "waits", "finished", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowState:
    """What a node last knew of a flow."""

    state: State
    """`waits`: ended with an error and is started again; `finished`: its input ended; `stopped`: with its node."""
    process: int
    """Id of its process, or of its last one."""
    started_ms: int
    """When that was started."""
    starts: int
    """How often it was, since its node runs."""
    exit_code: int | None
    """Of the process before it, or of itself once it has ended; negative: the signal that killed it."""


def process_name(flow: Flow) -> str:
    """How a flow is called in logs, and its own log file without its ending."""
    return f"flow-{flow.name}"


def command(settings: Settings, flow: Flow) -> list[str]:
    """Arguments of `venice` that run the flow in this process."""
    arguments = ["worker", "run", flow.target, "--name", process_name(flow), "--threads", str(flow.workers)]
    if flow.recovery:
        arguments += ["--recovery", str(_folder(settings, flow) / "recovery"), "--snapshot-s", str(flow.snapshot_s)]
    return arguments


def write_state(settings: Settings, flow: Flow, state: FlowState) -> None:
    """Keep the state for whoever asks; a reader sees the old one or the new one."""
    # Only people read it: a full disk must not stop the node that writes it.
    with suppress(OSError):
        folder = _folder(settings, flow)
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / "state.json.new"
        unfinished.write_text(json.dumps(asdict(state)), encoding="utf-8")
        unfinished.rename(folder / "state.json")


def read_state(settings: Settings, flow: Flow) -> FlowState | None:
    """The last state; None if it was never run here. One that runs according to it may have died with its node since."""
    try:
        return FlowState(**json.loads((_folder(settings, flow) / "state.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def lives(process: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _folder(settings: Settings, flow: Flow) -> Path:
    return settings.data / "flows" / flow.name
