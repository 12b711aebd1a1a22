#!/bin/sh
# Makes the environment of the Makefile: install.sh FOLDER [EXTRA]
# Chooses MLX's backend, which on Linux is an extra of its own; their wheels overwrite one another's library.
set -eu

venv=$1
extras=${2:-}

# CUDA 13 needs driver 580, CUDA 12 driver 525; an older driver or none means the CPU.
driver_version() {
    if command -v nvidia-smi >/dev/null 2>&1; then
        nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 | cut -d . -f 1
    elif [ -r /proc/driver/nvidia/version ]; then
        sed -n 's/.*Kernel Module[^0-9]*\([0-9][0-9]*\)\..*/\1/p' /proc/driver/nvidia/version | head -n 1
    fi
}

backend() {
    [ "$(uname -s)" = Linux ] || return 0
    driver=$(driver_version)
    case $driver in
        '' | *[!0-9]*) echo cpu ;;
        *) if [ "$driver" -ge 580 ]; then echo cuda13
           elif [ "$driver" -ge 525 ]; then echo cuda12
           else echo cpu
           fi ;;
    esac
}

find_python() {
    for name in python3 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null 2>&1 &&
            "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'; then
            echo "$name"
            return
        fi
    done
}

python=$(find_python)
extras=$(echo "$(backend) $extras" | tr -s ' ' ',' | sed 's/^,//; s/,$//')
package=".${extras:+[$extras]}"
echo "installing into $venv; the first time this takes a minute or more"

if command -v uv >/dev/null 2>&1; then
    [ -x "$venv/bin/python" ] || uv venv --quiet --python "${python:-3.12}" "$venv"
    uv pip install --quiet --python "$venv/bin/python" -e "$package"
else
    if [ -z "$python" ]; then
        echo "pensieve: Python 3.11, 3.12 or 3.13 is needed and none was found" >&2
        exit 1
    fi
    if [ ! -x "$venv/bin/pip" ] && ! "$python" -m venv "$venv"; then
        rm -rf "$venv"
        echo "pensieve: $python cannot make environments; on Debian: apt-get install python3-venv" >&2
        exit 1
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$package"
fi
echo "installed pensieve${extras:+ with $extras} in $venv"
