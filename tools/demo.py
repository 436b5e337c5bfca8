"""The main job on real data, in demo/: a pipeline of notebooks, three more models, the objectives and the lineage of the best.

`make demo` runs it. A second call runs only what changed since the first.
"""
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from mlops_nb.settings import open_workspace
from mlops_nb.store.door import open_store
from mlops_nb.wording import bare_table, console, say_value

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
PROGRAM = Path(sys.executable).parent / "mlops-nb"
VARIANTS = (  # of the training, besides the one of pipeline.toml
    {"train.channels": 4, "train.dropout": 0.5},
    {"train.channels": 16, "train.epochs": 15},
    {"train.learning_rate": 0.01},
)
SHOWN = ("channels", "epochs", "learning_rate", "dropout")  # parameters of the last table


@dataclass(frozen=True)
class Model:
    "A trained model, and what was measured of it"

    train: dict  # its run, as `mlops-nb run --json` gives it
    evaluate: dict  # the run that measured it

    @property
    def recall(self) -> float:
        "Mean over the ten digits"
        return self.evaluate["metrics"]["recall"]


def call(
    *arguments: str,  # of `mlops-nb`
    folder: Path = DEMO,  # where it runs
    capture: bool = False,  # keep what it prints, instead of showing it
) -> subprocess.CompletedProcess:
    "Run a command as a person would"
    stdout = subprocess.PIPE if capture else None
    return subprocess.run([PROGRAM, *arguments], cwd=folder, encoding="utf-8", stdout=stdout, check=False)


def title(
    text: str,  # what comes now
) -> None:
    "A heading in the output"
    console().print(f"\n{text}\n", style="bold")


def make_model(
    parameters: dict[str, float],  # STEP.NAME -> value, over pipeline.toml
) -> Model:
    "Run the pipeline; steps that are unchanged are not run again"
    changes = ", ".join(f"{name} = {value}" for name, value in parameters.items())
    title(f"The pipeline with {changes}" if changes else "The pipeline: prepare, train, evaluate, explain")
    done = call("run", "--json", *(part for name, value in parameters.items() for part in ("-p", name, str(value))), capture=True)
    if done.returncode == 1:
        sys.exit(f"{json.loads(done.stdout)['message']}; what it printed: cd {DEMO} && {PROGRAM} runs logs latest")
    if done.returncode:
        sys.exit(done.returncode)
    runs = {step["step"]: step["run"] for step in json.loads(done.stdout)["steps"]}
    return Model(runs["train"], runs["evaluate"])


def mark_best(
    models: list[Model],
) -> Model:
    "Give the model with the highest recall the alias `best`"
    best = max(models, key=lambda model: model.recall)
    store = open_store(open_workspace(DEMO))
    edges = store.artifacts.edges_of(best.train["id"])
    (model,) = (artifact for relation, artifact in edges if (relation, artifact.type) == ("logged", "model"))
    store.artifacts.alias(model.reference, "best")
    return best


def models_table(
    models: list[Model],
    best: Model,
) -> Table:
    "One line for each model: how it was trained, and how well it reads"
    table = bare_table("Training", *(f">{name.replace('_', ' ').capitalize()}" for name in SHOWN), ">Recall", "95 % interval", "")
    for model in models:
        metrics = model.evaluate["metrics"]
        interval = f"{metrics['recall_lower']:.3f} to {metrics['recall_upper']:.3f}"
        values = [say_value(model.train["parameters"][name]) for name in SHOWN]
        mark, style = ("best", "bold") if model is best else ("", "")
        table.add_row(model.train["id"], *values, f"{model.recall:.4f}", interval, mark, style=style)
    return table


def main():
    for name in [name for name in os.environ if name.startswith(("MLOPS_NB_", "WANDB_"))]:
        del os.environ[name]  # the caller's own settings: the demo stays in demo/, and offline
    if not (DEMO / "settings.ini").exists():
        made = call("init", str(DEMO), "--template", "digits", folder=ROOT, capture=True)
        if made.returncode:
            sys.exit(made.returncode)
        print(made.stdout.splitlines()[0])
    models = [make_model(parameters) for parameters in ({}, *VARIANTS)]
    best = mark_best(models)
    other = next(model for model in models if model is not best)
    title("What was recorded: mlops-nb runs list")
    call("runs", "list")
    title(f"Is the best good enough for the business? mlops-nb objectives check {best.train['id']}")
    call("objectives", "check", best.train["id"])
    title("Where it comes from, and what it led to: mlops-nb lineage digits-model:best")
    call("lineage", "digits-model:best")
    title("Four models that read handwritten digits")
    console().print(models_table(models, best))
    title(f"Try next, after: cd {DEMO.name} && source {os.path.relpath(sys.prefix, DEMO)}/bin/activate")
    print(f"  mlops-nb runs open {best.evaluate['id']}              the evaluation as a report, in the browser")
    print(f"  mlops-nb runs compare {best.train['id']} {other.train['id']}  what made the difference")
    print("  mlops-nb lab                             JupyterLab, with live panels of all that")


if __name__ == "__main__":
    sys.exit(main())
