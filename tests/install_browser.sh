#!/bin/sh
# The browser tests need Chromium and a font with Chinese characters, from the system's packages.
set -eu
if command -v chromium >/dev/null; then exit 0; fi
if ! command -v apt-get >/dev/null; then
    echo "The browser tests need chromium: install it with your system's package manager." >&2
    exit 1
fi
as_root=""
if [ "$(id -u)" -ne 0 ]; then as_root="sudo"; fi
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq
$as_root apt-get install -y -qq --no-install-recommends chromium fonts-noto-cjk >/dev/null
