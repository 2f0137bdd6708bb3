"""Submission: the script of a job by submitit, with nothing of this process' own job in it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chemloop.runtime.inherited import thread_variables, variables

if TYPE_CHECKING:
    from chemloop.compute.slurm import SlurmResource

PASSING = re.compile(r"unable to contact|timed out|connection|try again|temporarily|backup controller", re.IGNORECASE)
RETRY_S = 15
MAX_RETRIES = 40
"""How often SLURM is asked again while it does not answer."""


class SubmissionFailed(Exception):
    """sbatch refused. is_passing: whether it may accept the same later."""

    def __init__(self, message: str):
        super().__init__(message)
        self.is_passing = PASSING.search(message) is not None


def submit(
    folder: Path, name: str, calls: Sequence[Callable[[], None]], resource: SlurmResource, n_at_once: int,
    python: str | None,
) -> str:  # fmt: skip
    """Queue calls, an array of jobs where there are several; returns the id.

    Raises: SubmissionFailed
    """
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError
    from submitit.helpers import clean_env

    executor = submitit.SlurmExecutor(folder, python=None if python is None else shlex.quote(python))
    executor.update_parameters(**parameters(name, resource), array_parallelism=n_at_once)
    inherited = {key: os.environ[key] for key in ("SLURM_CONF",) if key in os.environ}
    try:
        # sbatch started inside a job would inherit what that job had asked for
        with clean_env(), variables(inherited | thread_variables(1)), executor.batch():
            jobs = [executor.submit(call) for call in calls]
    except (FailedJobError, FailedSubmissionError) as error:
        raise SubmissionFailed(str(error).strip()) from error
    return jobs[0].job_id.partition("_")[0]


def parameters(name: str, resource: SlurmResource) -> dict[str, object]:
    """As submitit's SLURM executor takes them."""
    settings = [f"export {key}={shlex.quote(value)}" for key, value in thread_variables(1).items()]
    return {
        "job_name": name,
        "partition": resource.partition,
        "time": resource.time_min,
        "mem": f"{max(1, round(resource.mem_gb * 1024))}MB",
        "cpus_per_task": resource.cpus,
        "gpus_per_node": resource.gpus or None,
        "account": resource.account,
        "qos": resource.qos,
        "constraint": resource.constraint,
        "additional_parameters": dict(resource.arguments),
        # SLURM sends it up to a minute early
        "signal_delay_s": min(90, resource.time_min * 15),
        # a job without one of its modules would compute with something else, or fail where nobody looks
        "setup": [
            *(f"module load {shlex.quote(module)} || exit 1" for module in resource.modules),
            *resource.setup,
            *settings,
        ],
        "stderr_to_stdout": True,
        # an MPI that starts with the worker would be found by codes that start their own
        "srun_args": ["--mpi=none"],
        "wckey": None,
    }
