"""A real JupyterLab and a real browser: notebooks are opened and run as a person does, for tests of panels and their benchmark."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import nbformat
from playwright.sync_api import expect

TOKEN = "a-token-of-this-browser"
KERNEL = {"name": "mlops-nb", "display_name": "Python 3 (mlops_nb, warm)", "language": "python"}
PROGRAM = Path(sys.executable).with_name("mlops-nb")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
SETTINGS = {"@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}}
PATIENCE_MS = 60_000  # of two processors with three tests at a time


@dataclass(frozen=True)
class Lab:
    "A JupyterLab server"
    url: str
    root: Path  # of the workspace
    process: subprocess.Popen

    def call(self, path, method="GET", body=None):
        "What the server answers"
        request = urllib.request.Request(f"{self.url}{path}", method=method, headers={"Authorization": f"token {TOKEN}"},
                                         data=None if body is None else json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or "null")

    def choose_theme(self, theme):
        self.call("lab/api/settings/@jupyterlab/apputils-extension:themes", "PUT", {"raw": json.dumps({"theme": THEMES[theme]})})

    def kernels(self):
        return self.call("api/kernels")


@contextmanager
def start_lab(root, *options, preload="sqlalchemy,anywidget", home=False):
    "`mlops-nb lab` in a workspace, without the panels of Home unless they are wanted; its kernels and settings are its own"
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp", ignore_cleanup_errors=True) as sockets:
        foreign = ("MLOPS_NB_", "PYTEST_", "WANDB_", "MPLBACKEND")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        environ |= {"TMPDIR": sockets, "MLOPS_NB_KERNELS_PRELOAD": preload, "MLOPS_NB_KERNELS_POOL": "1",
                    "MLOPS_NB_KERNELS_IDLE_S": "60", "WANDB_CONFIG_DIR": f"{sockets}/wandb",
                    "PYTHONFAULTHANDLER": "1"}  # a server that has to be aborted says where it was
        environ |= {f"JUPYTER_{name.upper()}_DIR": f"{sockets}/{name}" for name in ("runtime", "config", "data")}
        environ |= {"JUPYTERLAB_WORKSPACES_DIR": f"{sockets}/workspaces", "JUPYTERLAB_SETTINGS_DIR": f"{sockets}/settings"}
        for name, values in SETTINGS.items():
            path = Path(sockets, "settings", f"{name}.jupyterlab-settings")
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(values))
        command = [PROGRAM, "lab", "--no-browser", "--port=0", f"--IdentityProvider.token={TOKEN}",
                   f"--ServerApp.jpserver_extensions=mlops_nb.widgets.home_server={home}", *options]
        with open(f"{sockets}/log", "w") as log:
            process = subprocess.Popen(command, cwd=root, env=environ, stdout=log, stderr=log)
        try:
            yield Lab(wait_for_address(process, f"{sockets}/runtime", f"{sockets}/log"), Path(root), process)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGABRT)
                process.wait(60)
                warnings.warn(f"JupyterLab did not end: {Path(sockets, 'log').read_text()[-10_000:]}", stacklevel=1)
            subprocess.run([PROGRAM, "kernels", "stop"], env=environ, cwd=root, stdout=subprocess.DEVNULL, check=True)


def wait_for_address(process, folder, log):
    "What the server tells of itself; it writes that down a moment before it listens"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
        for path in Path(folder).glob("jpserver-*.json"):
            try:
                url = json.loads(path.read_text())["url"]
                urllib.request.urlopen(urllib.request.Request(f"{url}api/status", headers={"Authorization": f"token {TOKEN}"}), timeout=60)
            except (ValueError, urllib.error.URLError):
                continue
            return url
    raise AssertionError(f"JupyterLab does not start: {Path(log).read_text()}")


def open_notebook(page, lab, *cells, theme="light", name="panel.ipynb"):
    "Opens a notebook of these cells and runs them all; its kernel is new"
    lab.choose_theme(theme)
    for each in lab.call("api/sessions"):
        if each["path"] == name:
            lab.call(f"api/sessions/{each['id']}", "DELETE")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in cells], metadata={"kernelspec": KERNEL})
    nbformat.write(notebook, lab.root / name)
    page.goto(f"{lab.url}lab/tree/{name}?token={TOKEN}&reset")
    page.locator(".jp-Notebook").wait_for()
    page.get_by_text("(mlops_nb, warm) | Idle").wait_for()
    for number in range(len(cells)):
        run_cell(page, number)
    return page


def run_cell(page, number):
    "Runs a cell; JupyterLab does not hear keys in the moment in which it opens a notebook"
    cell = page.locator(".jp-Notebook .jp-CodeCell").nth(number)
    for _ in range(10):
        cell.locator(".jp-InputArea-prompt").click()
        page.keyboard.press("Shift+Enter")
        with suppress(AssertionError):
            return expect(cell.locator(".jp-InputArea-prompt")).not_to_have_text("[ ]:", timeout=3000)
    raise AssertionError("the cell is not run")
