"""Whether a version fits into its store's quota. Pure.

What counts is the size of the version's files, each partition once, however many replicas it gets: the size that
`venice version list` shows.
"""

from __future__ import annotations

from venice.errors import Full
from venice.model import UNLIMITED


def check_size(store: str, quota_bytes: int, size_bytes: int, progress: str = "") -> None:
    """That a version of `size_bytes`, or of as many so far, fits.

    Args:
        quota_bytes: Of the store; `UNLIMITED`: everything fits.
        progress: Where the push was when it became too large, such as "after 70 of 100 rows"; empty: it is complete.

    Raises:
        Full: It does not; says both sizes.
    """
    if quota_bytes == UNLIMITED or size_bytes <= quota_bytes:
        return
    raise Full(
        f"the push of store {store!r} has {'reached ' if progress else ''}{size_bytes:,} bytes{f' {progress}' if progress else ''}, "
        f"and the store's quota is {quota_bytes:,}",
        hint=f"push less, compress the values, or raise it: 'venice store update {store} --storage-quota SIZE'",
        store=store,
        size_bytes=size_bytes,
        quota_bytes=quota_bytes,
    )
