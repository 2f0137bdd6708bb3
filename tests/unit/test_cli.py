"""The command line as a person uses it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chemloop.runtime.process import cpu_seconds

ROOT = Path(__file__).parents[2]


def chemloop(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-m", "chemloop", *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


def test_help_lists_groups_options_and_keys(tmp_path):
    shown = chemloop("--help", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    for text in ("model: ase, chgnet", "sevennet", "hull_quotas", "max_iterations", "Examples"):
        assert text in shown.stdout
    assert list(tmp_path.iterdir()) == []


def test_configuration_is_shown_quickly_without_heavy_imports(tmp_path):
    program = (
        "import sys; sys.argv = ['chemloop', '--cfg', 'job']\n"
        "from chemloop.__main__ import main\nmain()\n"
        "print('heavy:', [name for name in ('torch', 'pymatgen', 'ase') if name in sys.modules])"
    )
    begin = cpu_seconds()
    shown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "heavy: []" in shown
    assert cpu_seconds() - begin < 10, "this takes about a second"


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["model=alchemy"], ["model/alchemy", "chgnet", "sevennet"]),
        (["loop.max_iteration=3"], ["unknown key loop.max_iteration", "did you mean max_iterations"]),
        (["loop.relax.fmx=3"], ["unknown key loop.relax.fmx", "did you mean fmax", "max_steps"]),
        (["+loop.relax.fmx=3"], ["unknown key loop.relax.fmx", "did you mean fmax", "max_steps"]),
        (["+sytem=5"], ["unknown key sytem", "did you mean system"]),
        (["loop.max_iterations=many"], ["loop.max_iterations", "many", "Integer"]),
        (["loop.relax.fmax=0"], ["loop.relax.fmax = 0: must be above 0"]),
        (["loop.relax.max_steps=-1"], ["loop.relax.max_steps = -1: must be 1 or above"]),
        (["loop.generate.n=0"], ["loop.generate.n = 0: must be 1 or above"]),
        (["loop.hull_quotas=[100,100,100,100]"], ["add up to 400", "loop.generate.n proposes"]),
        (["loop.hull_quotas=[1,1]"], ["quotas", "one quota per window"]),
        (["loop.curate.n_train=-5"], ["loop.curate.n_train = -5: must be 1 or above"]),
        (["model=sevennet", "model.checkpoint=7net-0"], ["its own teacher", "labeler.checkpoint"]),
        (["loop.relax.batch_size=0"], ["loop.relax.batch_size = 0: must be 1 or above, or auto"]),
        (["loop.relax.displacement=-1"], ["loop.relax.displacement = -1: must be 0 A (none) or above"]),
        (["loop.relax.engine=magic"], ["'magic'", "ase, torchsim"]),
        (["seed=-1"], ["seed = -1"]),
        (["training/recipe@training=quickstart/chgnt"], ["quickstart/chgnt: no such recipe", "quickstart/chgnet"]),
        (["training=chgnt"], ["training/chgnt", "default"]),
        (["+model.python=/no/such/python"], ["model.python = '/no/such/python'", "null"]),
        (["loop.label.min_distance_scale=2"], ["loop.label.min_distance_scale = 2.0: must be in [0, 1)"]),
        (["campaign=a/b"], ["campaign = 'a/b'", "one folder"]),
        (["compute.cpu.workers=-2"], ["workers = -2"]),
        (["compute.gpu.device=cuda:first"], ["'cuda:first'", "cpu, cuda, cuda:N"]),
        (["tracker.mode=shout"], ["'shout'", "offline"]),
        (["system.elements=[Li,P,Sx]"], ["Sx"]),
        (["model.checkpoint="], ["model.checkpoint"]),
        (["model.checkpoint=~/w.pt"], ["model.checkpoint=~/w.pt is no KEY=VALUE", """in quotes: 'KEY="VALUE"'"""]),
        (["labeler.checkpoint=/c=d.pt"], ["labeler.checkpoint=/c=d.pt is no KEY=VALUE", "in quotes"]),
    ],
)
def test_bad_input_ends_with_one_message_before_any_work(tmp_path, arguments, messages):
    ended = chemloop(*arguments, cwd=tmp_path)
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr, ended.stderr
    for message in messages:
        assert message in ended.stderr
    assert not list(tmp_path.glob("outputs/*/iter-*"))


def test_tools_need_a_campaign(tmp_path):
    for workflow in ("ledger", "report"):
        ended = chemloop(f"workflow={workflow}", cwd=tmp_path)
        assert ended.returncode != 0
        assert "there is no campaign" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_outputs_in_the_home_folder(tmp_path):
    """No shell expands what stands in quotes, in a file, or after a key with a dot."""
    (tmp_path / "home").mkdir()
    ended = chemloop(
        "outputs='~/my outputs'", "workflow=report", "campaign=mine", cwd=tmp_path, HOME=f"{tmp_path}/home"
    )
    assert f"there is no campaign {tmp_path}/home/my outputs/mine" in ended.stderr


def test_outputs_that_cannot_be_written(tmp_path):
    (tmp_path / "occupied").write_text("")
    ended = chemloop("outputs=occupied", cwd=tmp_path)
    assert ended.returncode != 0
    assert "outputs=FOLDER" in ended.stderr
    assert "Traceback" not in ended.stderr
