#!/usr/bin/env bash
# Shows keyringd at work, with nothing but real programs around it: a software
# TPM, key files made by tpm2-openssl and tpm2-tools, a real sshd on loopback,
# ssh, and git. It uses a home of its own and leaves nothing behind.
#
# It exits with 0 only when every step did what it says. A step that fails is
# named, with what the programs had to say.
set -Eeuo pipefail
cd "$(dirname "$0")/.."
umask 077

keyringd=$PWD/bin/keyringd
keyringctl=$PWD/bin/keyringctl
scripts=$PWD/scripts
# Socket paths are short on Linux, so the home lies where its name is short.
home=$(mktemp -d /tmp/kr.XXXXXX)
export HOME=$home XDG_CONFIG_HOME=$home/config XDG_STATE_HOME=$home/state XDG_RUNTIME_DIR=$home/xdg
mkdir "$XDG_RUNTIME_DIR"
export GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0 LC_ALL=C.UTF-8
unset SSH_AUTH_SOCK SSH_ASKPASS DISPLAY WAYLAND_DISPLAY NOTIFY_SOCKET LISTEN_FDS LISTEN_PID "${!GIT_CONFIG_@}"
export GIT_CONFIG_NOSYSTEM=1
PATH=$PATH:/usr/sbin:/sbin

pin=tulip-4711-canary
user=$(id -un)
pids=()
number=0
step="getting ready"

step() {
	step=$1
	number=$((number + 1))
	printf '\n%d. %s\n' "$number" "$step"
}
does() { printf '   %s\n' "$*"; }
proves() { printf '   => %s\n' "$*"; }
quote() { sed 's/^/   | /'; }
refuse() { # what went wrong
	printf '   !! %s\n' "$*" >&2
	return 1
}

failed() {
	trap - ERR
	printf '\nmake demo FAILED in step %d: %s (line %s)\n' "$number" "$step" "$1" >&2
	for log in "$home"/*.log; do
		[ -s "$log" ] || continue
		printf '%s said last:\n' "$(basename "$log" .log)" >&2
		tail -n 15 "$log" | quote >&2
	done
}
trap 'failed $LINENO' ERR

cleanup() {
	local status=$?
	trap - ERR EXIT
	set +e
	for pid in "${pids[@]}"; do
		kill "$pid" 2>/dev/null
	done
	wait 2>/dev/null
	rm -rf "$home"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

# until_true WHAT COMMAND...: waits at most 20 s for the command to succeed.
until_true() {
	local what=$1 tries
	shift
	for ((tries = 0; tries < 400; tries++)); do
		if "$@" >/dev/null 2>&1; then return 0; fi
		sleep 0.05
	done
	refuse "$what did not come within 20 s"
}

# start NAME COMMAND...: runs a program in the background, its words in NAME.log.
start() {
	local name=$1
	shift
	"$@" >"$home/$name.log" 2>&1 </dev/null &
	pids+=($!)
}

# new_tpm NAME: a software TPM with a storage root key at 0x81000001, where a
# machine's own set-up puts it.
new_tpm() {
	local name=$1
	mkdir "$home/$name.state"
	start "$name" swtpm socket --tpm2 --tpmstate "dir=$home/$name.state" \
		--server "type=unixio,path=$home/$name" --ctrl "type=unixio,path=$home/$name.ctrl" \
		--flags not-need-init,startup-clear
	until_true "the software TPM" test -S "$home/$name"
	use_tpm "$name"
	tpm2_createprimary -Q -C o -G ecc -g sha256 -c "$home/srk.context" \
		-a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt'
	tpm2_evictcontrol -Q -C o -c "$home/srk.context" 0x81000001
	tpm2_flushcontext -t
	tpm2_readpublic -Q -c 0x81000001 -o "$home/$name.srk"
}

# use_tpm SOCKET: what tpm2-tools and tpm2-openssl speak to from now on.
use_tpm() { export TPM2TOOLS_TCTI="swtpm:path=$home/$1" TPM2OPENSSL_TCTI="swtpm:path=$home/$1"; }

tpm_openssl() { openssl "$@" -provider tpm2 -provider default </dev/null 2>>"$home/openssl.log"; }

# new_key FOLDER NAME WHAT OPTION...: has tpm2-openssl make a key file, and
# lets its public half in.
new_key() {
	local folder=$1 name=$2 what=$3
	shift 3
	tpm_openssl genpkey "$@" -out "$folder/$name"
	tpm2_flushcontext -t
	tpm_openssl pkey -in "$folder/$name" -passin "pass:$pin" -pubout -out "$home/$name.spki"
	tpm2_flushcontext -t
	let_in "$name"
	does "$(printf '%-12s %s' "$name" "$what")"
}

# let_in NAME: sshd accepts the key from now on.
let_in() {
	ssh-keygen -i -m PKCS8 -f "$home/$1.spki" >"$home/$1.pub"
	cat "$home/$1.pub" >>"$home/authorized_keys"
}

# new_daemon NAME TPM FOLDER [BUS]: starts keyringd, and waits until it serves.
new_daemon() {
	local name=$1 tpm=$2 folder=$3 bus=${4:-none}
	"$keyringd" --tpm "unix:$home/$tpm" --key-dir "$folder" \
		--runtime-dir "$home/run.$name" --data-dir "$home/data.$name" \
		--prompter "pinentry:$home/pinentry" --bus "$bus" \
		>"$home/$name.out" 2>"$home/$name.log" </dev/null &
	daemon=$!
	pids+=("$daemon")
	until_true "keyringd" grep -q '^export SSH_AUTH_SOCK=' "$home/$name.out"
	export SSH_AUTH_SOCK=$home/run.$name/ssh
}

# login NAME: logs in with that key and no other.
login() {
	ssh -F none -p "$port" -i "$home/$1.pub" \
		-o IdentityAgent="$SSH_AUTH_SOCK" -o IdentitiesOnly=yes -o BatchMode=yes \
		-o UserKnownHostsFile="$home/known_hosts" -o LogLevel=ERROR -o ConnectTimeout=20 \
		"$user@127.0.0.1" 'echo in' </dev/null 2>>"$home/ssh.log"
}

must_login() {
	local answer
	answer=$(login "$1") || refuse "ssh did not log in with $1"
	[ "$answer" = in ] || refuse "the session with $1 said '$answer'"
}

asked() { grep -c '^GETPIN' "$home/asked" || true; }

echo "keyringd, from key file to login. Home: $home"

step "A machine with a TPM (software TPM: swtpm)"
new_tpm tpm
does "storage root key at 0x81000001, put there by tpm2-tools"

step "A user with key files in ~/.ssh, made by other people's tools"
mkdir "$home/.ssh"
new_key "$home/.ssh" p256 "EC P-256, no PIN" -algorithm EC -pkeyopt group:P-256
new_key "$home/.ssh" p256-pin "EC P-256, with a PIN" -algorithm EC -pkeyopt group:P-256 -pkeyopt "user-auth:$pin"
new_key "$home/.ssh" p384 "EC P-384, no PIN" -algorithm EC -pkeyopt group:P-384
new_key "$home/.ssh" p384-pin "EC P-384, with a PIN" -algorithm EC -pkeyopt group:P-384 -pkeyopt "user-auth:$pin"
new_key "$home/.ssh" rsa "RSA 2048, no PIN" -algorithm RSA -pkeyopt bits:2048
new_key "$home/.ssh" rsa-pin "RSA 2048, with a PIN" -algorithm RSA -pkeyopt bits:2048 -pkeyopt "user-auth:$pin"
new_key "$home/.ssh" persistent "EC P-256 under the persistent parent 0x81000001" -algorithm EC -pkeyopt group:P-256 -pkeyopt parent:0x81000001
openssl ecparam -name prime256v1 -genkey -noout -out "$home/plain" 2>>"$home/openssl.log"
openssl pkey -in "$home/plain" -pubout -out "$home/importable.spki"
"$scripts/importable.sh" "$home/tpm.srk" "$home/plain" >"$home/.ssh/importable"
rm "$home/plain"
let_in importable
does "importable   EC P-256, wrapped for this TPM by tpm2-tools without touching it"
head -n 2 "$home/.ssh/p256" | cut -c 1-60 | quote
keys=(p256 p256-pin p384 p384-pin rsa rsa-pin persistent importable)
proves "no private key is readable in these files: only this TPM can open them"

step "What another tool does with a PIN (for comparison)"
start relay-openssl socat -r "$home/openssl.bus" -R /dev/null "UNIX-LISTEN:$home/tap,fork" "UNIX-CONNECT:$home/tpm"
until_true "the relay" test -S "$home/tap"
ln -s tpm.ctrl "$home/tap.ctrl" # the tools also look for a control socket
use_tpm tap
printf 'to be signed' | openssl dgst -sha256 -binary >"$home/digest"
tpm_openssl pkeyutl -sign -inkey "$home/.ssh/p256-pin" -passin "pass:$pin" -in "$home/digest" -out "$home/signature"
grep -qaF "$pin" "$home/openssl.bus" || refuse "the relay did not see the PIN, so it would not see keyringd's either"
use_tpm tpm
tpm2_flushcontext -t
does "a relay before the TPM recorded one signature by tpm2-openssl"
proves "its PIN crossed the TPM's bus in clear, and the relay sees such a thing"

step "keyringd starts, with a relay before the TPM and a scripted pinentry"
cat >"$home/pinentry" <<'PINENTRY'
#!/bin/sh
# Notes what it is told, and gives the PIN that lies beside it.
dir=$(dirname "$0")
echo "OK ready"
while IFS= read -r line; do
	printf '%s\n' "$line" >>"$dir/asked"
	case $line in
	GETPIN*) printf 'D %s\nOK\n' "$(cat "$dir/pin")" ;;
	BYE*) echo OK; exit 0 ;;
	*) echo OK ;;
	esac
done
PINENTRY
chmod 0700 "$home/pinentry"
printf '%s\n' "$pin" >"$home/pin"
: >"$home/asked"
: >"$home/keyringd.bus"
start relay-keyringd socat -r "$home/keyringd.bus" -R "$home/keyringd.bus" "UNIX-LISTEN:$home/bus,fork" "UNIX-CONNECT:$home/tpm"
until_true "the relay" test -S "$home/bus"
new_daemon keyringd bus "$home/.ssh"
quote <"$home/keyringd.out"
ssh-add -l | quote
ssh-add -L >"$home/listed"
[ "$(wc -l <"$home/listed")" = "${#keys[@]}" ] || refuse "not every key is listed, or more than those"
for key in "${keys[@]}"; do
	grep -qF "$(cut -d ' ' -f 1,2 "$home/$key.pub")" "$home/listed" || refuse "$key is not listed"
done
[ ! -s "$home/keyringd.bus" ] || refuse "the TPM was used"
[ "$(asked)" = 0 ] || refuse "somebody was asked"
proves "every key is there; listing them sent the TPM nothing and asked nobody"

step "ssh logs in to a real sshd with each key"
[ "$(id -u)" != 0 ] || install -d -m 0755 /run/sshd # where the service would have made it
ssh-keygen -q -t ed25519 -N '' -f "$home/host"
pam=no
# sshd lets nobody into an account whose password begins with '!', unless PAM says so.
if [ "$(id -u)" = 0 ] && [[ $(getent shadow root | cut -d : -f 2) == '!'* ]]; then pam=yes; fi
cat >"$home/sshd_config" <<EOF
ListenAddress 127.0.0.1
HostKey $home/host
AuthorizedKeysFile $home/authorized_keys
PidFile none
StrictModes no
UsePAM $pam
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
LogLevel VERBOSE
EOF
greets() { [[ $(timeout 5 bash -c "exec 3<>/dev/tcp/127.0.0.1/$1 && head -c 4 <&3") == SSH- ]]; }
sshd_up() { # until it found a port that was free
	kill -0 "$sshd" 2>/dev/null && greets "$port"
}
for try in 1 2 3 4 5; do
	port=$((20000 + RANDOM % 12000))
	if greets "$port" 2>/dev/null; then continue; fi
	start sshd "$(command -v sshd)" -D -e -p "$port" -f "$home/sshd_config"
	sshd=$!
	if until_true "sshd (try $try)" sshd_up; then break; fi
done
printf '[127.0.0.1]:%s %s\n' "$port" "$(cat "$home/host.pub")" >"$home/known_hosts"
for key in "${keys[@]}"; do
	before=$(asked)
	must_login "$key"
	must_login "$key"
	count=$(($(asked) - before))
	case $key in
	*-pin)
		[ "$count" = 1 ] || refuse "$count prompts for two logins with $key, not 1"
		does "$(printf '%-12s logged in twice; asked for the PIN once' "$key")"
		;;
	*)
		[ "$count" = 0 ] || refuse "$count prompts for $key, which has no PIN"
		does "$(printf '%-12s logged in twice; asked nothing' "$key")"
		;;
	esac
done
accepted=$(grep -c 'Accepted publickey' "$home/sshd.log")
[ "$accepted" = $((2 * ${#keys[@]})) ] || refuse "sshd accepted $accepted logins"
does "the prompt said:"
grep -m 2 -E '^SET(DESC|PROMPT) ' "$home/asked" | while IFS= read -r line; do
	line=${line#SET* }
	printf '%b\n' "${line//%/\\x}"
done | quote
proves "sshd accepted $accepted signatures; the private keys never left the TPM"

step "git signs a commit with a TPM key"
repo=$home/repo
git init -q -b main "$repo"
printf 'mia@example.org %s\n' "$(cat "$home/p256-pin.pub")" >"$home/allowed"
git -C "$repo" config user.name Mia
git -C "$repo" config user.email mia@example.org
git -C "$repo" config gpg.format ssh
git -C "$repo" config user.signingkey "$home/p256-pin.pub"
git -C "$repo" config gpg.ssh.allowedSignersFile "$home/allowed"
echo "signed by the TPM" >"$repo/note"
git -C "$repo" add note
git -C "$repo" commit -q -S -m "A signed note" 2>>"$home/git.log"
git -C "$repo" verify-commit HEAD >"$home/verified" 2>&1
grep -qF 'Good "git" signature for mia@example.org' "$home/verified" || refuse "$(cat "$home/verified")"
quote <"$home/verified"
proves "git commit -S and git verify-commit work as with any ssh key"

step "What crossed the TPM's bus"
[ -s "$home/keyringd.bus" ] || refuse "the relay recorded nothing"
if grep -qaF "$pin" "$home/keyringd.bus"; then refuse "the PIN is in the recording"; fi
does "the relay recorded $(wc -c <"$home/keyringd.bus") bytes both ways, for all of the above"
proves "the PIN is not among them"

step "Passwords: applications keep them here, and the TPM unlocks them"
kill -TERM "$daemon"
wait "$daemon" || refuse "keyringd ended with status $?"
export DBUS_SESSION_BUS_ADDRESS=unix:path=$home/session
# A bus that starts nobody: no keyring that this machine has installed.
cat >"$home/bus.conf" <<-EOF
	<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
	<busconfig><type>session</type><listen>$DBUS_SESSION_BUS_ADDRESS</listen><auth>EXTERNAL</auth>
	<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>
EOF
start dbus dbus-daemon --config-file="$home/bus.conf" --nofork --nopidfile
until_true "the session bus" test -S "$home/session"
served() { "$keyringctl" keyring list; }
new_daemon vault tpm "$home/.ssh" session
until_true "keyringd on the bus" served
before=$(asked)
printf 'correct horse' | secret-tool store --label='Mail' account mia 2>>"$home/secret-tool.log"
[ "$(secret-tool lookup account mia)" = 'correct horse' ] || refuse "the password is not found"
[ "$(asked)" -gt "$before" ] || refuse "nobody was asked for a passphrase for the keyring"
does "secret-tool, as any program on libsecret, stored one; the keyring got a passphrase"
"$keyringctl" keyring slot add login tpm | quote
if grep -rqaF 'correct horse' "$home/data.vault"; then refuse "the password is readable on disk"; fi
kill -TERM "$daemon"
wait "$daemon" || refuse "keyringd ended with status $?"
before=$(asked)
new_daemon vault tpm "$home/.ssh" session
until_true "keyringd on the bus" served
[ "$(secret-tool lookup account mia)" = 'correct horse' ] || refuse "the password is not found after a restart"
[ "$(asked)" = "$before" ] || refuse "somebody was asked"
does "after a restart, as after a login with a fingerprint, the password is there at once"
kill -TERM "$daemon"
wait "$daemon" || refuse "keyringd ended with status $?"
proves "on disk it is not readable, and with this TPM nothing was asked"

step "A thief with the key files, the PIN and a TPM of his own"
new_tpm other
mkdir "$home/stolen"
cp "$home"/.ssh/* "$home/stolen/"
new_key "$home/stolen" his-own "EC P-256, the thief's own" -algorithm EC -pkeyopt group:P-256
new_daemon thief other "$home/stolen"
must_login his-own
does "his-own      logged in: this keyringd, TPM and sshd work"
for key in "${keys[@]}"; do
	if login "$key" >/dev/null; then refuse "the stolen $key logged in"; fi
	does "$(printf '%-12s refused' "$key")"
done
noted=$(grep -c 'key not used' "$home/thief.log")
[ "$noted" -ge "${#keys[@]}" ] || refuse "keyringd noted $noted refusals only: sshd refused the others for a reason of its own"
grep -m 1 'key not used' "$home/thief.log" | sed 's/.*err=/err=/' | quote
proves "on any other TPM the files are of no use, PIN or not"

step "keyringd ends"
kill -TERM "$daemon"
wait "$daemon" || refuse "keyringd ended with status $?"
[ ! -e "$SSH_AUTH_SOCK" ] || refuse "it left its socket"
proves "it exits with 0 and takes its socket with it"

printf '\nmake demo: all %d steps did what they say.\n' "$number"
