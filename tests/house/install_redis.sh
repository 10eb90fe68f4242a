#!/usr/bin/env bash
# The tests of the shared cache of logits start a real Redis. Debian's package is installed when it is missing and we
# may, without starting its service; otherwise those tests skip and say so.
set -euo pipefail
if command -v redis-server >/dev/null || command -v valkey-server >/dev/null; then exit 0; fi
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server \
    || echo "Redis could not be installed: its tests will skip"
else
  echo "Redis is missing and cannot be installed without root: its tests will skip"
fi
