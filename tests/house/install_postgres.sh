#!/usr/bin/env bash
# The tests of the control plane start a real PostgreSQL. Debian's package is installed when it is missing and
# we may; otherwise those tests skip and say so.
set -euo pipefail
if compgen -G "/usr/lib/postgresql/*/bin/postgres" >/dev/null || command -v postgres >/dev/null; then exit 0; fi
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql \
    || echo "PostgreSQL could not be installed: its tests will skip"
else
  echo "PostgreSQL is missing and cannot be installed without root: its tests will skip"
fi
