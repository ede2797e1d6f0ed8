# Sourced by the other scripts: goes to the repository's root and sees to it that .venv holds what requirements/lock.txt
# says. The first run takes about a minute, later ones nothing; a changed lock, a moved repository and an interrupted
# set-up are noticed and put right.

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
root=$(pwd -P)
venv=$root/.venv

say() { printf 'llmgate: %s\n' "$*" >&2; }

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        # ensurepip too: some distributions package it apart, and venv fails without it
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    say "no Python 3.11 or newer with venv and pip was found: install one (on Debian and Ubuntu: python3 and python3-venv)."
    return 1
}

fingerprint() { { cat "$@" && printf '%s' "$root"; } | sha256sum | cut -d ' ' -f 1; }

# Each stamp is written after its step is complete, so that a half-made .venv has none.
is_current() { [[ -f $1 && $(<"$1") == "$2" ]]; }

set_up() {
    local locked installed python
    locked=$(fingerprint requirements/lock.txt)
    installed=$(fingerprint requirements/lock.txt pyproject.toml)
    if ! is_current "$venv/.locked" "$locked" || ! "$venv/bin/python" -c '' 2>/dev/null; then
        python=$(find_python)
        say "making .venv with $python and the packages of requirements/lock.txt (once; about a minute)"
        rm -rf -- "$venv"
        "$python" -m venv "$venv"
        # --no-compile: Python compiles what is imported, a fraction of what is installed
        pip_install --require-hashes --no-compile --requirement requirements/lock.txt
        printf '%s\n' "$locked" >"$venv/.locked"
    fi
    if ! is_current "$venv/.installed" "$installed"; then
        say "installing llmgate into .venv"
        pip_install --no-build-isolation --quiet --editable .
        printf '%s\n' "$installed" >"$venv/.installed"
    fi
}

pip_install() { "$venv/bin/python" -m pip install --no-input --disable-pip-version-check --no-deps "$@" >&2; }

# Two scripts at once: the second waits. Without util-linux's flock they are trusted not to meet.
if command -v flock >/dev/null; then
    exec 9>"$root/.venv.lock"
    flock 9
    set_up
    exec 9>&-
else
    set_up
fi
export PATH=$venv/bin:$PATH
