"""The settings a controller decides by."""

from __future__ import annotations

from dataclasses import dataclass

from venice.config import Settings
from venice.control.reports import LIVE_S

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Where snapshots lie, and how long the controller waits for whom."""

    region: str
    blobs_url: str
    """Folder below which pushes write their snapshots."""
    push_lease_s: float = 15.0
    """A push that has not sealed and is silent for so long is taken for dead."""
    retire_grace_s: float = 5.0
    """For so long workers keep a retired version open; its snapshot and topic stay for twice as long."""
    worker_lost_s: float = 30.0
    """A worker silent for so long is taken out of the catalog, and its partitions are placed elsewhere, if there is a node for them."""
    leader_lost_s: float = LIVE_S
    """A leader silent for so long is replaced, if another replica can lead."""
    balance_s: float = 60.0
    """Leadership is shared out anew when no leader and no worker has changed for so long."""
    ingest_timeout_s: float = 24 * HOUR_S
    """A sealed version that is not complete by then has failed."""
    rolled_back_s: float = 24 * HOUR_S
    """A version rolled back from is kept for so long, for rolling forward; meanwhile no push may begin above it."""
    topic_margin_s: float = HOUR_S
    """Topics keep what is younger, also where checkpoints hold it: for readers that are a little behind."""
    cleanup_delay_s: float = 0.0
    """A push that would retire versions must wait for so long after the last swap."""

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        """The policy that a process's settings ask for."""
        return cls(
            region=settings.region,
            blobs_url=settings.blobs_url,
            push_lease_s=settings.push_lease_s,
            retire_grace_s=settings.retire_grace_s,
            topic_margin_s=settings.topic_margin_s,
            cleanup_delay_s=settings.cleanup_delay_s,
            worker_lost_s=settings.rebalance_delay_s,
        )
