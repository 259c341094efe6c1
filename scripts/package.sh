#!/usr/bin/env bash
# Makes packages of what `make build` has built:
#
#   scripts/package.sh deb|rpm|archlinux...     into dist/
#
# keyringd (the daemon and its command line), keyringd-ui (the windows) and
# libkeyringd-pkcs11 (the PKCS #11 module). None of them starts anything, and
# none touches a user's files, when it comes, changes or goes.
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022

dist=$(realpath -m "${DIST:-dist}")
export BIN=${BIN:-bin}
bin=$BIN

# 0.1.0-3-gabcdef of git's becomes 0.1.0+3.gabcdef, which sorts after 0.1.0 for
# every package manager. A tree without a tag is older than any release; the day
# of its commit makes a later one an upgrade, which a hash alone would not.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)} # the same tree makes the same bytes
export SOURCE_DATE_EPOCH
described=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo unknown)}
case $described in
v[0-9]* | [0-9]*.[0-9]*) version=$(sed -E 's/^v//; s/-([0-9]+)-g/+\1.g/; s/-dirty$/.dirty/; s/-/./g' <<<"$described") ;;
*) version=0.0.0+$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d.%H%M%S).$(tr -c 'a-zA-Z0-9\n' . <<<"$described") ;;
esac
arch=$(go env GOARCH)
tripl=$(gcc -dumpmachine | sed -E 's/-(pc|unknown|redhat|suse)-/-/')

nfpm() { go tool -modfile=tools/nfpm.mod nfpm "$@"; }

# A package wants the file of its licence, a Debian package also a changelog in
# Debian's form.
changelog() {
	printf 'keyringd (%s) unstable; urgency=medium\n\n  * What is new is in CHANGELOG.md.\n\n -- %s  %s\n' \
		"$version-1" "$maintainer" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n
}

maintainer='The keyringd maintainers <keyringd@users.noreply.github.com>'

contents() { # every file and link below a folder, as nfpm wants to have them
	(cd "$1" && find . \( -type f -o -type l \) -printf '%P %m %y %l\n' | sort) | while read -r path mode type link; do
		if [ "$type" = l ]; then
			printf '  - {src: "%s", dst: "/%s", type: symlink}\n' "$link" "$path"
		else
			printf '  - {src: "%s/%s", dst: "/%s", file_info: {mode: 0%s, owner: root, group: root}}\n' "$1" "$path" "$path" "$mode"
		fi
	done
}

# package FORMAT NAME SUMMARY TEXT DEPENDS RECOMMENDS SECTION [SUGGESTS]
package() {
	local format=$1 name=$2 tree=$dist/$1/$2 list word
	mkdir -p "$tree/usr/share/doc/$name"
	rm -f "$tree/usr/share/doc/$name/LICENSE"
	case $format in
	deb)
		{
			printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: keyringd\nSource: https://github.com/keyringd/keyringd\n\n'
			printf 'Files: *\nCopyright: %s\nLicense: Expat\n' "$(sed -n 's/^Copyright (c) *//p' LICENSE | head -n 1)"
			sed '1,/^Copyright/d; s/^$/./; s/^/ /' LICENSE | sed '1{/^ \.$/d}'
		} >"$tree/usr/share/doc/$name/copyright"
		changelog >"$tree/usr/share/doc/$name/changelog.Debian.gz"
		if [ "$name" = keyringd ]; then
			mkdir -p "$tree/usr/share/lintian/overrides"
			# Go, without cgo: one file that runs everywhere.
			echo "keyringd: statically-linked-binary" >"$tree/usr/share/lintian/overrides/keyringd"
		fi
		;;
	archlinux) mkdir -p "$tree/usr/share/licenses/$name" && cp LICENSE "$tree/usr/share/licenses/$name/" ;;
	*) cp LICENSE "$tree/usr/share/doc/$name/" ;;
	esac
	chmod -R u=rwX,go=rX "$tree"
	{
		printf 'name: %s\narch: %s\nplatform: linux\nversion: "%s"\nversion_schema: none\nrelease: "1"\nsection: %s\npriority: optional\n' "$name" "$arch" "$version" "$7"
		printf 'maintainer: "%s"\nvendor: keyringd\nhomepage: https://github.com/keyringd/keyringd\n' "$maintainer"
		[ "$format" = deb ] || echo 'license: MIT'
		printf 'mtime: "%s"\n' "$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)"
		printf 'description: |\n  %s\n' "$3"
		fold -s -w 76 <<<"$4" | sed 's/ *$//; s/^/  /'
		for list in "depends:$5" "recommends:$6" "suggests:${8:-}"; do
			[ -n "${list#*:}" ] || continue
			printf '%s:\n' "${list%%:*}"
			for word in ${list#*:}; do printf '  - "%s"\n' "${word//_/ }"; done
		done
		[ "$name" != keyringd ] || [ "$format" != deb ] || printf 'scripts: {postinstall: packaging/deb/postinst, preremove: packaging/deb/prerm}\n'
		printf 'contents:\n'
		contents "$tree"
	} >"$dist/$format/$name.yaml"
	# Of the same package, an older one beside it would be installed by "*.deb", too.
	case $format in
	deb) rm -f "$dist/${name}_"*.deb ;;
	rpm) rm -f "$dist/$name"-[0-9]*.rpm ;;
	archlinux) rm -f "$dist/$name"-[0-9]*.pkg.tar.* ;;
	esac
	nfpm package --packager "$format" --config "$dist/$format/$name.yaml" --target "$dist/"
}

tree() { # FORMAT: the whole tree, then a part of it for each package
	local format=$1 pkcs11 root=$dist/$1/root
	case $format in
	deb) pkcs11=/usr/lib/$tripl/pkcs11 ;;
	rpm) pkcs11=/usr/lib64/pkcs11 ;;
	*) pkcs11=/usr/lib/pkcs11 ;;
	esac
	rm -rf "$dist/$format"
	DESTDIR=$root PREFIX=/usr PKCS11DIR=$pkcs11 P11KIT_FOLDER=1 scripts/install.sh
	if [ "$format" != deb ]; then # Debian's own folder, and its own way to change PAM
		rm -r "$root/usr/share/pam-configs"
		mkdir -p "$root/usr/share/zsh/site-functions"
		mv "$root/usr/share/zsh/vendor-completions/_keyringctl" "$root/usr/share/zsh/site-functions/"
		rmdir "$root/usr/share/zsh/vendor-completions"
	fi
	move "$root" "$dist/$format/libkeyringd-pkcs11" "${pkcs11#/}" usr/share/p11-kit
	move "$root" "$dist/$format/keyringd-ui" usr/bin/keyring-ui usr/share/applications usr/share/metainfo usr/share/icons usr/share/man/man1/keyring-ui.1.gz
	mkdir -p "$dist/$format/keyringd" && mv "$root"/* "$dist/$format/keyringd/" && rmdir "$root"
	find "$dist/$format" -type d -empty -delete
}

move() { # FROM TO PATH...
	local from=$1 to=$2 path
	shift 2
	for path in "$@"; do
		mkdir -p "$to/$(dirname "$path")"
		mv "$from/$path" "$to/$path"
	done
}

summary='keyring daemon: keys in the TPM, ssh-agent, Secret Service, PKCS #11'
text='keyringd keeps the keys and passwords of a login session. Keys wrapped by the machine'\''s TPM cannot be copied, and are used like any other: by ssh and git, over PKCS #11 and over D-Bus. It changes nothing until a user runs "keyringctl setup".'
ui_summary='windows for keyringd: questions, and looking after keys'
ui_text='The window that asks for a PIN, a passphrase or permission, for keyringd, gpg-agent and ssh, and the window for looking after keys and passwords.'
so_summary='PKCS #11 module that shows the keys of keyringd'
so_text='A small module, linked with the C library alone, that shows every key of the running keyringd as a token to the programs that speak PKCS #11. It is registered with p11-kit.'

# The login password comes through gnome-keyring's PAM module. Its package brings
# gnome-keyring along, which is then the keyring of every session: so it is no
# more than suggested, and `keyringctl doctor` says how to have it alone.
[ $# -gt 0 ] || { echo "usage: scripts/package.sh deb|rpm|archlinux..." >&2; exit 2; }
[ -e "$bin/keyring-ui" ] || { echo "package: $bin/keyring-ui is not there; scripts/deps.sh build installs what it needs" >&2; exit 1; }
for format in "$@"; do
	tree "$format"
	case $format in
	deb)
		package deb keyringd "$summary" "$text" '' 'keyringd-ui_|_pinentry dbus-user-session_|_dbus-x11 libkeyringd-pkcs11' utils libpam-gnome-keyring
		package deb keyringd-ui "$ui_summary" "$ui_text" 'libc6_(>=_2.34) libgl1 libx11-6 libwayland-client0 libwayland-cursor0 libwayland-egl1 libxkbcommon0' 'keyringd hicolor-icon-theme' utils
		package deb libkeyringd-pkcs11 "$so_summary" "$so_text" 'libc6_(>=_2.34)' 'keyringd p11-kit' libs
		;;
	rpm)
		package rpm keyringd "$summary" "$text" '' 'keyringd-ui pinentry libkeyringd-pkcs11' Applications/System gnome-keyring-pam
		package rpm keyringd-ui "$ui_summary" "$ui_text" 'libGL.so.1()(64bit) libX11.so.6()(64bit) libwayland-client.so.0()(64bit) libxkbcommon.so.0()(64bit)' keyringd Applications/System
		package rpm libkeyringd-pkcs11 "$so_summary" "$so_text" '' 'keyringd p11-kit' System/Libraries
		;;
	archlinux)
		package archlinux keyringd "$summary" "$text" '' '' ''
		package archlinux keyringd-ui "$ui_summary" "$ui_text" 'glibc libglvnd libx11 wayland libxkbcommon' '' ''
		package archlinux libkeyringd-pkcs11 "$so_summary" "$so_text" glibc '' ''
		;;
	*) echo "package: $format is not deb, rpm or archlinux" >&2; exit 2 ;;
	esac
done
