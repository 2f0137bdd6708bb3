"""One short job before anything is queued: does ChemLoop run on the nodes, and do they share the disk?"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

import chemloop
from chemloop.compute.slurm_script import MAX_RETRIES, RETRY_S, SubmissionFailed, submit
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import ConfigError
from chemloop.runtime.queue import QueuedJob, QueueUnavailable, cancel, my_jobs
from chemloop.runtime.slurm_job import answer_probe

if TYPE_CHECKING:
    from chemloop.compute.slurm import SlurmResource

ANSWER = "answer.json"
QUESTION = "question"
MAX_PROBES = 3
VALID_S = 86400
POLL_S = 0.5
STRUCK = re.compile(r"CANCELLED AT|^srun: error: .*: Killed$", re.MULTILINE)
"""What SLURM prints where a job is cancelled, or something kills its process."""
GRACE_S = 10
"""How long a shared file system may take to show what a job has written."""


def probe(folder: Path, key: str, resource: SlurmResource, python: str | None) -> None:
    """Send a job of this class of work, unless one came back well since yesterday.

    folder: the jobs of a stage; the answers are kept beside the campaign's stages
    Raises: ConfigError
    """
    specification = json.dumps([asdict(resource), python, chemloop.__version__], sort_keys=True)
    digest = hashlib.sha256(specification.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    answer = probes_folder(folder) / f"{key}-{digest}.json"
    if answer.exists() and 0 <= time.time() - answer.stat().st_mtime < VALID_S:
        return
    for attempt in range(MAX_PROBES):
        place = answer.with_suffix("") / uuid.uuid4().hex[:8]
        place.mkdir(parents=True)
        job = send(place, key, resource, python)
        if (place / ANSWER).exists():
            write_json(answer, read_json(place / ANSWER))
            return
        # a job that somebody cancelled or killed, or whose node was lost, says nothing about either
        if is_verdict(place, job) or attempt == MAX_PROBES - 1:
            raise ConfigError(why_not(place, key, job))


def send(place: Path, key: str, resource: SlurmResource, python: str | None) -> QueuedJob | None:
    """Queue a probe that answers into `place`, and wait for it; returns how it ended.

    Raises: ConfigError where sbatch refuses it
    """
    (place / QUESTION).touch()
    name = f"chemloop.probe.{place.parent.name}.{place.name}"
    call = functools.partial(answer_probe, str(place / ANSWER), QUESTION)
    for attempt in range(MAX_RETRIES):
        try:
            submit(place, name, [call], resource, 1, python)
            break
        except SubmissionFailed as error:
            if not error.is_passing or attempt == MAX_RETRIES - 1:
                raise ConfigError(f"sbatch refused a job of compute.{key}: {error}") from error
            time.sleep(RETRY_S)
    try:
        return wait(name, place / ANSWER, resource.partition)
    except BaseException:
        cancel(job for job in my_jobs() if job.name == name)
        raise


def is_verdict(place: Path, job: QueuedJob | None) -> bool:
    """Whether a job without an answer came to its own end, as opposed to being ended."""
    printed = "".join(path.read_text(errors="replace") for path in place.glob("*_log.out"))
    return job is not None and job.state in ("COMPLETED", "FAILED") and STRUCK.search(printed) is None


def probes_folder(folder: Path) -> Path:
    """`.probes/` in the campaign, which is the first folder above that was begun as one, or beside the jobs."""
    for parent in folder.parents:
        if (parent / "campaign.yaml").exists() or (parent / "sweep.yaml").exists():
            return parent / ".probes"
    return folder.parent / ".probes"


def wait(name: str, found: Path, partition: str) -> QueuedJob | None:
    """Until the job of this name has answered or ended; returns how it ended."""
    job, is_announced, n_missed, n_ended = None, False, 0, 0
    while not found.exists():
        time.sleep(POLL_S)
        try:
            jobs = [job for job in my_jobs() if job.name == name]
        except QueueUnavailable:
            continue
        job = jobs[0] if jobs else job
        n_missed = 0 if jobs else n_missed + 1
        n_ended = n_ended + 1 if job is not None and not job.is_alive else 0
        if max(n_missed, n_ended) * POLL_S > GRACE_S:
            break
        if jobs and job is not None and job.state == "PENDING" and job.reason != "None" and not is_announced:
            tqdm.write(f"a first short job waits in partition {partition} ({job.reason})")
            is_announced = True
    return job


def why_not(place: Path, key: str, job: QueuedJob | None) -> str:
    """What to do about a probe that did not answer."""
    logs = list(place.glob("*_log.out"))
    where = f"the probe job of compute.{key}" + (f" on node {job.node}" if job is not None and job.node else "")
    if not logs:
        return (
            f"{where} left nothing in {place}: campaigns on a cluster need a folder that all its nodes share; choose"
            " one with outputs=FOLDER"
        )
    printed = logs[0].read_text(errors="replace").splitlines()
    # SLURM's own last words only repeat that it failed
    lines = [line for line in printed if line.strip() and not line.startswith(("srun:", "slurmstepd"))]
    return (
        f"{where} could not start ChemLoop: {lines[-1] if lines else 'it printed nothing'} (log: {logs[0]}). Jobs need"
        f" the driver's environment: set it up with compute.{key}.modules or compute.{key}.setup"
    )
