#!/usr/bin/env bash
# Puts what bin/ holds, and the files around it, where a system has them.
#
#   DESTDIR=ROOT PREFIX=/usr PKCS11DIR=/usr/lib/pkcs11 SYSCONFDIR=/etc scripts/install.sh
#
# Nothing of it starts anything by itself: a user turns it on with
# `keyringctl setup`. It touches no user's files.
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022

prefix=${PREFIX:-/usr/local}
root=${DESTDIR:-}$prefix
share=$root/share
pkcs11=${PKCS11DIR:-$prefix/lib/pkcs11}
bin=${BIN:-bin} # where the programs were built

for program in keyringd keyringctl keyringd-pkcs11.so; do
	[ -e "$bin/$program" ] || { echo "install: $bin/$program is not there: run \`make build\` first, as yourself" >&2; exit 1; }
done

put() { # MODE TARGET FILE...: into a folder that is made if need be
	local mode=$1 target=$2
	shift 2
	install -d "$target"
	install -m "$mode" "$@" "$target/"
}

fill() { # TARGET FILE...: like put, with the prefix in the place of /usr
	local target=$1 file
	shift
	install -d "$target"
	for file in "$@"; do
		sed "s|/usr/bin/|$prefix/bin/|g" "$file" >"$target/$(basename "$file")"
		chmod 0644 "$target/$(basename "$file")"
	done
}

put 0755 "$root/bin" "$bin/keyringd" "$bin/keyringctl"
put 0644 "${DESTDIR:-}$pkcs11" "$bin/keyringd-pkcs11.so"
install -d "$share/p11-kit/modules"
# p11-kit finds a module without a path in its own folder.
module=$pkcs11/keyringd-pkcs11.so
if [ "$(pkg-config --variable=p11_module_path p11-kit-1 2>/dev/null || true)" = "$pkcs11" ] || [ -n "${P11KIT_FOLDER:-}" ]; then
	module=keyringd-pkcs11.so
fi
sed "s|^module: .*|module: $module|" packaging/p11-kit/keyringd.module >"$share/p11-kit/modules/keyringd.module"
chmod 0644 "$share/p11-kit/modules/keyringd.module"

fill "$root/lib/systemd/user" packaging/systemd/*
fill "$share/dbus-1/services" packaging/dbus-1/io.github.keyringd.service
# For distributions that make keyringd the keyring of all their users.
fill "$share/keyringd/dbus-1/services" packaging/dbus-1/org.freedesktop.secrets.service
fill "$share/keyringd/autostart" packaging/autostart/keyringd.desktop
put 0644 "$share/xdg-desktop-portal/portals" packaging/portal/keyringd.portal
put 0644 "$share/pam-configs" packaging/pam/keyringd

put 0644 "$share/man/man1" docs/man/keyringd.1
put 0644 "$share/man/man5" docs/man/keyringd.toml.5
put 0644 "$share/man/man7" docs/man/keyringd.7
"$bin/keyringctl" man "$share/man/man1"
install -d "$share/bash-completion/completions" "$share/zsh/vendor-completions" "$share/fish/vendor_completions.d"
"$bin/keyringctl" completion bash >"$share/bash-completion/completions/keyringctl"
"$bin/keyringctl" completion zsh >"$share/zsh/vendor-completions/_keyringctl"
"$bin/keyringctl" completion fish >"$share/fish/vendor_completions.d/keyringctl.fish"

if [ -e "$bin/keyring-ui" ]; then
	put 0755 "$root/bin" "$bin/keyring-ui"
	put 0644 "$share/man/man1" docs/man/keyring-ui.1
	fill "$share/applications" packaging/desktop/io.github.keyringd.desktop
	put 0644 "$share/metainfo" packaging/desktop/io.github.keyringd.metainfo.xml
	put 0644 "$share/icons/hicolor/scalable/apps" packaging/desktop/io.github.keyringd.svg
	put 0644 "$share/icons/hicolor/symbolic/apps" packaging/desktop/io.github.keyringd-symbolic.svg
else
	echo "install: $bin/keyring-ui is not there; its files are left out"
fi

# Manual pages are compressed the same way each time.
find "$share/man" -name '*.[157]' -exec gzip -9nf {} +
put 0644 "$share/doc/keyringd" README.md CHANGELOG.md LICENSE docs/threat-model.md
