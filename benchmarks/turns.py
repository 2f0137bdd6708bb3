"""Contenders that wait, loaded and warm, in processes of their own, and take turns with the same structures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms


class Contender(NamedTuple):
    """`make(*settings)` is, in each of the processes, the function that computes the outcomes of a list of structures.

    It has what it needs loaded and warm, and may be called again.
    """

    make: Callable[..., Callable[[Sequence[Atoms]], list[Any]]]
    settings: tuple[Any, ...]
    n_processes: int = 1
    n_threads: int = 1


class Seconds(NamedTuple):
    """wall: of the computations; cpu: of all processes together, which other work on the machine does not lengthen."""

    wall: float
    cpu: float


class Worker(NamedTuple):
    process: Any
    connection: Connection


def take_turns(
    contenders: Mapping[str, Contender], structures: Sequence[Atoms], n_rounds: int, per_item: int
) -> tuple[dict[str, list[Any]], dict[str, Seconds]]:
    """Outcomes in the order of the structures, and the times of each contender, without imports and loading.

    per_item: structures that a process takes at a time, where a contender has more than one
    """
    groups = {name: [_start(contender) for _ in range(contender.n_processes)] for name, contender in contenders.items()}
    for workers in groups.values():
        for worker in workers:
            worker.connection.recv()
    seconds = dict.fromkeys(groups, Seconds(0.0, 0.0))
    outcomes: dict[str, list[Any]] = {name: [] for name in groups}
    for part in np.array_split(np.arange(len(structures)), min(n_rounds, len(structures))):
        chosen = [structures[index] for index in part]
        for name, workers in groups.items():
            found, elapsed = _compute(workers, chosen, per_item if len(workers) > 1 else len(chosen))
            outcomes[name] += found
            seconds[name] = Seconds(*map(sum, zip(seconds[name], elapsed, strict=True)))
    for workers in groups.values():
        for worker in workers:
            worker.connection.send(None)
            worker.process.join()
    return outcomes, seconds


def _start(contender: Contender) -> Worker:
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, contender), daemon=True)
    process.start()
    there.close()
    return Worker(process, here)


def _serve(connection: Connection, contender: Contender) -> None:
    """Compute what comes until None comes, and answer with outcomes and CPU seconds."""
    import torch

    torch.set_num_threads(contender.n_threads)
    compute = contender.make(*contender.settings)
    connection.send("ready")
    while (structures := connection.recv()) is not None:
        begin = time.process_time()
        connection.send((compute(structures), time.process_time() - begin))


def _compute(workers: Sequence[Worker], structures: Sequence[Atoms], per_item: int) -> tuple[list[Any], Seconds]:
    """Outcomes and times; items go to whichever worker is free, as in a campaign."""
    items = [list(range(len(structures)))[first : first + per_item] for first in range(0, len(structures), per_item)]
    outcomes: dict[int, Any] = {}
    holds: dict[Connection, list[int]] = {}
    begin, cpu = time.perf_counter(), 0.0
    for worker in workers:
        if items:
            holds[worker.connection] = items.pop(0)
            worker.connection.send([structures[index] for index in holds[worker.connection]])
    while holds:
        for connection in wait(list(holds)):
            assert isinstance(connection, Connection)
            found, seconds = connection.recv()
            outcomes |= dict(zip(holds.pop(connection), found, strict=True))
            cpu += seconds
            if items:
                holds[connection] = items.pop(0)
                connection.send([structures[index] for index in holds[connection]])
    return [outcomes[index] for index in range(len(structures))], Seconds(time.perf_counter() - begin, cpu)
