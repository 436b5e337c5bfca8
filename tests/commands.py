"""Commands as a user types them, in a folder. Those that run notebooks have a process; the others are called here, which is quicker."""
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from mlops_nb.cli import main

PROGRAM = Path(sys.executable).with_name("mlops-nb")


def invoke(folder, *arguments):
    "Exit status, standard output and standard error"
    words, foreign = list(map(str, arguments)), [name for name in os.environ if name.startswith(("MLOPS_NB_", "WANDB_", "MPLBACKEND"))]
    if words[0] in ("run", "resume", "reproduce", "sweep"):
        environ = {name: value for name, value in os.environ.items() if name not in foreign}
        done = subprocess.run([PROGRAM, *words], cwd=folder, env=environ, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout, done.stderr
    with contextlib.chdir(folder):
        done = CliRunner().invoke(main, words, prog_name="mlops-nb", env=dict.fromkeys(foreign), catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


def call(folder, *arguments, allowed=(0,)):
    "Standard output of a command that ends well"
    status, output, errors = invoke(folder, *arguments)
    assert status in allowed, output + errors
    return output


def read(folder, *arguments):
    "The JSON that a command prints"
    return json.loads(call(folder, *arguments, "--json"))


def refuse(folder, *arguments):
    "Standard output, or else standard error, of a command that ends with exit status 2"
    status, output, errors = invoke(folder, *arguments)
    assert status == 2, output + errors
    return output or errors
