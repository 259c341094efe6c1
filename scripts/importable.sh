#!/usr/bin/env bash
# Turns an ordinary private key into an importable TPM key file: one that only
# the TPM whose storage root key is given can open, made without that TPM.
#
#   scripts/importable.sh SRK.pub KEY.pem >FILE
#
# SRK.pub is the TPM's storage root key as `tpm2_readpublic -o` writes it; it is
# no secret. KEY.pem is an ordinary, unencrypted EC or RSA key. tpm2-tools wraps
# the key, openssl writes the file (type 2.23.133.10.1.4 of the TPM 2.0 key file
# draft). Afterwards KEY.pem still exists: whoever wraps a key that matters
# makes it where it can be forgotten.
set -euo pipefail

if [ $# != 2 ]; then
	sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2
	exit 2
fi
srk=$1 key=$2

umask 077
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

kind=ecc
if grep -q '^modulus:' <<<"$(openssl pkey -in "$key" -noout -text)"; then
	kind=rsa
fi
# Wrapping is arithmetic on the root key's public half: no TPM takes part, and
# the warning that there is none is no news.
if ! tpm2_duplicate --tcti=none -G "$kind" -U "$srk" -k "$key" \
	-u "$dir/public" -r "$dir/private" -s "$dir/seed" >"$dir/said" 2>&1; then
	cat "$dir/said" >&2
	exit 1
fi

hex() { od -An -v -tx1 "$1" | tr -d ' \n'; }

cat >"$dir/asn1" <<EOF
asn1 = SEQUENCE:key
[key]
type = OID:2.23.133.10.1.4
emptyAuth = EXPLICIT:0,BOOLEAN:true
secret = EXPLICIT:2,FORMAT:HEX,OCTETSTRING:$(hex "$dir/seed")
parent = INTEGER:0x40000001
pubkey = FORMAT:HEX,OCTETSTRING:$(hex "$dir/public")
privkey = FORMAT:HEX,OCTETSTRING:$(hex "$dir/private")
EOF
openssl asn1parse -genconf "$dir/asn1" -noout -out "$dir/der"
echo "-----BEGIN TSS2 PRIVATE KEY-----"
openssl base64 -in "$dir/der"
echo "-----END TSS2 PRIVATE KEY-----"
