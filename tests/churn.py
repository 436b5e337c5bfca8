"Customers of a telephone company who leave sooner when they are new, and models that know it without having learned."
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from mlops_nb.data.datasets import log_dataset, open_dataset
from mlops_nb.data.schema import conform, infer_schema
from mlops_nb.data.splits import split_rows
from mlops_nb.training.encoder import Encoder
from mlops_nb.training.models import log_model
from mlops_nb.training.signature import fit_signature, to_tensors


class Scorer(nn.Module):
    "Log-odds by one layer, with nothing learned: its weights are those of the truth"
    def __init__(self, columns, weights, shift, scale=1.0):
        super().__init__()
        self.register_buffer("weights", torch.tensor([[weights.get(name, 0.0)] for name in columns]))
        self.shift, self.scale = shift, scale

    def forward(self, features):
        margin = features @ self.weights + self.shift
        return margin, margin.sigmoid() * self.scale


def customers(rows, seed=0):
    rng = np.random.default_rng(seed)
    found = pd.DataFrame({"customer": [f"c{seed}-{each}" for each in range(rows)], "tenure": rng.uniform(0, 72, rows),
                          "charge": rng.normal(70, 20, rows), "gender": rng.choice(["f", "m"], rows),
                          "senior": rng.choice([0, 1], rows, p=[0.8, 0.2])})
    return found.assign(leaves=np.where(rng.random(rows) < 1 / (1 + np.exp(0.12 * (found["tenure"] - 30))), "Yes", "No"))


def write_settings(root: Path):
    "A workspace without W&B"
    (root / "settings.ini").write_text("[workspace]\nproject = churn\n[wandb]\nmode = disabled\n")
    torch.set_num_threads(1)


def log_models(run, rows, **models):
    "The dataset `customers`, and models: name -> shift and scale of its scorer"
    table = customers(rows)
    schema = infer_schema(table, "leaves", key=["customer"])
    table = conform(table, schema)
    log_dataset(run, table, schema, split_rows(table, schema), "customers")
    train = open_dataset(run.use_artifact("customers:latest")).table("train")
    signature = fit_signature(train, schema)
    encoder = Encoder(signature, *to_tensors(train, signature))
    for name, (shift, scale) in models.items():
        log_model(run, name, encoder, Scorer(encoder.feature_columns, {"tenure": -2.5}, shift, scale), signature)
