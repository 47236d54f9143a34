#!/bin/sh
# The system packages that Perdure needs: bubblewrap (the cell), libseccomp (the filter), git and sqlite3 (tests, demo).
# Installs what is missing when it may; otherwise says what to install and goes on, so that a machine where somebody
# else installed them needs no root.
set -eu
missing=""
command -v bwrap >/dev/null 2>&1 || missing="$missing bubblewrap"
command -v git >/dev/null 2>&1 || missing="$missing git"
command -v sqlite3 >/dev/null 2>&1 || missing="$missing sqlite3"
ldconfig -p 2>/dev/null | grep -q 'libseccomp\.so\.2' || [ -e /usr/lib/x86_64-linux-gnu/libseccomp.so.2 ] \
    || [ -e /usr/lib/aarch64-linux-gnu/libseccomp.so.2 ] || missing="$missing libseccomp2"
python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || missing="$missing python3-venv"
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "perdure: please install with your package manager:$missing" >&2
    exit 0
fi
if [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    sudo -n apt-get update -qq
    sudo -n env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
else
    echo "perdure: please run as root: apt-get install$missing" >&2
fi
