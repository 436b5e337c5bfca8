"""JupyterLab's server with the warm kernel: launcher, restart, interrupt, and an end that leaves nothing."""
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import pytest
from mlops_nb.experiments import servers
from mlops_nb.experiments.processes import children_of, process_name
from tornado.websocket import websocket_connect

TOKEN = "a-token-of-these-tests"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "Address of a JupyterLab server in a folder of its own"
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as sockets:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("MLOPS_NB_", "PYTEST_"))}
        environ |= {"TMPDIR": sockets, "MLOPS_NB_KERNELS_PRELOAD": "json", "MLOPS_NB_KERNELS_POOL": "1", "MLOPS_NB_KERNELS_IDLE_S": "60",
                    "JUPYTER_RUNTIME_DIR": f"{sockets}/runtime", "JUPYTER_CONFIG_DIR": f"{sockets}/config"}
        root = tmp_path_factory.mktemp("a workspace")
        options = ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", f"--IdentityProvider.token={TOKEN}"]
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], cwd=root, env=environ,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield wait_for_address(server, f"{sockets}/runtime")
        finally:
            server.terminate()
            server.wait(30)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(tempfile, "tempdir", sockets)
                servers.stop_servers()


def wait_for_address(server, folder):
    "What the server tells of itself; it writes that down a moment before it listens"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        time.sleep(0.1)
        for path in Path(folder).glob("jpserver-*.json"):
            try:
                address = json.loads(path.read_text())["url"]
                call(address, "status")
            except (ValueError, urllib.error.URLError):
                continue
            return address
    raise AssertionError("JupyterLab does not start")


def call(address, path, method="GET", body=None):
    request = urllib.request.Request(f"{address}api/{path}", method=method, headers={"Authorization": f"token {TOKEN}"},
                                     data=None if body is None else json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or "null")


async def execute(connection, code, wait_s=60):
    "What a cell prints"
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "username": "", "session": uuid.uuid4().hex, "version": "5.3"}
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False, "stop_on_error": True}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    await connection.write_message(json.dumps(message))
    text = ""
    while True:
        message = json.loads(await asyncio.wait_for(connection.read_message(), wait_s))
        if message["parent_header"].get("msg_id") != header["msg_id"]:
            continue
        if message["msg_type"] == "stream":
            text += message["content"]["text"]
        if message["msg_type"] == "error":
            text += message["content"]["ename"]
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            return text


async def execute_when_back(connection, code):
    "What a cell prints in a kernel that has just died: asked again until the next kernel answers, for what the dead one was sent is lost"
    for _ in range(12):
        try:
            return await execute(connection, code, wait_s=5)
        except TimeoutError:
            continue
    raise AssertionError("JupyterLab does not start the kernel again")


def test_the_launcher_offers_the_kernel(lab):
    spec = call(lab, "kernelspecs")["kernelspecs"]["mlops-nb"]
    assert spec["spec"]["display_name"] == "Python 3 (mlops_nb, warm)" and "logo-svg" in spec["resources"]


def test_start_interrupt_restart_and_shutdown(lab):
    kernel = call(lab, "kernels", "POST", {"name": "mlops-nb"})["id"]

    async def use():
        connection = await websocket_connect(f"{lab.replace('http', 'ws')}api/kernels/{kernel}/channels?token={TOKEN}")
        first = int(await execute(connection, "import os; x = 1; print(os.getpid())"))
        assert process_name(first) == "mlops-kernel"
        endless = asyncio.create_task(execute(connection, "while True: pass"))
        await asyncio.sleep(1)
        await asyncio.to_thread(call, lab, f"kernels/{kernel}/interrupt", "POST")
        assert await endless == "KeyboardInterrupt"
        await asyncio.to_thread(call, lab, f"kernels/{kernel}/restart", "POST")
        second, known = (await execute(connection, "import os; print(os.getpid(), 'x' in dir())")).split()
        assert int(second) != first and known == "False"
        os.kill(int(second), 9)  # JupyterLab starts it again
        third = int(await execute_when_back(connection, "import os; print(os.getpid())"))
        connection.close()
        return first, int(second), third

    pids = asyncio.run(use())
    assert len(set(pids)) == 3
    call(lab, f"kernels/{kernel}", "DELETE")
    with pytest.raises(urllib.error.HTTPError):
        call(lab, f"kernels/{kernel}")
    assert not [each for each in pids if each in children_of(1) and process_name(each) == "mlops-kernel"]
