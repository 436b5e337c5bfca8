"""Install nbdev's git hooks into this clone: merge and diff drivers for notebooks, and the trust hook after a merge.

`nbdev-install-hooks` also writes a save hook into the user's own `~/.jupyter`; here it works on a temporary home instead, so
that notebooks outside this repository stay as their owners save them. Its commands need an activated environment; here they
are rewritten to the environment's path, with git's own behaviour where that environment is gone or cannot read a notebook.
"""
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = Path(sys.prefix) / "bin"


def git_config(key, value):
    subprocess.run(["git", "config", "--file", str(ROOT / ".gitconfig"), key, value], check=True)


def shell(command, script):
    "A command for git's configuration: `command` with the environment's `script` as $0 and git's arguments as $1 and on"
    return f"sh -c {shlex.quote(command)} {shlex.quote(str(SCRIPTS / script))}"


def main():
    if not (ROOT / ".git").is_dir():
        return print("No .git folder here: git hooks are left out.")
    hook = ROOT / ".git" / "hooks" / "post-merge"
    own_hook = hook.read_bytes() if hook.exists() and b"nbdev-trust" not in hook.read_bytes() else None
    with tempfile.TemporaryDirectory() as home:
        environ = dict(os.environ, HOME=home, XDG_CONFIG_HOME=f"{home}/.config")
        user_config = Path.home() / ".gitconfig"
        if user_config.exists() and "GIT_CONFIG_GLOBAL" not in environ:
            environ["GIT_CONFIG_GLOBAL"] = str(user_config)
        subprocess.run([SCRIPTS / "nbdev-install-hooks"], cwd=ROOT, env=environ, check=True, stdout=subprocess.DEVNULL)
    merge = 'if [ -x "$0" ]; then exec "$0" "$@"; else git merge-file "$2" "$1" "$3"; fi'
    git_config("merge.jupyternotebook.driver", shell(merge, "nbdev-merge") + " %O %A %B %P")
    git_config("diff.jupyternotebook.command", shell('"$0" "$@" 2>/dev/null || diff -u "$2" "$5" || true', "nbdev-diff-driver"))
    trust = shlex.quote(str(SCRIPTS / "nbdev-trust"))
    hook.write_bytes(own_hook or f"#!/bin/sh\n[ ! -x {trust} ] || {trust}\n".encode())
    print("Git hooks for notebooks are installed in this clone.")


if __name__ == "__main__":
    main()
