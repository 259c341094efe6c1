#!/usr/bin/env bash
# Measures keyringd side by side with the peers that are installed, in one run,
# and prints tables. Times are for reading; no time makes this fail.
#
#   scripts/bench.sh            everything
#   scripts/bench.sh TestList   one table
set -euo pipefail
# In the package's own folder go test shows what the tests print.
cd "$(dirname "$0")/../bench"

export KEYRINGD_TEST_REQUIRE=1
go test -tags bench -count=1 -timeout 30m -run "${1:-.}"
