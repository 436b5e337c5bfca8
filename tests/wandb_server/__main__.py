"""The server by hand: `python -m wandb_server --port 8080 --folder state`, until Ctrl-C or SIGTERM."""

import argparse
import signal
import threading
from contextlib import suppress

from . import WandbServer

parser = argparse.ArgumentParser(description="A W&B server for tests, on 127.0.0.1 alone.")
parser.add_argument("--port", type=int, default=8080)
parser.add_argument("--folder", help="where its state is kept")
arguments = parser.parse_args()
signal.signal(signal.SIGTERM, signal.default_int_handler)
with WandbServer(arguments.folder, arguments.port) as server, suppress(KeyboardInterrupt):
    for name, value in server.environ.items():
        print(f"export {name}={value}", flush=True)
    threading.Event().wait()
