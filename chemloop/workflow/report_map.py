"""For the report: the map of all described structures, made once."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from chemloop.report.data import Embedding
from chemloop.report.thinning import N_POINTS, thinned
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import write_whole
from chemloop.stages.describe import FINGERPRINTS
from chemloop.workflow.report_rounds import Round, having

EMBEDDING = "embedding.npz"
N_EMBEDDED = N_POINTS
"""Structures on the map, at most: more are not drawn, and its time grows faster than their number."""
SEED = 0
"""Of the map: the same structures give the same one."""


def embedding(campaign: Campaign, rounds: Sequence[Round]) -> Embedding | None:
    """The map of all described structures, kept in the campaign's folder as long as the fingerprints stay the same."""
    ids, framework, whole = fingerprints(rounds)
    if not ids:
        return None
    n_references = sum(id.startswith("i00") for id in ids)
    chosen = thinned(len(ids), range(n_references), N_EMBEDDED)
    shown = [ids[index] for index in chosen]
    flat_framework, flat_whole = cached_places(campaign.folder / EMBEDDING, framework[chosen], whole[chosen])
    return Embedding(shown, flat_framework, flat_whole, sampled_from=len(ids))


def fingerprints(rounds: Sequence[Round]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Ids, and (n, n_features) of the structures without and with the mobile ion, iteration by iteration."""
    ids: list[str] = []
    framework: list[np.ndarray] = []
    whole: list[np.ndarray] = []
    for each in having(rounds, "describe"):
        with np.load(each.stages["describe"].folder / FINGERPRINTS, allow_pickle=False) as stored:
            ids += [str(id) for id in stored["ids"]]
            framework.append(stored["framework"])
            whole.append(stored["whole"])
    return ids, joined(framework), joined(whole)


def joined(arrays: list[np.ndarray]) -> np.ndarray:
    """One below the other; rows of a stage that has no fingerprint at all, and so no columns, become NaN."""
    n_columns = max((array.shape[1] for array in arrays), default=0)
    wide = [array if array.shape[1] else np.full((len(array), n_columns), np.nan) for array in arrays]
    return np.vstack(wide) if wide else np.zeros((0, 0))


def cached_places(path: Path, framework: np.ndarray, whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2) places of both kinds of fingerprint, from the file where it belongs to these."""
    digest = hashlib.sha256(f"{SEED} {framework.shape}".encode())
    for array in (framework, whole):
        digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
    key = digest.hexdigest()
    if path.exists():
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) == key:
                return stored["framework"], stored["whole"]
    made = places(framework), places(whole)
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, key=np.array(key), framework=made[0], whole=made[1])
    write_whole(path, content.getvalue())
    return made


def places(described: np.ndarray) -> np.ndarray:
    """(n, 2) by t-SNE; NaN where there is no fingerprint."""
    from chemloop.physics.fingerprints import embed

    found = np.full((len(described), 2), np.nan)
    is_known = np.isfinite(described).all(axis=1) & (described.shape[1] > 0)
    if is_known.any():
        found[is_known] = embed(described[is_known], SEED)
    return found
