#!/usr/bin/env bash
# Finds every fuzz target of the module and runs each for FUZZTIME (default 30s).
#
#   scripts/fuzz.sh             all of them
#   scripts/fuzz.sh keyfile     those whose package path contains the word
#
# What breaks a target is kept by go under the package's testdata/fuzz, and is
# then a test like any other: commit it together with the mend.
set -euo pipefail
cd "$(dirname "$0")/.."

FUZZTIME=${FUZZTIME:-30s}
only=${1:-}
ran=0
broken=()

# `go test -list` compiles each package's tests, so only those that hold a
# target are asked.
mapfile -t folders < <(grep -rl --include='*_test.go' --exclude-dir=.cache '^func Fuzz' . | sed 's|/[^/]*$||' | sort -u)

for folder in "${folders[@]}"; do
	[[ "$folder" == *"$only"* ]] || continue
	for target in $(go test -list '^Fuzz' "$folder" | grep '^Fuzz'); do
		echo "== $folder $target ($FUZZTIME)"
		ran=$((ran + 1))
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$FUZZTIME" "$folder" || broken+=("$folder $target")
	done
done

if [ ${#broken[@]} -gt 0 ]; then
	printf 'fuzz: broken: %s\n' "${broken[@]}" >&2
	exit 1
fi
if [ "$ran" = 0 ]; then
	echo "fuzz: no target found" >&2
	exit 1
fi
echo "fuzz: $ran targets, none broken"
