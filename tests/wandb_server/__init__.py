"""A W&B server for tests, on 127.0.0.1 alone: what wandb's own client sends is answered as W&B's server answers it.

It proves the client's side; it is no W&B server. By hand: `cd tests; python -m wandb_server --port 8080 --folder state`.
"""

from .server import IMPATIENT, WandbServer

__all__ = ["IMPATIENT", "WandbServer"]
