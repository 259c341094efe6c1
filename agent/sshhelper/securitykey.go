package sshhelper

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/keyringd/keyringd/agent"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

const (
	// skVersion is the version of ssh-sk-helper's protocol (ssh-sk.h, OpenSSH 8.9
	// and later). The helper says so if it has another.
	skVersion = 5
	skError   = 0
	skSign    = 1
)

// Reasons of ssh-sk-helper, as OpenSSH numbers its errors (ssherr.h).
const (
	sshWrongPassphrase = 43
	sshDeviceNotFound  = 60
	sshUnsupported     = 59
)

// SignSK has a security key sign, in a helper that lives as long as that takes:
// the user may have to touch the token.
func (p *Programs) SignSK(ctx context.Context, r agent.SKRequest) ([]byte, error) {
	path, err := find(p.SK, SKHelper)
	if err != nil {
		return nil, err
	}
	key, err := privateForm(r)
	if err != nil {
		return nil, err
	}
	child, err := start(p.Starter, path, p.Environ)
	if err != nil {
		return nil, err
	}
	defer child.close()
	// Version, type, whether to complain on standard error, how much.
	request := binary.BigEndian.AppendUint32([]byte{skVersion}, skSign)
	request = binary.BigEndian.AppendUint32(append(request, 0), 0)
	request = appendString(appendString(appendString(request, key), r.Provider), r.Data)
	request = appendString(request, "") // the algorithm is the key's
	request = binary.BigEndian.AppendUint32(request, 0)
	secretAppend(&request, r.PIN)
	defer clear(request)
	reply, err := child.ask(ctx, request)
	child.log(p.Log)
	if err != nil {
		return nil, err
	}
	d := decoder{rest: reply}
	if version, kind := d.byte(), d.uint32(); d.bad || version != skVersion || kind != skSign {
		if !d.bad && version == skVersion && kind == skError {
			return nil, skFailure(d.uint32())
		}
		return nil, errReply
	}
	sig := append([]byte(nil), d.string()...)
	if d.bad || len(d.rest) != 0 {
		return nil, errReply
	}
	return sig, nil
}

// privateForm is how OpenSSH writes such a key: what the token needs to know.
func privateForm(r agent.SKRequest) ([]byte, error) {
	d := decoder{rest: r.PublicKey}
	if kind := d.string(); string(kind) != r.Type {
		return nil, fmt.Errorf("%w: security key of type %.80q", keyring.ErrUnsupported, kind)
	}
	b := appendString(nil, r.Type)
	switch r.Type {
	case "sk-ssh-ed25519@openssh.com":
		b = appendString(b, d.string())
	case "sk-ecdsa-sha2-nistp256@openssh.com":
		b = appendString(b, d.string()) // the curve
		b = appendString(b, d.string())
	default:
		return nil, fmt.Errorf("%w: security key of type %.80q", keyring.ErrUnsupported, r.Type)
	}
	if d.bad {
		return nil, fmt.Errorf("%w: malformed public key", keyring.ErrUnsupported)
	}
	b = append(appendString(b, r.Application), r.Flags)
	return appendString(appendString(b, r.Handle), ""), nil // reserved
}

func secretAppend(to *[]byte, s secret.Bytes) {
	s.Use(func(b []byte) {
		grown := appendString(append(make([]byte, 0, len(*to)+4+len(b)), *to...), b)
		clear(*to)
		*to = grown
	})
}

func skFailure(reason uint32) error {
	switch reason {
	case sshWrongPassphrase:
		return fmt.Errorf("%w of the security key", keyring.ErrAuthFailed)
	case sshDeviceNotFound:
		return fmt.Errorf("%w: no such security key is plugged in", keyring.ErrUnavailable)
	case sshUnsupported:
		return fmt.Errorf("%w by the security key", keyring.ErrUnsupported)
	}
	return fmt.Errorf("%w: the security key did not sign (OpenSSH's error -%d)", keyring.ErrUnavailable, reason)
}
