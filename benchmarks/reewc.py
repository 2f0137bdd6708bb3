"""What experience replay, elastic weight consolidation and both keep of a model while it is fine-tuned.

    python -m benchmarks.reewc FRAMES.extxyz --model chgnet --seeds 0 1 2 [training.epochs=20 ...]

The recipe is `training=reewc` with what `loop/model` changes in it and the overrides given. The four fits differ in
training.replay_fraction and training.ewc_strength alone; an interrupted one continues. Each seed draws frames to fit,
general structures and the order of the frames anew. Errors are RMSE, on target frames that none has seen, and against
the base's own predictions on general structures that none has replayed; the table has means over the seeds, and their
standard errors.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

CONF = Path(__file__).parents[1] / "conf"
COLUMNS = {
    "target energy (meV/atom)": "energy_rmse_mev_per_atom",
    "target force (meV/A)": "force_rmse_mev_per_ang",
    "forgetting energy (meV/atom)": "finetune/forgetting_energy_rmse_mev_per_atom",
    "forgetting force (meV/A)": "finetune/forgetting_force_rmse_mev_per_ang",
    "CPU time (s)": "time_s",
}


def arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", type=Path, help="labelled frames (extxyz)")
    parser.add_argument("--model", default="sevennet", help="an option of conf/model")
    parser.add_argument("--loop", default="quickstart", help="whose recipe of the model: quickstart or paper")
    parser.add_argument("--workdir", type=Path, default=Path("outputs/reewc"))
    parser.add_argument("--test-fraction", type=float, default=0.2, help="of the frames, by parent structure")
    parser.add_argument("--n-frames", type=int, help="to fit, drawn at random from those that may be; default: all")
    parser.add_argument("--n-test", type=int, help="frames to test, drawn likewise; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="cpu")
    return parser.parse_known_args()


def components(args: argparse.Namespace, overrides: list[str]) -> tuple[Any, Any]:
    """The force field and the recipe."""
    from chemloop.config import build

    groups = [f"model={args.model}", "training=reewc", f"loop={args.loop}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = compose("config", [*groups, *overrides])
    plain: Any = {group: OmegaConf.to_container(node[group], resolve=True) for group in ("model", "training")}
    return build(plain["model"], "model"), build(plain["training"], "training")


def arms(recipe: Any) -> dict[str, Any]:
    """The recipe without, with one and with both of its two remedies."""
    no_replay, no_penalty = {"replay_fraction": 0.0}, {"ewc_strength": 0.0}
    return {
        "plain": dataclasses.replace(recipe, **no_replay, **no_penalty),
        "replay": dataclasses.replace(recipe, **no_penalty),
        "EWC": dataclasses.replace(recipe, **no_replay),
        "both": recipe,
    }


def drawn(frames: list, n: int | None, seed: int) -> list:
    """n frames in their order, or all."""
    return [frames[k] for k in sorted(np.random.default_rng(seed).permutation(len(frames))[:n])]


def fit_all(model: Any, recipe: Any, train: list, test: list, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """The errors after each of the fits."""
    from chemloop.training.evaluation import errors
    from chemloop.training.finetune import finetune

    rows = {}
    for name, arm in arms(recipe).items():
        start = time.process_time()
        fit = finetune(model, train, arm, args.workdir / f"{name}-{seed}", seed, args.device)
        fitted = dataclasses.replace(model, checkpoint=fit.checkpoint).load(args.device, "float32")
        rows[name] = {**fit.metrics, **errors(test, fitted), "time_s": time.process_time() - start}
        shown = "  ".join(f"{rows[name][key]:.1f}" for key in COLUMNS.values())
        print(f"seed {seed}, {name}: {shown}{'  (the base is kept)' if fit.kept_base else ''}", flush=True)
    return rows


def main() -> None:
    from chemloop.physics.structures import read_structures
    from chemloop.training.data import split
    from chemloop.training.evaluation import errors

    args, overrides = arguments()
    model, recipe = components(args, overrides)
    may_train, test = split(read_structures(args.frames), args.test_fraction, "parent")
    test = drawn(test, args.n_test, 0)
    n_train = len(drawn(may_train, args.n_frames, 0))
    print(f"{args.model}: {n_train} frames to fit, {len(test)} to test, {recipe.epochs} epochs, seeds {args.seeds}")
    base = errors(test, model.load(args.device, "float32"))
    found = [fit_all(model, recipe, drawn(may_train, args.n_frames, s), test, s, args) for s in args.seeds]
    (args.workdir / "reewc.json").write_text(json.dumps({"base": base, "seeds": found}, indent=1))
    print("| fit | " + " | ".join(COLUMNS) + " |")
    print("|---|" + "---|" * len(COLUMNS))
    print("| base | " + " | ".join(f"{base[key]:.1f}" if key in base else "-" for key in COLUMNS.values()) + " |")
    for name in found[0]:
        cells = [cell([rows[name][key] for rows in found]) for key in COLUMNS.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")


def cell(values: list[float]) -> str:
    """The mean, and its standard error where there are several."""
    error = f" +- {np.std(values, ddof=1) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{error}"


if __name__ == "__main__":
    main()
