"""Files that appear whole or not at all, and the markers that say so."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a unique temporary name, sync it and rename it: its final name means finished."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON, whole or not at all."""
    write_whole(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_bytes())


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_intact(marker: Path) -> bool:
    """Whether a DONE marker exists and all outputs that it lists still have the content that it recorded."""
    try:
        outputs = read_json(marker)["outputs"]
        return all(file_hash(marker.parent / name) == digest for name, digest in outputs.items())
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return False
