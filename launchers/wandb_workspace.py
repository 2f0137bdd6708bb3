"""Two views of a W&B project with ChemLoop's runs: campaigns, drawn as in the report, and learning curves.

    python launchers/wandb_workspace.py --entity NAME [--project chemloop]

needs `pip install 'chemloop[wandb-workspaces]'` and a key (`wandb login`). It prints the address of each view; applied
again it adds views and removes none.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

try:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces.reports.v2.interface import PanelTypes
except ImportError as error:
    sys.exit(f"{error}; install it with: pip install 'chemloop[wandb-workspaces]'")

UNITS = {"energy": "mev_per_atom", "force": "mev_per_ang", "stress": "mev_per_ang3"}
LABELS = {"energy": "meV/atom", "force": "meV/Å", "stress": "meV/Å³"}
TIMES = ("before", "after", "base")


def main() -> None:
    """Save the views to the project."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--entity", required=True, help="user or team that owns the project")
    parser.add_argument("--project", default="chemloop", help="as in tracker.project (default: chemloop)")
    arguments = parser.parse_args()
    try:
        for view in views(arguments.entity, arguments.project):
            view.save()
    except Exception as error:
        sys.exit(f"W&B did not take the view: {error}\nIs there a key (wandb login), and a project of that name?")


def views(entity: str, project: str) -> list[ws.Workspace]:
    """The workspaces, not saved yet; without network."""

    def view(name: str, workflow: str, sections: list[ws.Section], groupby: list[Any]) -> ws.Workspace:
        runs = ws.RunsetSettings(filters=[ws.Config("options.workflow") == workflow], groupby=groupby)
        settings = ws.WorkspaceSettings(x_axis="iteration", max_runs=50)
        return ws.Workspace(entity, project, name, sections, settings, runs)

    series = [ws.Metric("Group"), ws.Config("point.model"), ws.Config("point.selection")]
    return [
        view("ChemLoop campaigns", "explore", campaign_sections(), []),
        view("ChemLoop learning curves", "learning_curve", sweep_sections(), series),
    ]


def campaign_sections() -> list[ws.Section]:
    """What the report shows, in its order."""
    tables: list[PanelTypes] = [
        wr.WeavePanelSummaryTable(table_name=name) for name in ("best_structures", "motif_catalogue")
    ]
    wide = ws.SectionLayoutSettings(columns=1, rows=2)
    return [
        ws.Section("Completeness", completeness_panels(), is_open=True),
        ws.Section("Structures", structure_panels(), is_open=True),
        ws.Section("Force field against training frames", error_panels("n_train", "by_n_train"), is_open=True),
        ws.Section("Force field against iterations", error_panels("iteration", "finetune"), is_open=True),
        ws.Section("Tables", tables, is_open=True, layout_settings=wide),
        ws.Section("Fits, epoch by epoch", fit_panels()),
        ws.Section("Costs", cost_panels()),
    ]


def line(title: str, metrics: list[str], x: str = "iteration", unit: str = "", log_y: bool = False) -> wr.LinePlot:
    """Metrics of one unit against one axis."""
    return wr.LinePlot(title=title, x=x, y=[*metrics], title_y=unit, log_y=log_y, title_x=x.replace("_", " "))


def with_interval(metric: str, unit: str = "") -> list[str]:
    """A metric and the ends of its interval; unit: ends the names."""
    return [f"{metric}{bound}{unit}" for bound in ("", "_low", "_high")]


def completeness_panels() -> list[PanelTypes]:
    """Entropy and what is known of environments and motifs."""
    growth = "_nats_per_frame"
    panels: list[PanelTypes] = [
        line("Entropy, ± 1 standard error", with_interval("curate/entropy", "_nats"), unit="nats"),
        line("dH/dN", with_interval("curate/entropy_growth", growth), unit="nats per frame", log_y=True),
        line("dH/dN", with_interval("by_n_train/entropy_growth", growth), "n_train", "nats per frame", log_y=True),
        line("New environments that were known", with_interval("curate/overlap_fraction"), unit="fraction"),
    ]
    for one, many in (("environment", "environments"), ("motif", "motifs")):
        seen = [f"curate/n_{many}_seen", *with_interval(f"curate/n_{many}_estimated")]
        panels += [
            line(f"Coverage of {many}", with_interval(f"curate/{one}_coverage"), unit="fraction"),
            line(f"{many.capitalize()} seen, and estimated (Chao)", seen),
            line(f"New {many} expected next", with_interval(f"curate/n_new_{many}_expected")),
        ]
    return panels


def structure_panels() -> list[PanelTypes]:
    """Stable, unique, novel."""
    kinds = ("stable", "unique", "novel", "sun")
    return [
        line("S.U.N. fractions", [f"screen/{kind}_fraction" for kind in kinds], unit="fraction of generated"),
        line("S.U.N. counts", [*(f"screen/n_{kind}" for kind in kinds), "screen/n_screened"], unit="structures"),
        line("Lowest E_hull", ["screen/lowest_e_above_hull_ev_per_atom"], unit="eV/atom"),
    ]


def error_panels(x: str, group: str) -> list[PanelTypes]:
    """RMSE on frames that no fit has seen: the model before and after this iteration's fit, and the base."""
    return [
        line(f"Test {name} RMSE", [f"{group}/test_{name}_rmse_{when}_{unit}" for when in TIMES], x, LABELS[name])
        for name, unit in UNITS.items()
    ]


def fit_panels() -> list[PanelTypes]:
    """Curves of all fits, one after the other."""
    errors = [
        line(f"Validation {name} RMSE", [f"curves/valid_{name}_rmse_{unit}"], "epoch", LABELS[name])
        for name, unit in UNITS.items()
    ]
    return [
        line("Training loss", ["curves/train_loss"], "epoch", log_y=True),
        *errors,
        line("Learning rate", ["curves/learning_rate"], "epoch", log_y=True),
    ]


def cost_panels() -> list[PanelTypes]:
    """What the iterations took."""
    return [
        line("Frames labelled", ["seed/n_frames", "label/n_frames"], unit="frames"),
        line("Training and test frames", ["curate/n_train", "curate/n_test"], unit="frames"),
        line("Steps per relaxation", ["relax/mean_steps"], unit="steps"),
    ]


def sweep_sections() -> list[ws.Section]:
    """Errors against training frames; each point is a run."""
    n_train = wr.Config("point.n_train")
    scatter = [
        wr.ScatterPlot(
            title=f"Test {name} RMSE ({LABELS[name]}), each point a fit",
            x=n_train,
            y=wr.SummaryMetric(f"learning_curve/test_{name}_rmse_{unit}"),
            log_x=True,
            log_y=True,
        )
        for name, unit in UNITS.items()
    ]
    lines = [
        line(f"Test {name} RMSE", [f"learning_curve/test_{name}_rmse_{unit}"], "n_train", LABELS[name])
        for name, unit in UNITS.items()
    ]
    growth = line("dH/dN", ["learning_curve/entropy_growth_nats_per_frame"], "n_train", "nats per frame", log_y=True)
    return [
        ws.Section("Errors against training frames", [*scatter, *lines, growth], is_open=True),
        ws.Section("Fits, epoch by epoch", fit_panels()),
    ]


if __name__ == "__main__":
    main()
