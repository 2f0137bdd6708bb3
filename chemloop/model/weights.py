"""Named pretrained weights: where they lie, how they come there, and what to do where they cannot be had."""

from __future__ import annotations

import os
import socket
import tempfile
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from chemloop.runtime.disk import file_hash
from chemloop.runtime.errors import CheckpointError, WeightsUnavailable


def weights_folder() -> Path:
    """Where named weights are kept: $CHEMLOOP_WEIGHTS, or a folder of the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CHEMLOOP_WEIGHTS") or Path(cache) / "chemloop" / "weights")


def fetch_weights(
    name: str,
    file_name: str,
    hosts: Sequence[str],
    download: Callable[[Path], None],
    sha256: str | None = None,
    setting: str = "model.checkpoint to its path",
) -> Path:
    """The file of named weights in `weights_folder()`, downloaded by the backend's own means when it is not there.

    hosts: of which `download` asks one after the other; all are tried first, at the same time, so that a machine
        without a network does not wait for time limits
    download: writes the weights to the path that it is given
    sha256: of the published file
    setting: what else may be set instead of fetching, in words
    Raises: WeightsUnavailable, naming the path at which a file brought by hand is found; CheckpointError when the
        file is not the published one
    """
    path = weights_folder() / file_name
    if not path.exists():
        by_hand = f"put the file at {path}, or set {setting}"
        if not is_any_reachable(hosts):
            raise WeightsUnavailable(
                f"the weights of {name} are not here and {' or '.join(hosts)} cannot be reached: {by_hand}"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise WeightsUnavailable(
                f"the weights of {name} cannot be kept in {path.parent} ({error.strerror}): set CHEMLOOP_WEIGHTS to a"
                f" folder that can be written, or {setting}"
            ) from error
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
        try:
            download(partial)
            partial.replace(path)
        except Exception as error:
            partial.unlink(missing_ok=True)
            raise WeightsUnavailable(f"the weights of {name} could not be downloaded ({error}): {by_hand}") from error
    if sha256 is not None and (found := file_hash(path)) != sha256:
        raise CheckpointError(
            f"{path} has the SHA-256 {found}, those of {name} have {sha256}: delete the file to fetch it again"
        )
    return path


def is_any_reachable(hosts: Sequence[str]) -> bool:
    """Whether one of the hosts can be reached; it takes no longer than the slowest of them."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        return any([*pool.map(is_reachable, hosts)])


def is_reachable(host: str, port: int = 443, timeout_s: float = 5) -> bool:
    """Whether a connection to the host, or to the proxy that the environment names, can be opened.

    Nothing is reached through a proxy whose address is none.
    """
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    proxy = getproxies().get("https")
    try:
        if proxy is not None:
            parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
            host, port = parts.hostname or host, parts.port or port
        socket.create_connection((host, port), timeout_s).close()
    except (OSError, ValueError):
        return False
    return True
