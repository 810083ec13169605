#!/usr/bin/env bash
# Install voxcloud into a virtual environment from a lock: every package by hash, then the project itself.
# Usage: install.sh VENV LOCK [--wheel]. With --wheel the project is copied in, otherwise it is linked (editable).
# The Makefile, the Dockerfile and a test use this one script, so that they cannot differ.
set -euo pipefail
venv=$1 lock=$2 mode=${3:-}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
pip=("$venv/bin/python" -m pip --disable-pip-version-check)

"${pip[@]}" install --quiet --require-hashes --requirement "$lock"
# The build backend comes from the lock: nothing is fetched without a hash.
if [ "$mode" = --wheel ]; then
    "${pip[@]}" install --quiet --no-deps --no-build-isolation "$root"
else
    "${pip[@]}" install --quiet --no-deps --no-build-isolation --editable "$root"
fi
