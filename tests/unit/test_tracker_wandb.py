"""What Weights & Biases gets, read back from the file that an offline run leaves."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from chemloop.runtime.errors import ConfigError
from chemloop.tracker import Point, Table
from chemloop.tracker.rows import dashboard_rows
from chemloop.tracker.wandb import WandbTracker

ROOT = Path(__file__).parents[2]
CONFIG = {
    "options": {"system": "li-p-s", "model": "chgnet", "workflow": "explore"},
    "system": {"name": None, "elements": ["Li", "P", "S"]},
    "seed": 0,
}
TABLES = [
    Table("best_structures", ("id", "e_above_hull_ev_per_atom"), [("i01-g000-0001", -0.03), ("i01-g000-0002", 0.01)]),
    Table("motif_catalogue", ("motif", "charge"), [("PS4^3-", -3), ("P2 chain", None)]),
]
BLOCK = 32768
"""Bytes; a record of a .wandb file never begins in the last six of a block."""


@dataclass
class Offline:
    """An offline run, as `wandb sync` would send it."""

    history: list[dict] = field(default_factory=list)
    summary: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    artifacts: list = field(default_factory=list)
    config: dict = field(default_factory=dict)
    group: str = ""
    job_type: str = ""
    has_ended: bool = False


def records(path: Path):
    """The records of a .wandb file: after seven bytes, parts of a checksum, a length, a kind (1 whole, 4 last)."""
    data, at, whole = path.read_bytes(), 7, b""
    while at < len(data):
        left = BLOCK - at % BLOCK
        if left < 7:
            at += left
            continue
        if at + 7 > len(data):
            return
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        if at + 7 + size > len(data):
            return  # W&B is writing it
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def values(items) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def the_run(campaign: Path) -> Offline:
    """The only run of a campaign's folder; W&B's own process still writes for a moment when `finish` has returned."""
    (folder,) = (campaign / "wandb").glob("offline-run-*")
    (path,) = folder.glob("*.wandb")
    limit = time.monotonic() + 120
    while not (run := read(path)).has_ended and time.monotonic() < limit:
        time.sleep(0.05)
    return run


def read(path: Path) -> Offline:
    run = Offline()
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            run.history.append(values(record.history.item))
        elif kind == "summary":
            run.summary |= values(record.summary.update)
        elif kind == "metric":
            metric = record.metric
            assert (metric.glob_name or metric.name) not in run.metrics
            run.metrics[metric.glob_name or metric.name] = metric.step_metric
        elif kind == "artifact":
            run.artifacts.append(record.artifact)
        elif kind == "run":
            run.config |= values(record.run.config.update)
            run.group, run.job_type = record.run.run_group, record.run.job_type
        elif kind == "exit":
            run.has_ended = True
    return run


def shown(run: Offline) -> list[dict]:
    """The history without what W&B adds to it."""
    assert [row["_step"] for row in run.history] == list(range(len(run.history)))
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in run.history]


def history(n_iterations: int = 3) -> list[Point]:
    points = []
    for i in range(n_iterations):
        if i:
            points.append(Point(i, {"generate/n_generated": 8}))
            screen = {"screen/n_screened": 8, "screen/n_stable": 4, "screen/n_unique": 8, "screen/n_novel": 6}
            points.append(Point(i, screen | {"screen/n_sun": 2 + i, "screen/sun_fraction": (2 + i) / 8}))
        curate = {"curate/entropy_nats": 3.5 + i, "curate/entropy_error_nats": 0.25, "curate/n_train": 100 * (i + 1)}
        growth = {"curate/entropy_growth_nats_per_frame": 0.01 / (i + 1)}
        coverage = (
            {f"curate/environment_coverage{bound}": 0.5 + 0.1 * i for bound in ("", "_low", "_high")} if i else {}
        )
        points.append(Point(i, curate | growth | coverage))
        points += [Point(i, {"curves/epoch": k, "curves/train_loss": 1 / (k + i + 1)}) for k in range(2)]
        rmse = {f"finetune/test_force_rmse_{when}_mev_per_ang": 90.0 - 10 * i for when in ("before", "after", "base")}
        points.append(Point(i, rmse | {"finetune/n_train": 100 * (i + 1)}))
    return points


def checkpoints(campaign: Path, n_iterations: int = 3) -> dict[int, Path]:
    files = {}
    for i in range(n_iterations):
        files[i] = campaign / f"iter-{i:03d}" / "finetuned.pt"
        files[i].parent.mkdir(parents=True, exist_ok=True)
        files[i].write_bytes(f"weights {i}".encode())
    return files


@pytest.fixture
def campaign(tmp_path, monkeypatch) -> Path:
    for key in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DATA_DIR"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "camp aign"
    folder.mkdir()
    return folder


def drive(tracker: WandbTracker, campaign: Path, n_iterations: int = 3, tables=TABLES, config=CONFIG) -> bool:
    """What the driver does: the history, longer after each stage; the tables; the end."""
    tracker.begin(campaign, config)
    points, files = history(n_iterations), checkpoints(campaign, n_iterations)
    for n in range(1, len(points) + 1):
        tracker.show(points[:n], {i: path for i, path in files.items() if i <= points[n - 1].iteration})
    tracker.tabulate(tables)
    return tracker.end()


def test_offline_run_holds_everything_once(campaign):
    assert drive(WandbTracker(), campaign)
    run = the_run(campaign)
    assert run.has_ended and run.group == "li-p-s" and run.job_type == "explore" and run.config["seed"] == 0
    assert shown(run) == dashboard_rows(history())
    assert run.metrics == {
        **{axis: "" for axis in ("iteration", "n_train", "epoch")},
        **{f"{group}/*": "iteration" for group in ("curate", "finetune", "generate", "screen")},
        **{"by_n_train/*": "n_train", "curves/*": "epoch"},
    }
    assert run.summary["finetune/test_force_rmse_after_mev_per_ang"] == 70
    assert run.summary["curate/environment_coverage_low"] == pytest.approx(0.7)


def test_checkpoints_are_versions_of_one_artifact(campaign):
    drive(WandbTracker(), campaign)
    models = [artifact for artifact in the_run(campaign).artifacts if artifact.type == "model"]
    assert len({artifact.name for artifact in models}) == 1 and models[0].name.startswith("camp_aign-")
    assert [sorted(artifact.aliases) for artifact in models] == [[f"iter-{i:03d}", "latest"] for i in range(3)]
    assert len({artifact.digest for artifact in models}) == 3
    for i, artifact in enumerate(models):
        (entry,) = artifact.manifest.contents
        assert Path(entry.local_path) == checkpoints(campaign)[i], "no copy is made"
        assert entry.size == len(f"weights {i}")
        metadata = json.loads(artifact.metadata)
        assert metadata["iteration"] == i and metadata["finetune/n_train"] == 100 * (i + 1)


def test_tables_are_in_the_summary_and_wait_in_the_campaign(campaign):
    drive(WandbTracker(), campaign)
    run = the_run(campaign)
    (folder,) = (campaign / "wandb").glob("offline-run-*")
    for table in TABLES:
        entry = run.summary[table.name]
        assert entry["_type"] == "table-file" and entry["nrows"] == 2
        content = json.loads((folder / "files" / entry["path"]).read_text())
        assert content["columns"] == list(table.columns) and content["data"] == [list(row) for row in table.rows]
    staged = [artifact for artifact in run.artifacts if artifact.type == "run_table"]
    assert len(staged) == 2
    for artifact in staged:
        for entry in artifact.manifest.contents:
            assert Path(entry.local_path).is_relative_to(campaign) and Path(entry.local_path).is_file()
    assert "WANDB_DATA_DIR" not in os.environ


def test_without_artifacts_and_tables_only_the_history(campaign):
    assert drive(WandbTracker(artifacts=False), campaign, tables=[])
    run = the_run(campaign)
    assert run.artifacts == [] and shown(run) == dashboard_rows(history())


DRIVER = """
import os, signal, sys
from pathlib import Path
from tests.unit.test_tracker_wandb import CONFIG, checkpoints, drive, history
from chemloop.tracker.wandb import WandbTracker
campaign, moment = Path(sys.argv[1]), sys.argv[2]
if moment == "show":
    tracker = WandbTracker()
    tracker.begin(campaign, CONFIG)
    tracker.show(history()[:5], checkpoints(campaign, 1))
    os.kill(os.getpid(), signal.SIGKILL)
assert drive(WandbTracker(), campaign)
"""


def start(campaign: Path, moment: str) -> subprocess.Popen:
    # A driver's W&B process is its own and ends with it; these would share that of the tests
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"} | {
        "PYTHONPATH": str(ROOT)
    }
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(campaign), moment], env=environment, cwd=ROOT)


@pytest.mark.parametrize("moment", ["show", "writing"])
def test_after_a_kill_every_point_is_there_once(campaign, moment):
    driver = start(campaign, moment)
    if moment == "writing":
        limit = time.monotonic() + 300
        while not list((campaign / "wandb").glob("offline-run-*/*.wandb")):
            assert driver.poll() is None and time.monotonic() < limit
            time.sleep(0.01)
        driver.send_signal(signal.SIGKILL)
    assert driver.wait(300) == -signal.SIGKILL
    assert start(campaign, "resumed").wait(300) == 0
    run = the_run(campaign)
    assert run.has_ended and shown(run) == dashboard_rows(history())
    assert len([artifact for artifact in run.artifacts if artifact.type == "model"]) == 3


def test_a_longer_campaign_is_written_anew(campaign):
    assert drive(WandbTracker(), campaign, n_iterations=2) and drive(WandbTracker(), campaign)
    run = the_run(campaign)
    assert shown(run) == dashboard_rows(history()) and len(run.artifacts) == 5
    staged = {entry.local_path for artifact in run.artifacts for entry in artifact.manifest.contents}
    assert len({path for path in staged if "/wandb/staging/" in path}) == 2
    assert len(list((campaign / "wandb/staging").rglob("tmp*"))) <= 4, "what the earlier command staged is gone"


class FakeRun:
    """An online run whose network fails from a given row on; it keeps what a server would."""

    def __init__(self, rows: list[dict], fails_at: int | None = None):
        self.rows, self.fails_at, self.summary, self.aliases = rows, fails_at, {}, []

    @property
    def step(self) -> int:
        return len(self.rows)

    def define_metric(self, *args, **keys) -> None:
        pass

    def log(self, row, step, commit) -> None:
        if step == self.fails_at:
            raise ConnectionError("the network is down")
        assert step == len(self.rows) and commit
        self.rows.append(row)

    def log_artifact(self, artifact, aliases) -> None:
        self.aliases.append(aliases[0])

    def finish(self) -> None:
        pass


def test_online_run_is_continued_where_the_network_failed(campaign, monkeypatch, caplog):
    import wandb

    rows: list[dict] = []
    runs = [FakeRun(rows, fails_at=4), FakeRun(rows)]
    opened: list[dict] = []
    monkeypatch.setattr(wandb, "init", lambda **keys: opened.append(keys) or runs[len(opened) - 1])
    assert drive(WandbTracker(mode="online"), campaign)
    assert "the network is down" in caplog.text and len(opened) == 2
    assert opened[1]["resume"] == "allow" and opened[0]["id"] == opened[1]["id"]
    assert rows == dashboard_rows(history())
    assert runs[1].aliases == ["iter-000", "iter-001", "iter-002"] and "best_structures" in runs[1].summary


def test_without_key_and_network_nothing_asks_or_hangs(campaign, monkeypatch, caplog):
    begin = time.monotonic()
    assert drive(WandbTracker(mode="disabled"), campaign) and not (campaign / "wandb").exists()
    tracker = WandbTracker(mode="online")
    tracker.begin(campaign, CONFIG)
    assert "No API key" in caplog.text or "api_key not configured" in caplog.text
    assert not tracker.end() and time.monotonic() - begin < 120
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert drive(WandbTracker(), campaign) and drive(WandbTracker(), campaign)
    assert shown(the_run(campaign)) == dashboard_rows(history())


def test_a_failure_is_told_once_and_tried_again_later(campaign, monkeypatch, caplog):
    import wandb

    def refuse(**keys) -> None:
        opened.append(keys)
        raise ConnectionError("the network is down")

    opened: list[dict] = []
    monkeypatch.setattr(wandb, "init", refuse)
    tracker = WandbTracker(mode="online")
    tracker.begin(campaign, CONFIG | {"system": {"name": None, "elements": ["Na", "P", "S"]}})
    for n in range(1, 4):
        tracker.show(history()[:n])
    assert len(opened) == 1 and caplog.text.count("the network is down") == 1
    monkeypatch.setattr("chemloop.tracker.wandb.RETRY_AFTER_S", 0)
    tracker.show(history())
    assert len(opened) == 2 and not tracker.end() and len(opened) == 3
    assert opened[0]["group"] == "na-p-s"


def test_bad_mode_is_one_sentence():
    with pytest.raises(ConfigError, match=r"tracker.mode = 'cloud': allowed are auto, offline, online, disabled"):
        WandbTracker(mode="cloud")
