"""Waiting for what another process does: until it is there, and not for a time that is long enough on most machines."""
import time
from pathlib import Path


def wait_until(condition, timeout_s=60):
    "Waits until the condition gives something true, and returns it"
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.02)
    return found


def exists(pid):
    "Whether a process runs; one that has ended and that nobody has waited for does not"
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
