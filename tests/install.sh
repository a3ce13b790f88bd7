#!/bin/sh
# Installs the named system packages where their program is missing (Debian, Ubuntu).
set -eu
missing=
for package in "$@"; do
    case $package in
        python3-venv) missing="$missing $package" ;;
        chromium) command -v chromium >/dev/null || command -v chromium-browser >/dev/null ||
            command -v google-chrome >/dev/null || missing="$missing chromium" ;;
        *) command -v "$package" >/dev/null || missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0
echo "  installing$missing …"
if ! command -v apt-get >/dev/null; then
    echo "  please install:$missing (no apt-get here)" >&2
    exit 1
fi
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
# The tests start servers of their own; the packages need not start theirs.
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
$sudo apt-get update -qq
# shellcheck disable=SC2086  # one word a package
$sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null
