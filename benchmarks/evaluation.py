"""How fast models and tables are judged beside what people would use otherwise, on the same rows, in one process, taking turns.

`ratio` is the median of how many times longer the peer takes. Before anything is timed, each case sees that both sides say the same.

`drift_356k_x_50` compares a table of 356,000 rows and 50 columns, 40 of numbers and 10 of categories, with what it looked like before.
Ours is `drift` on the profile that is kept with a dataset version, with all its statistics and thresholds; `rows_to_rows_s` is `drift`
on two tables without any profile, and `profile_s` what making the profile costs. The peer is Evidently's DataDriftPreset as it comes, with
Wasserstein or Jensen-Shannon for each column; `peer_psi_s` is the preset with PSI alone for every column, the quickest statistic that it
has for all of them. `run` and reading its values count: Dataset objects are made before the clock starts, and no page is rendered. Ours
reads with two threads, Evidently with one.

`bootstrap_metrics` draws 1,000 resamples of 1,000,000 rows and measures seven metrics of each, for all rows and 20 slices. Ours is
`resample`, preparation included, in two threads. The peer is a loop over scikit-learn's metrics with the counts of each draw as
`sample_weight`; it is timed on 5 resamples and extrapolated, as its time grows with nothing else.

`permutation_importance` shuffles each of 20 columns of 10,000 rows twice. The peer is scikit-learn's, given the same table;
`ratio_on_arrays` is against scikit-learn's on the numbers that the network takes, which spares it the reading of the table.

`integrated_gradients` explains 10,000 rows of 20 columns in 64 steps. The peer is Captum row by row, timed on 500 rows and extrapolated.
"""

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from run_all import forget_environment, machine, make_parser, show_facts, tell

REPEATS = 3
SHUFFLES = 2  # of each column, for its permutation importance
PACKAGES = ("numpy", "scipy", "pandas", "scikit-learn", "torch", "captum", "evidently")


# ---- taking turns


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def clock(
    call: Callable,
) -> tuple[float, object]:  # seconds, and what it returned
    "Time one call"
    begin = time.perf_counter()
    found = call()
    return time.perf_counter() - begin, found


def take_turns(
    sides: dict[str, Callable],  # name -> what is timed
    repeats: int,
) -> dict[str, list[float]]:  # name -> seconds of each turn
    "Each side once in every round, and each first in its turn"
    samples, names = {name: [] for name in sides}, list(sides)
    for number in range(repeats):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(clock(sides[name])[0])
    return samples


def compare(
    ours: Sequence[float],  # seconds, of each round
    peer: Sequence[float],
    target: float,  # so many times faster
    **facts,  # what else is worth knowing
) -> dict:  # {"ours", "peer", "ratio", "unit", "target", "met"} and the facts
    "The result of a case"
    ratio = statistics.median(theirs / mine for mine, theirs in zip(ours, peer, strict=True))
    return {
        "ours": rounded(statistics.median(ours)),
        "peer": rounded(statistics.median(peer)),
        "ratio": rounded(ratio),
        "unit": "s",
        "target": target,
        "met": ratio >= target,
        "samples": {"ours": [*map(rounded, ours)], "peer": [*map(rounded, peer)]},
        **facts,
    }


# ---- drift

ROWS = 356_000
SHIFT = 0.3  # how far the current table has moved; a few of its columns enough to be called drifted


def make_table(
    rows: int,
    seed: int,
    shift: float = 0.0,
) -> Any:  # a pandas.DataFrame of 40 columns of numbers and 10 of texts
    "Numbers as tables have them: bell-shaped, skewed with two decimals, counts, shares; and categories of 3 to 48 values"
    import numpy as np
    import pandas as pd

    random, columns = np.random.default_rng(seed), {}
    for place in range(0, 40, 4):
        moved = shift * place / 40
        columns[f"level_{place}"] = random.normal(2 * moved, 1, rows)
        columns[f"amount_{place}"] = random.lognormal(3 + moved, 0.8, rows).round(2)
        columns[f"count_{place}"] = random.poisson(5 + 2 * moved, rows).astype(float)
        columns[f"share_{place}"] = random.random(rows) ** (1 + moved)
    for place in range(10):
        names = np.array([f"value {number}" for number in range(3 + 5 * place)], dtype=object)
        weights = np.linspace(1, 3 + shift * place, len(names))
        columns[f"category_{place}"] = random.choice(names, rows, p=weights / weights.sum())
    return pd.DataFrame(columns)


def schema_of(
    table: Any,  # from `make_table`
) -> Any:  # a Schema
    from mlops_nb.data.schema import Column, Schema

    *names, target = table.columns
    features = (Column(name, "category" if name.startswith("category") else "number") for name in names)
    return Schema((*features, Column(target, "category", "target")), "multiclass", tuple(sorted(set(table[target]))), len(table))


def import_evidently() -> Any:
    "The package. A name that its checks of column types import, and that pandas 3.1 no longer has, is put in place: no drift uses it"
    import pandas.core.dtypes.common

    if not hasattr(pandas.core.dtypes.common, "infer_dtype_from_object"):
        pandas.core.dtypes.common.infer_dtype_from_object = None
    import evidently
    import evidently.presets

    return evidently


def evidently_drift(
    reference: Any,  # a pandas.DataFrame
    current: Any,
    **options,  # of DataDriftPreset
) -> Callable:  # () -> column -> its statistic
    "What is timed of Evidently: a run on datasets that are there"
    evidently = import_evidently()
    groups = {True: [], False: []}
    for name in reference.columns:
        groups[name.startswith("category")].append(name)
    definition = evidently.DataDefinition(numerical_columns=groups[False], categorical_columns=groups[True])
    sides = [evidently.Dataset.from_pandas(table, data_definition=definition) for table in (current, reference)]

    def run():
        report = evidently.Report([evidently.presets.DataDriftPreset(**options)])
        metrics = report.run(*sides).dict()["metrics"]
        return {found["config"]["column"]: float(found["value"]) for found in metrics if "column" in found["config"]}

    return run


def in_cells(
    report: Any,  # a DriftReport
    table: Any,  # a pandas.DataFrame
) -> Any:  # the same columns, all of texts; their names begin with "category "
    "A table with the cell of each number instead of the number: what both sides count alike"
    import numpy as np

    told = table.copy()
    for column in report.columns:
        if column.kind == "number":
            told[column.name] = np.searchsorted(column.cells[1:-1], table[column.name], "right").astype(str)
    return told.rename(columns=lambda name: f"category {name}")


def check_statistics(
    report: Any,  # a DriftReport
    psi: dict[str, float],  # from Evidently, on the tables of `in_cells`
    chosen: dict[str, float],  # from Evidently, as it chooses: Wasserstein in deviations of numbers, Jensen-Shannon of categories
) -> None:  # RuntimeError where the two sides do not say the same
    import math

    for column in report.columns:
        own = column.wasserstein_deviations if column.kind == "number" else column.jensen_shannon
        said = {"PSI": (column.psi, psi[f"category {column.name}"]), "its own statistic": (own, chosen[column.name])}
        for name, (mine, theirs) in said.items():
            if not math.isclose(mine, theirs, rel_tol=1e-3, abs_tol=1e-9):
                raise RuntimeError(f"{column.name}: {name} is {mine} in mlops_nb and {theirs} in Evidently")


def check_drift(
    reference: Any,  # a pandas.DataFrame
    current: Any,
    schema: Any,
) -> None:  # RuntimeError where the two sides do not say the same
    "On the same cells PSI is the same; so are the statistics that Evidently chooses by itself, between the rows of both"
    from mlops_nb.data.drift import drift

    report = drift(reference, current, schema)
    psi = evidently_drift(in_cells(report, reference), in_cells(report, current), method="psi")()
    check_statistics(report, psi, evidently_drift(reference, current)())


def drift_356k_x_50(
    repeats: int,
    rows: int = ROWS,
) -> dict:
    "A table against what it looked like before: `drift` on a profile, and Evidently"
    from mlops_nb.data.drift import drift
    from mlops_nb.data.profiles import make_profile

    reference, current = make_table(rows, 0), make_table(rows, 1, SHIFT)
    schema = schema_of(reference)
    check_drift(reference.head(5000), current.head(5000), schema)
    profile_s, profile = clock(lambda: make_profile(reference, schema))
    sides = {"ours": lambda: drift(profile, current, schema), "peer": evidently_drift(reference, current)}
    report = sides["ours"]()  # what it imports is not timed; the check has warmed the peer
    turns = take_turns(sides, repeats)
    rows_to_rows_s, exact = clock(lambda: drift(reference, current, schema))
    psi_s, _ = clock(evidently_drift(reference, current, method="psi"))
    return compare(
        **turns,
        target=100.0,
        profile_s=rounded(profile_s),
        rows_to_rows_s=rounded(rows_to_rows_s),
        peer_psi_s=rounded(psi_s),
        peer_is="Evidently's DataDriftPreset as it comes; peer_psi_s is the same with PSI alone for every column",
        rows=rows,
        columns=len(report.columns),
        drifted=len(report.drifted),
        drifted_from_rows=len(exact.drifted),
    )


# ---- explanations

EXPLAINED_ROWS, CAPTUM_ROWS = 10_000, 500


def make_model(
    rows: int,
) -> tuple:  # Model, table, truth (n,)
    "A network of 20 columns as `load_model` gives it, in two programs, and rows; its weights are chance, as training them changes no time"
    import tempfile
    from pathlib import Path

    import numpy as np
    import pandas as pd
    import torch

    from mlops_nb.training.encoder import Encoder
    from mlops_nb.training.models import Model
    from mlops_nb.training.programs import export_program, load_program
    from mlops_nb.training.signature import InputColumn, Signature, to_tensors

    torch.set_num_threads(1)
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    cities = tuple(f"city {number}" for number in range(8))
    names = [f"number {each}" for each in range(14)], [f"category {each}" for each in range(6)]
    table = pd.DataFrame({name: draw.normal(size=rows) for name in names[0]} | {name: draw.choice(cities, rows) for name in names[1]})
    columns = tuple(InputColumn(name, "number") for name in names[0])
    columns += tuple(InputColumn(name, "category", vocabulary=cities) for name in names[1])
    signature = Signature("binary", "leaves", ("No", "Yes"), (), columns)
    tensors = to_tensors(table, signature)
    encoder = Encoder(signature, *tensors).eval()

    class Network(torch.nn.Module):
        def __init__(self, width):
            super().__init__()
            self.hidden = torch.nn.Sequential(torch.nn.Linear(width, 64), torch.nn.SiLU(), torch.nn.Linear(64, 64), torch.nn.SiLU())
            self.last = torch.nn.Linear(64, 1)

        def forward(self, features):
            margin = self.last(self.hidden(features)) * 80
            return margin, margin.sigmoid()

    width = len(encoder.feature_columns)
    with tempfile.TemporaryDirectory() as folder:
        programs = []
        for name, module, examples in (("encode", encoder, tensors), ("score", Network(width), (torch.zeros(2, width),))):
            path = Path(folder) / f"{name}.pt2"
            path.write_bytes(export_program(module, tuple(each[:2] for each in examples)))
            programs.append(load_program(path))
    model = Model(None, signature, tuple(encoder.feature_columns), *programs)
    return model, table, (draw.random(rows) < model.outputs(table)[:, 0]).astype(int)


def scikit_importance(
    model,
    table,
    truth,
    arrays: bool,  # whether scikit-learn is given the numbers that the model takes instead of the table, which saves it the reading
) -> list[float]:  # a mean loss for each column
    "What is timed of scikit-learn: its permutation_importance, the model in an estimator"
    import numpy as np
    import torch
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.inspection import permutation_importance

    from mlops_nb.training.signature import to_tensors

    numbers = len(model.signature.numbers)

    class Estimator(ClassifierMixin, BaseEstimator):
        classes_ = np.array([0, 1])

        def fit(self, table, truth):
            return self

        def predict_proba(self, table):
            if arrays:
                x_num, x_cat = torch.from_numpy(table[:, :numbers]).float(), torch.from_numpy(table[:, numbers:]).long()
                with torch.no_grad():
                    positive = model.score(model.encode(x_num, x_cat))[1][:, 0].numpy()
            else:
                positive = model.outputs(table)[:, 0]
            return np.column_stack([1 - positive, positive])

    given = np.concatenate([each.numpy() for each in to_tensors(table, model.signature)], axis=1, dtype=float) if arrays else table
    found = permutation_importance(Estimator(), given, truth, scoring="roc_auc", n_repeats=SHUFFLES, random_state=0)
    return found.importances_mean.tolist()


def permutation_importance(
    repeats: int,
    rows: int = EXPLAINED_ROWS,
) -> dict:
    "20 columns of 10,000 rows, each shuffled twice, by the loss of ROC-AUC: ours, and scikit-learn's on the same table"
    import numpy as np

    from mlops_nb.evaluation.explain import permutation_importance as ours

    model, table, truth = make_model(rows)
    found = ours(model, table, truth, "roc_auc", SHUFFLES).set_index("column")["importance"][list(table)]
    for arrays in (False, True):
        theirs = scikit_importance(model, table, truth, arrays)
        if np.corrcoef(found, theirs)[0, 1] < 0.9 or abs(found - theirs).max() > 0.02:
            raise RuntimeError("the two importances differ by more than other shuffles explain")
    samples = take_turns({
        "ours": lambda: ours(model, table, truth, "roc_auc", SHUFFLES),
        "peer": lambda: scikit_importance(model, table, truth, False),
        "arrays": lambda: scikit_importance(model, table, truth, True),
    }, repeats)
    arrays = statistics.median(samples["arrays"])
    return compare(
        samples["ours"], samples["peer"], 3, rows=len(table), columns=table.shape[1], shuffles=SHUFFLES,
        peer_on_arrays_s=rounded(arrays), ratio_on_arrays=rounded(arrays / statistics.median(samples["ours"])),
    )


def integrated_gradients(
    repeats: int,
    rows: int = EXPLAINED_ROWS,
    timed: int = CAPTUM_ROWS,  # of the peer
) -> dict:
    "10,000 rows of 20 columns, 64 steps: `attribute`, and Captum row by row, timed on 500 of the rows and extrapolated"
    import numpy as np
    import torch
    from captum.attr import IntegratedGradients

    from mlops_nb.evaluation.explain import attribute
    from mlops_nb.training.signature import to_tensors

    model, table, _ = make_model(rows)
    with torch.no_grad():
        features = model.encode(*to_tensors(table, model.signature))
    reference, owners = features.mean(0, keepdim=True), np.array(model.feature_columns)
    method, part = IntegratedGradients(lambda points: model.score(points)[0]), features[:timed]

    def captum():
        return torch.cat([method.attribute(row[None], reference, 0, n_steps=64, method="gausslegendre") for row in part]).detach().numpy()

    found, theirs = attribute(model, table, table), captum()
    for column, values in zip(found.columns, found.values.T):
        if abs(values[:timed] - theirs[:, owners == column].sum(1))[found.steps[:timed] == 64].max() > 1e-3:
            raise RuntimeError(f"the values of {column} differ")
    samples = take_turns({"ours": lambda: attribute(model, table, table), "peer": captum}, repeats)
    return compare(
        samples["ours"],
        [each * rows / timed for each in samples["peer"]],
        3,
        peer_is=f"timed on {timed} rows and extrapolated to {rows:,}",
        peer_measured_s=[*map(rounded, samples["peer"])],
        rows=rows,
        rows_with_more_steps=int((found.steps > 64).sum()),
        worst_relative_delta=rounded(found.worst_relative_delta),
    )


# ---- bootstrap of metrics

BOOTSTRAP_METRICS = ("roc_auc", "average_precision", "accuracy", "precision", "recall", "f1", "log_loss")
BOOTSTRAP_ROWS, BOOTSTRAP_SLICES, RESAMPLES, PEER_RESAMPLES = 1_000_000, 20, 1_000, 5


def weighted_metrics(
    truth: Any,  # (n,) 0 or 1
    output: Any,  # (n,) probabilities
    weights: Any,  # (n,) how often each row was drawn
) -> list[float]:
    "The seven metrics as scikit-learn gives them, rows counted by sample_weight"
    from sklearn import metrics as scikit

    answer, weighted = (output >= 0.5).astype(int), {"sample_weight": weights}
    return [
        scikit.roc_auc_score(truth, output, **weighted),
        scikit.average_precision_score(truth, output, **weighted),
        scikit.accuracy_score(truth, answer, **weighted),
        *(score(truth, answer, zero_division=0, **weighted) for score in (scikit.precision_score, scikit.recall_score, scikit.f1_score)),
        scikit.log_loss(truth, output, **weighted),
    ]


def scikit_loop(
    case: Any,  # a Case
    segments: Sequence[Any],  # rows of each slice, and of all
    resamples: int,
) -> list:
    "What people write: draw rows, count them, and ask scikit-learn for every metric of every slice"
    import numpy as np

    rng, rows, found = np.random.default_rng(0), len(case.truth), []
    parts = [(each, case.truth[each], case.output[each, 0]) for each in segments]
    for _ in range(resamples):
        weights = np.bincount(rng.integers(rows, size=rows), minlength=rows)
        found.append([weighted_metrics(truth, output, weights[each]) for each, truth, output in parts])
    return found


def check_bootstrap(
    case: Any,  # a Case
    slices: Sequence[Any],  # (n,) bool each
) -> float:  # the largest difference
    "A draw measured by both, with the same counts: the numbers are the same"
    import numpy as np

    from mlops_nb.evaluation.replicates import resample, row_order
    from mlops_nb.evaluation.resampling import draw_counts, take_rows

    [ours] = resample([case], BOOTSTRAP_METRICS, 1, seed=5, slices=slices)
    order = row_order(case)
    ordered = take_rows(case, order)
    [weights] = draw_counts(np.random.default_rng(5), ordered, 1)
    segments = [slice(None), *(each[order] for each in slices)]
    theirs = np.transpose([weighted_metrics(ordered.truth[each], ordered.output[each, 0], weights[each]) for each in segments])
    difference = float(abs(ours[:, :, 0] - theirs).max())
    if not difference < 1e-9:  # nor NaN
        raise RuntimeError(f"the same draw differs by {difference} between mlops_nb and scikit-learn")
    return difference


def bootstrap_metrics(
    repeats: int,
    rows: int = BOOTSTRAP_ROWS,
    resamples: int = RESAMPLES,
    timed: int = PEER_RESAMPLES,  # of the peer
) -> dict:
    "7 metrics, 1,000 resamples, 1,000,000 rows, 20 slices and all rows: `resample`, and a scikit-learn loop of 5 resamples, extrapolated"
    import resource

    import numpy as np

    from mlops_nb.evaluation.cases import make_case
    from mlops_nb.evaluation.replicates import resample

    rng = np.random.default_rng(0)
    risk = rng.beta(1, 3, rows)
    case, part = make_case("binary", rng.random(rows) < risk, risk), rng.integers(BOOTSTRAP_SLICES, size=rows)
    slices = [part == place for place in range(BOOTSTRAP_SLICES)]
    difference, before = check_bootstrap(case, slices), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sides = {
        "ours": lambda: resample([case], BOOTSTRAP_METRICS, resamples, slices=slices),
        "peer": lambda: scikit_loop(case, [slice(None), *slices], timed),
    }
    samples = take_turns(sides, repeats)
    return compare(
        samples["ours"],
        [each * resamples / timed for each in samples["peer"]],
        50,
        peer_is=f"timed on {timed} resamples and extrapolated to {resamples:,}",
        peer_measured_s=[*map(rounded, samples["peer"])],
        largest_difference=difference,
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        peak_memory_before_bytes=before,
        rows=rows,
        slices=BOOTSTRAP_SLICES,
        resamples=resamples,
    )


# ---- all of it

CASES = {  # name -> case(repeats) -> result, as `compare` makes it
    "drift_356k_x_50": drift_356k_x_50,
    "bootstrap_metrics": bootstrap_metrics,
    "permutation_importance": permutation_importance,
    "integrated_gradients": integrated_gradients,
}


def run_cases(
    names: Sequence[str],
    repeats: int,
) -> dict[str, dict]:  # case -> result, and "machine"
    "Measure cases, one after the other"
    about, results = machine(PACKAGES, repeats=repeats), {}
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results[name] = CASES[name](repeats)
    return results | {"machine": about | {"load_after": os.getloadavg()}}


def parse(
    arguments: Sequence[str] | None = None,  # default: those of this process
) -> argparse.Namespace:
    parser = make_parser(__doc__, CASES)
    parser.add_argument("--repeats", type=int, default=REPEATS, help="turns of each side (default: %(default)s)")
    return parser.parse_args(arguments)


def main():
    options = parse()
    forget_environment("MLOPS_NB_", "WANDB_")
    os.environ |= {"WANDB_SILENT": "true", "DO_NOT_TRACK": "true"}
    tell(run_cases(options.only, options.repeats), "evaluation", options.json, show_facts)


if __name__ == "__main__":
    main()
