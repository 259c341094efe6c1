package dbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

const (
	// maxSecret is more than any TPM seals: TPM 2.0 Library Part 2,
	// "TPM2B_SENSITIVE_DATA".
	maxSecret = 4096
	// privateTimeout is how long a caller may take on its own socket. It has what
	// it wants to seal before it calls.
	privateTimeout = 10 * time.Second
)

func (c *call) sealer() (keyring.FileSealer, error) {
	if err := c.files(); err != nil {
		return nil, err
	}
	if s := c.bus.server.FileSealer; s != nil {
		return s, nil
	}
	return nil, errNoTPM
}

// seal is Keys1.Seal.
func (c *call) seal(path, socket string, options map[string]godbus.Variant) (properties, error) {
	o := readOptions(options)
	r := keyring.SealRequest{Caller: c.caller, Target: o.target(c)}
	o.place(&r.Target)
	r.Path = o.path("path", path)
	socket = o.path("socket", socket)
	if r.Comment != "" {
		o.wrong("a sealed file has no comment")
	}
	if err := o.end(); err != nil {
		return nil, err
	}
	sealer, err := c.sealer()
	if err != nil {
		return nil, err
	}
	conn, err := c.private(socket)
	if err != nil {
		return nil, err
	}
	r.Data, err = readSecret(conn)
	_ = conn.Close()
	if err != nil {
		return nil, err
	}
	defer r.Data.Wipe()
	made, err := sealer.SealFile(c.ctx, r)
	return c.made(made), err
}

// unseal is Keys1.Unseal.
func (c *call) unseal(path, socket string) error {
	o := readOptions(nil)
	r := keyring.UnsealRequest{Caller: c.caller, Path: o.path("path", path)}
	socket = o.path("socket", socket)
	if err := o.end(); err != nil {
		return err
	}
	sealer, err := c.sealer()
	if err != nil {
		return err
	}
	// Nobody is asked for a PIN before it is clear where the secret would go.
	conn, err := c.private(socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	plain, err := sealer.UnsealFile(c.ctx, r)
	if err != nil {
		return err
	}
	defer plain.Wipe()
	if err := conn.SetDeadline(time.Now().Add(privateTimeout)); err != nil {
		return badArgument("socket: %v", err)
	}
	plain.Use(func(b []byte) { _, err = conn.Write(b) })
	if err != nil {
		return badArgument("socket: %v", err)
	}
	return nil
}

// private connects to a socket of the caller's own, and of nobody else's: what
// a program may not connect to itself, it must not reach through us.
func (c *call) private(path string) (*net.UnixConn, error) {
	ctx, cancel := context.WithTimeout(c.ctx, privateTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		if c.ctx.Err() != nil {
			return nil, c.ctx.Err()
		}
		return nil, badArgument("socket: %v", err)
	}
	u := conn.(*net.UnixConn)
	// The kernel names whoever called listen.
	peer, err := caller.FromConn(u)
	if err != nil || peer.UID != uint32(os.Geteuid()) || peer.PID == 0 || peer.PID != c.caller.PID {
		_ = u.Close()
		return nil, errNotOwn
	}
	return u, nil
}

// readSecret reads to the end of a connection.
func readSecret(conn *net.UnixConn) (secret.Bytes, error) {
	if err := conn.SetReadDeadline(time.Now().Add(privateTimeout)); err != nil {
		return secret.Bytes{}, badArgument("socket: %v", err)
	}
	buffer := make([]byte, maxSecret+1)
	defer clear(buffer)
	n, err := io.ReadFull(conn, buffer)
	switch {
	case err == nil:
		return secret.Bytes{}, fmt.Errorf("%w: more than %d bytes to seal", errLimit, maxSecret)
	case n == 0 && errors.Is(err, io.EOF):
		return secret.Bytes{}, badArgument("there is nothing to seal")
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return secret.Bytes{}, badArgument("socket: %v", err)
	}
	return secret.Copy(buffer[:n]), nil
}
