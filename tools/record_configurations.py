"""Trains every configuration of a grid and writes what each reached: the tables on which samplers and stop rules are compared.

    python tools/record_configurations.py digits nbs/5_experiments/recorded/digits.csv
    python tools/record_configurations.py telco  nbs/5_experiments/recorded/telco.csv --table telco_churn.csv

Digits: scikit-learn's 8x8 images, a network with one hidden layer, accuracy on 30 % of the rows, mean of three splits.
Telco: IBM's customer churn (7,043 rows), gradient-boosted trees, average precision, mean of three splits.
"""
import argparse
import csv
import itertools
import time
import warnings
from pathlib import Path

import numpy as np

GRIDS = {
    "digits": {"learning_rate": [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0], "width": [4, 8, 16, 32, 64],
               "dropout": [0.0, 0.3, 0.6], "weight_decay": [0.0, 0.03, 0.3], "scaling": ["none", "standard"]},
    "telco": {"learning_rate": [0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8], "max_leaf_nodes": [3, 6, 12, 24, 48],
              "min_samples_leaf": [5, 20, 80, 320], "l2_regularization": [0.0, 1.0, 10.0, 100.0], "max_features": [0.2, 1.0]},
}
SPLITS = 3


def digits_trial(data, learning_rate, width, dropout, weight_decay, scaling):
    "Accuracy of a network after 12 epochs"
    import torch
    from torch import nn
    from torch.nn import functional

    accuracies = []
    for train, test in data["splits"]:
        torch.manual_seed(0)
        x, y = data["x"], data["y"]
        mean, scale = (x[train].mean(0), x[train].std(0) + 1e-6) if scaling == "standard" else (0.0, 1.0)
        x = (x - mean) / scale
        model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 10))
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
        for _ in range(12):
            for rows in torch.randperm(len(train)).split(128):
                optimizer.zero_grad()
                functional.cross_entropy(model(x[train[rows]]), y[train[rows]]).backward()
                optimizer.step()
        model.eval()
        with torch.no_grad():
            accuracies.append((model(x[test]).argmax(1) == y[test]).float().mean().item())
    return float(np.mean(accuracies))


def telco_trial(data, **parameters):
    "Average precision of gradient-boosted trees after 60 rounds"
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import average_precision_score

    reached = []
    for train, test in data["splits"]:
        model = HistGradientBoostingClassifier(max_iter=60, early_stopping=False, random_state=0, **parameters)
        model.fit(data["x"][train], data["y"][train])
        reached.append(average_precision_score(data["y"][test], model.predict_proba(data["x"][test])[:, 1]))
    return float(np.mean(reached))


def load(name, table):
    "The rows of a table, and its splits"
    from sklearn.datasets import load_digits
    from sklearn.model_selection import StratifiedShuffleSplit

    if name == "digits":
        import torch

        torch.set_num_threads(1)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    else:
        import pandas

        frame = pandas.read_csv(table).drop(columns="customerID")
        frame["TotalCharges"] = pandas.to_numeric(frame["TotalCharges"], errors="coerce")
        y = (frame.pop("Churn") == "Yes").to_numpy()
        text = frame.select_dtypes(exclude="number").columns
        x = frame.assign(**{each: frame[each].astype("category").cat.codes for each in text}).to_numpy(float)
    parts = StratifiedShuffleSplit(SPLITS, test_size=0.3, random_state=0).split(x, y)
    return {"x": x, "y": y, "splits": list(parts)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=GRIDS)
    parser.add_argument("output", type=Path)
    parser.add_argument("--table", type=Path, help="telco_churn.csv")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    data, grid = load(given.name, given.table), GRIDS[given.name]
    trial = {"digits": digits_trial, "telco": telco_trial}[given.name]
    given.output.parent.mkdir(parents=True, exist_ok=True)
    with given.output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*grid, "value", "duration_s"])
        for values in itertools.product(*grid.values()):
            begin = time.perf_counter()
            value = trial(data, **dict(zip(grid, values)))
            writer.writerow([*values, f"{value:.6f}", f"{time.perf_counter() - begin:.3f}"])
            file.flush()


if __name__ == "__main__":
    main()
