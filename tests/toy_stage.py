"""A stage whose items do what their task tells them, for tests of the runtime; workers import it from here."""

import os
import signal
import time
from collections.abc import Sequence

import joblib

from chemloop.runtime.disk import write_json
from chemloop.runtime.errors import ConfigError, ItemFailed
from chemloop.runtime.item import Item
from chemloop.stages.stage import METRICS, Stage

PATIENCE_S = 300
"""What an item waits at most for its test."""


class ToyStage(Stage):
    """what: per item `ok`, `fail`, `retry`, `retry once`, `die once`, `die`, `advance and die` (five times),
    `go back and forth` (for ever), `a finer step at a time` (five of them, one per attempt),
    `advance` (four steps, 2 s each), `hog`, `fatal`, `sleep` or `sleep SECONDS`, `linger once` (until it is killed),
    `wait` (for `go` in the campaign's folder), `lose a process once` of its own."""

    name = "screen"
    what: Sequence[str] = ()

    def plan(self) -> list[Item]:
        return [self.plan_item(number, what=what) for number, what in enumerate(self.what)]

    def run(self, item: Item) -> Sequence[str]:
        what = item.task["what"]
        with open(item.folder / "attempts", "a") as file:
            file.write(f"{os.getpid()}\n")
        n_attempts = len((item.folder / "attempts").read_text().split())
        print(f"attempt {n_attempts} of {what}")
        if what == "fail":
            raise ItemFailed("it was told to fail")
        if what == "fatal":
            raise ConfigError("this can never work")
        if what == "retry" or (what == "retry once" and n_attempts == 1):
            raise ItemFailed("the node was lost", retryable=True)
        if what == "die" or (what == "die once" and n_attempts == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "advance and die" and n_attempts <= 5:
            write_json(item.folder / "progress.json", {"done": n_attempts, "total": 6})
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "go back and forth":
            write_json(item.folder / "progress.json", {"done": 4 - n_attempts % 2, "total": 6})
            raise ItemFailed("the time is over", retryable=True)
        if what == "a finer step at a time" and n_attempts <= 5:
            write_json(item.folder / "progress.json", {"done": 0, "total": 6, "n_steps": n_attempts})
            raise ItemFailed("the time is over", retryable=True)
        if what == "hog":
            memory = bytearray(2**30)
            memory[::4096] = b"1" * (len(memory) // 4096)
            time.sleep(10)
        if what == "advance":
            for step in range((item.progress or (0, 4))[0], 4):
                time.sleep(2)
                write_json(item.folder / "progress.json", {"done": step + 1, "total": 4})
        if what == "lose a process once" and n_attempts == 1:
            joblib.Parallel(n_jobs=2)(joblib.delayed(os._exit)(1) for _ in range(2))
        if what == "linger once" and n_attempts == 1:
            time.sleep(PATIENCE_S)
        if what == "wait":
            end = time.monotonic() + PATIENCE_S
            while not (self.campaign.folder / "go").exists() and time.monotonic() < end:
                time.sleep(0.1)
        if what.startswith("sleep"):
            time.sleep(float(what.removeprefix("sleep") or 5))
        (item.folder / "result").write_text(f"{item.task['seed']}")
        return ["result"]

    def collect(self, items: Sequence[Item]) -> dict[str, float]:
        return {"n_items": len(items), "sum": sum(int((item.folder / "result").read_text()) for item in items)}

    def final_files(self):
        return [self.folder / METRICS]

    def record_in(self, ledger) -> None:
        pass
