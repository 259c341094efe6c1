# keyringd. `make` alone lists what there is to do.

PREFIX ?= /usr/local
FUZZTIME ?= 30s

# What `make build` builds into bin/: a program per folder of cmd/. The window
# needs cgo, the others must not.
PROGRAMS := keyringd keyringctl
WINDOWS := keyring-ui

# From git where there is a history, so that a build says which one it is; a
# tree without one still builds.
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

GO_BUILD := CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)'

# Fyne takes minutes to compile, once: whatever builds it uses these flags (as
# e2e/window does), so that it comes from Go's cache.
UI_TAGS := no_emoji,no_metadata,migrated_fynedo
GO_BUILD_UI := CGO_ENABLED=1 go build -trimpath -buildvcs=false -tags $(UI_TAGS) -ldflags '-s -w -X main.version=$(VERSION)'

.DEFAULT_GOAL := help
.PHONY: deps demo-deps build-deps core module window build run demo test check bench fuzz install package deb rpm archlinux clean help

deps: ## install what is missing on Debian and Ubuntu; elsewhere, name it
	@scripts/deps.sh

build: core window ## build the programs and the PKCS#11 module into bin/

# Where a display's libraries are missing the window is left out, and said so.
window:
	@if pkg-config --exists gl x11 xcursor xrandr xinerama xi xxf86vm xkbcommon wayland-client 2>/dev/null; \
	then $(MAKE) --no-print-directory $(WINDOWS:%=bin/%); \
	else echo "keyring-ui is left out: its libraries are missing; scripts/deps.sh build installs them"; fi

# Without the window, which takes minutes for the first time.
core: $(PROGRAMS:%=bin/%) module

module:
	@$(MAKE) --no-print-directory -C pkcs11/module

# go itself knows what is out of date, so each build asks it.
.PHONY: $(PROGRAMS:%=bin/%) $(WINDOWS:%=bin/%)
$(PROGRAMS:%=bin/%): bin/%:
	$(GO_BUILD) -o $@ ./cmd/$*

$(WINDOWS:%=bin/%): bin/%:
	$(GO_BUILD_UI) -o $@ ./cmd/$*

run: core ## run keyringd on your own ~/.ssh, in the foreground (ARGS=... are its flags)
	@exec bin/keyringd $(ARGS)

demo: demo-deps core ## watch ssh log in with TPM keys: scratch home, software TPM, real sshd
	@scripts/demo.sh

demo-deps:
	@scripts/deps.sh demo

# A package without the window would be half of it.
build-deps:
	@scripts/deps.sh build

test: deps build ## run all tests
	CGO_ENABLED=0 go test -timeout 14m ./...

check: deps build ## gofmt, vet, staticcheck, house and import rules, tests under the race detector
	@scripts/check.sh

bench: deps build ## count TPM commands, measure time and memory beside other programs
	@scripts/bench.sh

fuzz: ## fuzz every decoder for FUZZTIME each (default 30s)
	@FUZZTIME=$(FUZZTIME) scripts/fuzz.sh

# Root builds nothing: sudo's PATH seldom has go, and what root has built the
# user cannot build again.
install: ## install what `make build` has built into DESTDIR/PREFIX (default /usr/local)
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' $(if $(PKCS11DIR),PKCS11DIR='$(PKCS11DIR)') scripts/install.sh

package: build-deps build ## make packages for Debian, Fedora and Arch in dist/
	@VERSION='$(VERSION)' scripts/package.sh deb rpm archlinux

deb: build-deps build ## make Debian packages in dist/
	@VERSION='$(VERSION)' scripts/package.sh deb

rpm: build-deps build ## make RPM packages in dist/
	@VERSION='$(VERSION)' scripts/package.sh rpm

archlinux: build-deps build ## make Arch packages in dist/
	@VERSION='$(VERSION)' scripts/package.sh archlinux

clean: ## remove what was built
	rm -rf bin dist .cache

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
