"""Replays sweeps on the recorded tables and writes which rows they tried, one line for each table, method and seed.

    python tools/record_replays.py nbs/5_experiments/recorded

It takes some minutes, nearly all of it the Gaussian process. To be run again whenever the choice of samplers changes.
"""
import argparse
import csv
from pathlib import Path

SEEDS, TRIALS = 20, 150


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the tables are")
    folder = parser.parse_args().folder

    import optuna
    import torch

    from mlops_nb.experiments.recorded_sweeps import read_recorded, replay

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    with (folder / "replays.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["table", "method", "seed", "rows"])
        for name in ("digits", "telco"):
            table = read_recorded(folder / f"{name}.csv")
            for method, seed in ((method, seed) for method in ("random", "bayes") for seed in range(SEEDS)):
                writer.writerow([name, method, seed, " ".join(str(row) for row in replay(table, method, seed, TRIALS))])
                file.flush()


if __name__ == "__main__":
    main()
