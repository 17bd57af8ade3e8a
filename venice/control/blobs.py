"""The blob folder as the controller sees it: `<store>/<store>_v<N>/<attempt>`. The one place of control that knows so."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from venice.errors import Corrupt, InvalidRequest
from venice.naming import parse_version_topic, snapshot_folder, version_topic
from venice.storage.manifest import MANIFEST_NAME, Manifest


class Blobs:
    """The folder that holds sealed snapshots, of pushes and of checkpoints."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def attempt(self, store: str, version: int, attempt: str) -> str:
        """Where one attempt of a push writes."""
        return str(self._root / snapshot_folder(store, version, attempt))

    def check_attempt(self, uri: str, store: str, version: int) -> None:
        """Raises InvalidRequest unless `uri` is an attempt's folder of this version."""
        parent = self._root / store / version_topic(store, version)
        if Path(uri).parent != parent:
            raise InvalidRequest(f"snapshot {uri!r} does not lie in {parent}", hint="seal the folder that the push was given")

    def check_files(self, uri: str, manifest: Manifest) -> None:
        """Raises Corrupt unless every file of the manifest is there, as long as it says. Their bytes are checked by the workers."""
        for file in manifest.files:
            try:
                size = (Path(uri) / file.name).stat().st_size
            except OSError as error:
                raise Corrupt(f"snapshot {uri}: {file.name} cannot be read: {error.strerror}", hint="push again") from error
            if size != file.size:
                raise Corrupt(f"snapshot {uri}: {file.name} has {size} bytes, not {file.size}", hint="push again")

    def attempts(self, stores: Iterator[str]) -> Iterator[tuple[str, int, str]]:
        """(store, version, uri) of every folder that is there, of an attempt or a checkpoint."""
        for store in stores:
            for version_folder in _folders(self._root / store):
                parsed = parse_version_topic(version_folder.name)
                if parsed is not None and parsed[0] == store:
                    for attempt in _folders(version_folder):
                        yield store, parsed[1], str(attempt)

    def delete(self, uri: str, *, store_is_gone: bool) -> None:
        """Delete an attempt's folder, and its version's if that becomes empty. Raises OSError.

        The store's own folder goes only with its store: a push that begins could be making its folders in it.
        """
        folder = Path(uri)
        # Without its manifest it is no snapshot any more, so whatever is left after a crash is taken for one by nobody.
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
        shutil.rmtree(folder)
        for parent in (folder.parent, folder.parent.parent)[: 1 + store_is_gone]:
            if any(parent.iterdir()):
                return
            parent.rmdir()


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
