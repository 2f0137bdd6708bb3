"""compute=slurm where no queue is needed: what is refused, how items are shared out, what counts as lost."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from chemloop.compute import slurm, slurm_pool, slurm_probe
from chemloop.compute.slurm import SlurmCompute, SlurmResource
from chemloop.compute.slurm_pool import SlurmPool
from chemloop.compute.slurm_script import SubmissionFailed, parameters
from chemloop.config import load
from chemloop.runtime import queue
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.errors import CampaignError, ConfigError
from chemloop.runtime.item import Item
from chemloop.runtime.queue import Partition, QueuedJob, QueueUnavailable, parse_job, parse_minutes, parse_tasks

TIMES = [f"compute.{key}.time_min=30" for key in ("cpu", "gpu", "dft")]


def test_configuration_is_complete_once_the_time_limits_are_given(compose_config):
    settings = load(compose_config("compute=slurm", *TIMES, "compute.gpu.account=chem"))
    assert settings.compute.gpu.device == "cuda"
    assert settings.compute.dft.account == "chem"


def test_file_of_a_site_says_only_what_differs(compose_config):
    compute = load(compose_config("compute=devcluster")).compute
    assert (compute.gpu.device, compute.gpu.gpus, compute.dft.partition) == ("cpu", 1, "cpu")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["compute.cpu.time_min=30"], r"compute\.\w+\.time_min has no value; set it with compute\.\w+\.time_min="),
        ([*TIMES, "compute.cpu.time_min=0"], "compute time_min = 0: must be 5 or above"),
        ([*TIMES, "compute.cpu.mem_gb=0"], "mem_gb = 0: must be above 0"),
        ([*TIMES, "compute.gpu.gpus=0"], "device = cuda with gpus = 0: ask for a GPU, or compute on the cpu"),
        ([*TIMES, "compute.gpu.max_jobs=0"], "max_jobs = 0: must be 1 or above"),
        ([*TIMES, r'compute.cpu.account="a\nrm -rf ~"'], "account = 'a.*must be printable characters on one line"),
        ([*TIMES, "compute.cpu.partition=''"], "partition = '': must be printable"),
        ([*TIMES, "+compute.cpu.arguments.output=x"], "arguments has 'output'"),
        ([*TIMES, "compute.queue_s=100"], "queue_s = 100: must be above 0 and at most 30"),
    ],
)
def test_bad_configuration_is_one_sentence(compose_config, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(compose_config("compute=slurm", *[text.replace(r"\n", "\n") for text in overrides]))


def test_name_of_an_option_cannot_carry_shell():
    with pytest.raises(ConfigError, match="arguments has 'a; rm x': must be an option of sbatch"):
        SlurmResource("cpu", 30, arguments={"a; rm x": "1"})


@pytest.fixture
def cluster(monkeypatch):
    """Partitions gpu and cpu, an hour each; sbatch is there, and takes everything."""

    class Cluster:
        submitted: list[tuple[str, list]] = []
        jobs: list[QueuedJob] | None = []
        refusals: list[str] = []
        cancelled: list[str] = []

        def submit(self, folder, name, calls, resource, n_at_once, python):
            if self.refusals:
                raise SubmissionFailed(self.refusals.pop(0))
            self.submitted.append((name, calls))
            return str(len(self.submitted))

        def my_jobs(self):
            if self.jobs is None:
                raise QueueUnavailable("squeue: slurmctld is away")
            return self.jobs

        def cancel(self, jobs):
            self.cancelled += [job.name for job in jobs]

    fake = Cluster()
    monkeypatch.setattr(slurm.shutil, "which", lambda name: f"/usr/bin/{name}")
    known = [Partition("gpu", 60.0, True), Partition("cpu", 60.0, True), Partition("old", None, False)]
    monkeypatch.setattr(slurm, "partitions", lambda: known)
    for module in (slurm_pool, slurm_probe):
        monkeypatch.setattr(module, "submit", fake.submit)
        monkeypatch.setattr(module, "my_jobs", fake.my_jobs)
        monkeypatch.setattr(module, "cancel", fake.cancel)
    monkeypatch.setattr(slurm_pool, "largest_array", lambda: 1001)
    monkeypatch.setattr(slurm_pool, "RETRY_S", 0)
    monkeypatch.setattr(slurm_probe, "GRACE_S", 0)
    monkeypatch.setattr(slurm_probe, "POLL_S", 0.01)
    return fake


def compute(**changes) -> SlurmCompute:
    resource = SlurmResource("cpu", 30, **changes)
    return SlurmCompute(cpu=resource, gpu=resource, dft=resource)


def test_machine_without_slurm(monkeypatch, tmp_path):
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="there is no sbatch on this machine; start this on a login node"):
        compute().check(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"partition": "gqu"}, "compute.gpu.partition = gqu: there is no such partition; there are gpu, cpu"),
        ({"partition": "old"}, "compute.gpu.partition = old: this partition is down"),
        ({"time_min": 61}, "compute.gpu.time_min = 61: partition cpu allows 60 minutes"),
    ],
)
def test_what_the_partitions_do_not_give_is_refused(cluster, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        SlurmCompute(
            cpu=SlurmResource("cpu", 30), dft=SlurmResource("gpu", 60),
            gpu=SlurmResource(**{"partition": "cpu", "time_min": 30, **changes}),
        ).check(tmp_path)  # fmt: skip


def test_folder_that_slurm_cannot_write_logs_to_is_refused(cluster, tmp_path):
    with pytest.raises(ConfigError, match="has %.*choose another with outputs=FOLDER"):
        compute().check(tmp_path / "50% done")


def test_values_reach_the_script_as_they_are():
    given = parameters("name", SlurmResource("cpu", 30, mem_gb=1.5, account="it's", modules=["a b; rm x"]))
    assert given["mem"] == "1536MB" and given["account"] == "it's"
    assert given["setup"][0] == "module load 'a b; rm x' || exit 1"


def test_environment_without_chemloop_is_found_by_the_probe(cluster, tmp_path, monkeypatch):
    def submit(folder, name, calls, *_):
        (folder / "7_0_log.out").write_text("Traceback\nModuleNotFoundError: No module named 'chemloop'\n")

    monkeypatch.setattr(slurm_probe, "submit", submit)
    cluster.jobs = [QueuedJob("7", None, "FAILED", "0:00", "node3", "NonZeroExitCode", "other")]
    with pytest.raises(ConfigError, match="compute.gpu could not start ChemLoop: .*No module named 'chemloop'.*setup"):
        slurm_probe.probe(tmp_path / "jobs", "gpu", SlurmResource("gpu", 30), None)


@pytest.mark.parametrize(
    ("state", "printed"),
    [
        ("CANCELLED", ""),
        ("FAILED", "slurmstepd: error: *** JOB 7 ON node3 CANCELLED AT 2026-01-01T12:00:00 ***\n"),
        ("FAILED", "Loading pickle\nsrun: error: node3: task 0: Killed\nsrun: Force Terminated StepId=7.0\n"),
    ],
)
def test_probe_that_somebody_cancelled_or_killed_is_sent_again(cluster, tmp_path, monkeypatch, state, printed):
    def submit(folder, name, calls, *_):
        cluster.submitted.append((name, calls))
        cluster.jobs = [QueuedJob("7", None, state, "0:00", "node3", "None", name)]
        (folder / "7_0_log.out").write_text(printed)
        if len(cluster.submitted) == 2:
            calls[0]()

    monkeypatch.setattr(slurm_probe, "submit", submit)
    slurm_probe.probe(tmp_path / "jobs", "gpu", SlurmResource("gpu", 30), None)
    assert len(cluster.submitted) == 2


def test_folder_that_is_not_shared_is_found_by_the_probe(cluster, tmp_path):
    with pytest.raises(ConfigError, match="left nothing in .*a folder that all its nodes share.*outputs=FOLDER"):
        slurm_probe.probe(tmp_path / "jobs", "gpu", SlurmResource("gpu", 30), None)


def test_controller_that_restarts_as_a_stage_begins_is_waited_for(cluster, tmp_path, monkeypatch):
    answers = [QueueUnavailable("sinfo: Unable to contact slurm controller"), slurm.partitions()]

    def partitions():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def submit(place, *arguments):
        cluster.submit(place, *arguments)
        (place / "answer.json").write_text("{}")

    monkeypatch.setattr(slurm, "partitions", partitions)
    monkeypatch.setattr(slurm_probe, "RETRY_S", 0)
    monkeypatch.setattr(slurm_probe, "submit", submit)
    cluster.refusals = ["sbatch: error: Unable to contact slurm controller (connect failure)"]
    with compute().pool(tmp_path / "jobs", "gpu", "", None):
        assert len(cluster.submitted) == 1 and not cluster.refusals and not answers


def test_a_good_answer_is_asked_for_once(cluster, tmp_path, monkeypatch):
    def submit(folder, name, calls, *_):
        cluster.submitted.append((name, calls))
        calls[0]()

    monkeypatch.setattr(slurm_probe, "submit", submit)
    for resource in (SlurmResource("gpu", 30), SlurmResource("gpu", 30), SlurmResource("gpu", 31)):
        slurm_probe.probe(tmp_path / "jobs", "gpu", resource, None)
    assert len(cluster.submitted) == 2


def planned(tmp_path: Path, n_items: int) -> list[Item]:
    items = [Item(tmp_path / "items" / f"{number:04d}") for number in range(n_items)]
    for item in items:
        item.folder.mkdir(parents=True)
    return items


def a_pool(tmp_path: Path, **changes) -> SlurmPool:
    return SlurmPool(tmp_path / "jobs", "cpu", SlurmResource("cpu", 30, **changes), 1e-9, "relax     2", None)


@pytest.mark.parametrize(
    ("n_items", "changes", "sizes"),
    [
        (10, {"max_jobs": 4}, [3, 3, 3, 1]),
        (3, {"max_jobs": 8}, [1, 1, 1]),
        (5, {"items_per_job": 2}, [2, 2, 1]),
        (2002, {"items_per_job": 1}, [2] * 1001),
    ],
)
def test_items_are_shared_out(cluster, tmp_path, n_items, changes, sizes):
    a_pool(tmp_path, **changes).start(planned(tmp_path, n_items))
    ((name, calls),) = cluster.submitted
    assert [len(call.folders) for call in calls] == sizes
    assert name.startswith("chemloop.relax-2.")


def job(name: str, tasks: tuple[int, ...] | None, state: str, reason: str = "None") -> QueuedJob:
    return QueuedJob("12", tasks, state, "10:00", "cpu1", reason, name)


def test_only_items_of_ended_jobs_are_handed_back(cluster, tmp_path):
    items = planned(tmp_path, 4)
    pool = a_pool(tmp_path, max_jobs=2)
    assert [back.items for back in pool.handed_back(items)] == [items]
    pool.start(items)
    ((name, _),) = cluster.submitted
    cluster.jobs = [job(name, (0,), "FAILED"), job(name, (1,), "RUNNING"), job("another", (1,), "FAILED")]
    (back,) = pool.handed_back(items)
    assert back.items == items[:2]
    assert "job 12_0 of relax     2 ended as FAILED on cpu1 (log: none)" in back.reason


def test_an_answer_is_needed_before_anything_counts_as_lost(cluster, tmp_path):
    items = planned(tmp_path, 2)
    pool = a_pool(tmp_path)
    pool.start(items)
    cluster.jobs = None
    assert pool.handed_back(items) == []
    assert "does not answer" in pool.note


def test_vanished_jobs_are_missed_twice_before_they_count_as_lost(cluster, tmp_path):
    items = planned(tmp_path, 2)
    pool = a_pool(tmp_path, max_jobs=1)
    pool.start(items)
    assert pool.handed_back(items) == []
    (back,) = pool.handed_back(items)
    assert back.items == items and "vanished from the queue" in back.reason


def test_job_that_slurm_holds_for_ever_counts_as_lost(cluster, tmp_path):
    items = planned(tmp_path, 1)
    pool = a_pool(tmp_path)
    pool.start(items)
    cluster.jobs = [job(cluster.submitted[0][0], None, "PENDING", "launch failed requeued held")]
    assert [back.items for back in pool.handed_back(items)] == [items]


def test_a_later_driver_finds_the_jobs_of_an_earlier_one(cluster, tmp_path):
    items = planned(tmp_path, 2)
    a_pool(tmp_path).start(items)
    cluster.jobs = [job(cluster.submitted[0][0], (0, 1), "PENDING")]
    later = a_pool(tmp_path)
    assert later.handed_back(items) == []
    assert later.note == "2 pending"


def test_submission_is_tried_again_while_the_controller_is_away(cluster, tmp_path):
    cluster.refusals = ["sbatch: error: Batch job submission failed: Unable to contact slurm controller"]
    pool = a_pool(tmp_path)
    pool.start(planned(tmp_path, 2))
    assert len(cluster.submitted) == 1 and len(pool.rounds) == 1


def test_refusal_names_the_class_of_work(cluster, tmp_path):
    cluster.refusals = ["sbatch: error: Invalid account"]
    with pytest.raises(ConfigError, match="sbatch refused the jobs of compute.cpu: .*Invalid account"):
        a_pool(tmp_path).start(planned(tmp_path, 2))


def test_driver_stops_after_workflow_cancel(cluster, tmp_path):
    pool = a_pool(tmp_path)
    (tmp_path / "jobs" / "CANCELLED").touch()
    with pytest.raises(CampaignError, match="cancelled by workflow=cancel"):
        pool.handed_back([])


def test_squeue_is_understood():
    assert parse_tasks("7") == (7,)
    assert parse_tasks("[2-3,8%2]") == (2, 3, 8)
    assert parse_tasks("[0-8:4]") == (0, 4, 8)
    line = parse_job("12_[1-2%4]|PENDING|30:00||Resources|a|b")
    assert (line.id, line.tasks, line.name, line.is_alive) == ("12", (1, 2), "a|b", True)
    assert not parse_job("12|CANCELLED|30:00||None|a").is_alive
    assert [parse_minutes(text) for text in ("30:00", "1-12:00:00", "infinite")] == [30, 2160, None]


def test_command_that_hangs_or_fails_is_no_answer(monkeypatch):
    monkeypatch.setattr(queue, "PATIENCE_S", 0.1)
    for command in (["sleep", "5"], ["false"], ["there-is-no-such-command"]):
        with pytest.raises(QueueUnavailable):
            queue.ask(command)


BUSY_SCONTROL = """#!/bin/sh
echo "$*" >> {calls}
if [ $(wc -l < {calls}) -le {n_refused} ]; then
    echo "slurm_load_ctl_conf error: Unable to contact slurm controller (connect failure)" >&2
    exit 1
fi
echo "MaxArraySize            = 51"
"""


@pytest.mark.parametrize("n_refused", [0, 2, 3])
def test_controller_that_restarts_is_waited_for(tmp_path, monkeypatch, n_refused):
    calls, program, waits, notices = tmp_path / "calls", tmp_path / "scontrol", [], []
    program.write_text(BUSY_SCONTROL.format(calls=calls, n_refused=n_refused))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(slurm_pool, "time", SimpleNamespace(sleep=waits.append))
    monkeypatch.setattr(slurm_pool, "MAX_RETRIES", 3)
    monkeypatch.setattr(slurm_pool.tqdm, "write", notices.append)
    if n_refused < 3:
        assert slurm_pool.longest_array() == 51
    else:
        with pytest.raises(ConfigError, match="does not say how long an array.*Unable to contact slurm controller"):
            slurm_pool.longest_array()
    assert waits == [slurm_pool.RETRY_S] * n_refused and len(notices) == (n_refused > 0)
    assert calls.read_text().splitlines() == ["show config"] * min(n_refused + 1, 3)


def test_workflows_need_a_campaign(compose_config, tmp_path):
    for workflow in ("status", "cancel"):
        config = compose_config(f"workflow={workflow}")
        settings = load(config)
        with pytest.raises(CampaignError, match="there is no campaign"):
            settings.workflow.run(Campaign(tmp_path / "none"), settings, config)


def test_lock_of_a_driver_whose_job_ended_on_another_node_is_taken_over(tmp_path, monkeypatch):
    campaign = Campaign(tmp_path)
    alive = QueuedJob("12", None, "RUNNING", "1:00", "node1", "None", "chemloop-driver")
    monkeypatch.setattr(queue, "my_jobs", lambda: [alive])
    (tmp_path / "campaign.lock").write_text("node1 4711 12\n")
    with pytest.raises(CampaignError, match="driven by process 4711 on node1"), campaign.drive():
        pass
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with campaign.drive():
        assert (tmp_path / "campaign.lock").read_text().split()[2] == "12"
    (tmp_path / "campaign.lock").write_text("node1 4711 13\n")
    with campaign.drive():
        pass
    (tmp_path / "campaign.lock").write_text("node1 4711\n")
    with pytest.raises(CampaignError), campaign.drive():
        pass
