#!/usr/bin/env bash
# Everything that must hold before a change is landed, cheapest first: gofmt,
# go.mod, vet, staticcheck, shell scripts, the cgo-free build, and all tests
# under the race detector. The import rules and the house rules are tests too:
# arch_test.go and house_test.go.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '== %s\n' "$*"; }

say gofmt
unformatted=$(find . -name '*.go' -not -path './.cache/*' -exec gofmt -l {} +)
if [ -n "$unformatted" ]; then
	printf 'not formatted as gofmt does:\n%s\n' "$unformatted" >&2
	exit 1
fi

say "go.mod says what is used"
go mod tidy -diff

# Fyne's cgo parts take minutes to compile, and once more for each set of flags:
# all but the window's own package is looked at without cgo, and that one with
# the flags of its build.
ui=(-trimpath -buildvcs=false -tags no_emoji,no_metadata,migrated_fynedo)
mapfile -t packages < <(go list ./... | grep -v '/cmd/keyring-ui$')

say "go vet"
CGO_ENABLED=0 go vet "${packages[@]}"
CGO_ENABLED=1 go vet "${ui[@]}" ./cmd/keyring-ui
go vet -tags bench ./bench

say staticcheck
CGO_ENABLED=0 go tool -modfile=tools/go.mod staticcheck "${packages[@]}"
go tool -modfile=tools/go.mod staticcheck -tags bench ./bench

say "shell scripts parse"
for script in scripts/*.sh .ci/run; do
	bash -n "$script"
done

say "builds without cgo"
mapfile -t programs < <(CGO_ENABLED=0 go list -f '{{if .GoFiles}}{{.ImportPath}}{{end}}' "${packages[@]}")
CGO_ENABLED=0 go build -trimpath -buildvcs=false -o /dev/null "${programs[@]}"

# A long file is a smell, not a fault: this only tells.
find . -name '*.go' -not -path './.cache/*' -exec awk 'END { if (NR > 500) printf "note: %s has %d lines; over 500 a reader loses the thread\n", FILENAME, NR }' {} \;

say "tests under the race detector"
# Not e2e/window: what it tests is another process, which make test has seen.
mapfile -t raced < <(printf '%s\n' "${packages[@]}" | grep -v '/e2e/window$')
CGO_ENABLED=1 go test -race -timeout 25m "${raced[@]}"
