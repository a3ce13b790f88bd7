#!/bin/sh
# Runs the tests that need a broker on RabbitMQ 4, from a Debian trixie root of its own.
# The root is made once under the cache folder. Needs to be root: debootstrap and chroot do.
set -eu
cd "$(dirname "$0")/.."
root=${CHATBOT_RABBITMQ4_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/chatbot/rabbitmq4}
if [ "$(id -u)" != 0 ]; then
    echo "  not run: RabbitMQ 4 comes from a Debian root made by debootstrap, which must be made as root"
    exit 0
fi
if [ ! -e "$root/made" ]; then
    sh tests/install.sh debootstrap
    echo "  making a Debian trixie root with RabbitMQ 4 in $root (a few minutes) …"
    rm -rf "$root"
    mkdir -p "$root"
    # The package starts no broker there: the tests start theirs.
    debootstrap --variant=minbase --include=rabbitmq-server trixie "$root" >"$root.log" 2>&1 || {
        tail -5 "$root.log" >&2
        exit 1
    }
    touch "$root/made"
fi
[ $# -gt 0 ] || set -- tests/integration tests/faults
CHATBOT_TEST_RABBITMQ_ROOT=$root exec "${PYTEST:-.venv/bin/pytest}" "$@"
