#!/bin/sh
# Installs what the tests need from the operating system, and nothing that is already there.
# As root on Debian and its kin it installs; elsewhere it says what to install, and fails.
set -eu

# A package, and the commands of which any one will do.
needed() {
    cat <<'END'
chromium chromium chromium-browser google-chrome google-chrome-stable
curl curl
openssl openssl
sqlite3 sqlite3
gcc cc gcc clang
nginx nginx
haproxy haproxy
caddy caddy
prometheus prometheus
prometheus promtool
systemd systemd-analyze
systemd systemctl
libc6-dev cc gcc clang
default-jdk-headless javac
maven mvn
END
}

# A browser in an unusual place is named by its variable instead.
chromium=${HELIOGRAPH_TEST_CHROMIUM:-}
if [ -n "$chromium" ] && [ ! -x "$chromium" ]; then
    echo "HELIOGRAPH_TEST_CHROMIUM names $chromium, which cannot be executed." >&2
    exit 1
fi

present() {
    for command; do
        if command -v "$command" >/dev/null 2>&1; then
            return 0
        fi
    done
    return 1
}

missing() {
    needed | while read -r package commands; do
        if [ "$package" = chromium ] && [ -n "$chromium" ]; then
            continue
        fi
        # shellcheck disable=SC2086 # a list of words
        present $commands || printf ' %s' "$package"
    done
}

packages=$(missing)
if [ -z "$packages" ]; then
    exit 0
fi

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "The tests need$packages, which only root can install here: sudo apt-get install$packages (a Chromium in another place can be named by HELIOGRAPH_TEST_CHROMIUM)" >&2
    exit 1
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list of words
apt-get install -qq --yes --no-install-recommends $packages >/dev/null

packages=$(missing)
if [ -n "$packages" ]; then
    echo "Installed, and still not found:$packages" >&2
    exit 1
fi
