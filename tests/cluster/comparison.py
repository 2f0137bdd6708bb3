"""Whether two campaigns came to the same results: `python -m tests.cluster.comparison outputs/one outputs/other`."""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chemloop.runtime.ledger import Ledger


def records(campaign: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of the ledger and each line of metrics.jsonl, with what to call it."""
    for row in Ledger(campaign / "structures.db").rows():
        yield f"structure {row['structure_id']}", row
    for number, line in enumerate((campaign / "metrics.jsonl").read_text().splitlines(), start=1):
        yield f"metrics.jsonl, line {number}", json.loads(line)


def differences(expected: Path, found: Path, tolerance: float = 0.0) -> list[str]:
    """What differs, in words.

    tolerance: of floating-point numbers, relative to the larger one where that is above 1, else absolute
    """
    pairs = list(records(expected)), list(records(found))
    names = [[name for name, _ in campaign] for campaign in pairs]
    if names[0] != names[1]:
        return [f"{len(names[0])} and {len(names[1])} records: {sorted(set(names[0]) ^ set(names[1]))[:5]}"]
    return [
        f"{name}, {key}: {record.get(key, 'absent')} and {other.get(key, 'absent')}"
        for (name, record), (_, other) in zip(*pairs, strict=True)
        for key in sorted(record.keys() | other.keys())
        if not is_same(record.get(key), other.get(key), tolerance)
    ]


def is_same(value: Any, other: Any, tolerance: float) -> bool:
    if tolerance and isinstance(value, float) and isinstance(other, float):
        return math.isclose(value, other, rel_tol=tolerance, abs_tol=tolerance)
    return value == other


def main() -> None:
    expected, found = map(Path, sys.argv[1:])
    differing = differences(expected, found)
    for line in differing[:20]:
        print(line)
    n_rows = len(Ledger(expected / "structures.db").rows())
    n_lines = len((expected / "metrics.jsonl").read_text().splitlines())
    print(f"{n_rows} structures, {n_lines} lines of metrics: {len(differing)} values differ")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
