"""What experience replay, elastic weight consolidation and both keep of a model while it is fine-tuned.

    python benchmarks/reewc.py FRAMES.extxyz --model sevennet --workdir outputs/reewc [training.epochs=20 ...]

The recipe is `training=reewc` with what `loop/model` changes in it and the overrides given. The four fits differ in
training.replay_fraction and training.ewc_strength alone; an interrupted one continues. Errors are RMSE, on target
frames that none has seen, and against the base's own predictions on general structures that none has replayed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

CONF = Path(__file__).parents[1] / "conf"
COLUMNS = {
    "target energy (meV/atom)": "energy_rmse_mev_per_atom",
    "target force (meV/A)": "force_rmse_mev_per_ang",
    "forgetting energy (meV/atom)": "finetune/forgetting_energy_rmse_mev_per_atom",
    "forgetting force (meV/A)": "finetune/forgetting_force_rmse_mev_per_ang",
    "time (s)": "time_s",
}


def arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", type=Path, help="labelled frames (extxyz)")
    parser.add_argument("--model", default="sevennet", help="an option of conf/model")
    parser.add_argument("--loop", default="quickstart", help="whose recipe of the model: quickstart or paper")
    parser.add_argument("--workdir", type=Path, default=Path("outputs/reewc"))
    parser.add_argument("--test-fraction", type=float, default=0.2, help="of the frames, by parent structure")
    parser.add_argument("--n-frames", type=int, default=0, help="only so many frames; 0: all")
    parser.add_argument("--seed", type=int, default=0)
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


def main() -> None:
    from chemloop.physics.structures import read_structures
    from chemloop.training.data import split
    from chemloop.training.evaluation import errors
    from chemloop.training.finetune import finetune

    args, overrides = arguments()
    model, recipe = components(args, overrides)
    frames = read_structures(args.frames)
    train, test = split(frames[: args.n_frames or None], args.test_fraction, "parent")
    print(f"{args.model}: {len(train)} frames to fit, {len(test)} to test, {recipe.epochs} epochs")
    rows = {"base": errors(test, model.load(args.device, "float32"))}
    for name, arm in arms(recipe).items():
        start = time.monotonic()
        fit = finetune(model, train, arm, args.workdir / name, args.seed, args.device)
        fitted = dataclasses.replace(model, checkpoint=fit.checkpoint).load(args.device, "float32")
        rows[name] = {**fit.metrics, **errors(test, fitted), "time_s": time.monotonic() - start}
        if fit.kept_base:
            print(f"{name}: no epoch was better than the base, which is kept")
    (args.workdir / "reewc.json").write_text(json.dumps(rows, indent=1))
    print("| fit | " + " | ".join(COLUMNS) + " |")
    print("|---|" + "---|" * len(COLUMNS))
    for name, row in rows.items():
        cells = [f"{row[key]:.1f}" if key in row else "-" for key in COLUMNS.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
