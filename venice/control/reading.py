"""The catalog of a moment, straight from the log: for commands that look once and need no running controller."""

from __future__ import annotations

from pathlib import Path

from venice.clock import SystemClock
from venice.config import Settings
from venice.control.catalog import Catalog, fold_all
from venice.errors import NotFound
from venice.log import Log
from venice.log.open import open_log
from venice.naming import CATALOG_TOPIC


def open_existing_log(settings: Settings) -> Log:
    """The cluster's log; unlike `open_log`, never made by looking.

    Raises:
        NotFound: There is none yet.
    """
    url = settings.log_url
    if url.startswith("sqlite:") and not Path(url.removeprefix("sqlite:")).is_dir():
        raise NotFound(f"no log at {url.removeprefix('sqlite:')}", hint="check 'data' and 'log' in venice.toml; 'venice up' makes them")
    return open_log(url, SystemClock())


def read_catalog(settings: Settings) -> Catalog:
    """All records the catalog topic has now, folded; empty before a controller ran.

    Raises:
        NotFound: There is no log yet.
    """
    log = open_existing_log(settings)
    try:
        if CATALOG_TOPIC not in log.topics():
            return Catalog()
        end = log.end_offset(CATALOG_TOPIC, 0)
        reader = log.reader({(CATALOG_TOPIC, 0): log.start_offset(CATALOG_TOPIC, 0)})
        catalog = Catalog()
        while reader.position(CATALOG_TOPIC, 0) < end:
            catalog = fold_all(catalog, reader.poll(timeout_s=1.0))
        reader.close()
        return catalog
    finally:
        log.close()
