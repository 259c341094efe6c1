package client

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"

	godbus "github.com/godbus/dbus/v5"
)

// Asking is the step at which the user is being asked, so that the screen is
// theirs.
const Asking = "waiting for your answer"

// A Target is what to make, and where. The interface file explains it.
type Target struct {
	Path    string // absolute; a bare name is in the first key folder, except of what Wrap makes
	Force   bool
	Comment string
	NoPIN   bool
	PCRs    string
	Parent  uint32

	// Progress is called with what the daemon is at, on the goroutine that reads
	// the bus, so that it returns soon. Nil: nobody wants to know.
	Progress func(step string)
}

func (t Target) options() map[string]godbus.Variant {
	o := map[string]godbus.Variant{}
	set(o, "force", t.Force)
	set(o, "comment", t.Comment)
	set(o, "no-pin", t.NoPIN)
	set(o, "pcrs", t.PCRs)
	set(o, "parent", t.Parent)
	return o
}

// set sets an option that is not the zero value.
func set[T comparable](o map[string]godbus.Variant, name string, value T) {
	if value != *new(T) {
		o[name] = godbus.MakeVariant(value)
	}
}

// A Creation is what Create makes.
type Creation struct {
	Target
	Algorithm string // "": the usual one
	Request          // what the new key signs a certificate request for; empty: it signs none
}

// A Request is what a certificate is requested for.
type Request struct {
	Subject          string   // RFC 4514
	AlternativeNames []string // hosts, addresses, mail addresses, URIs
}

// Empty reports whether it is for nothing.
func (r Request) Empty() bool { return r.Subject == "" && len(r.AlternativeNames) == 0 }

func (r Request) add(o map[string]godbus.Variant) {
	set(o, "subject", r.Subject)
	if len(r.AlternativeNames) > 0 {
		o["alternative-names"] = godbus.MakeVariant(r.AlternativeNames)
	}
}

// RequestCertificate has a key sign a certificate request, and returns its DER.
func (c *Client) RequestCertificate(ctx context.Context, id string, r Request) ([]byte, error) {
	o := map[string]godbus.Variant{}
	r.add(o)
	var der []byte
	err := c.call(ctx, File{ID: id}.object(), keyIface, "RequestCertificate", []any{o}, &der)
	return der, err
}

// Made is what was made.
type Made struct {
	ID                 string   `json:"id"`
	Path               string   `json:"path"`
	PublicPath         string   `json:"public_path,omitempty"`
	PublicKey          string   `json:"public_key,omitempty"` // OpenSSH's line
	Listed             bool     `json:"listed"`               // the daemon offers it already
	CertificateRequest []byte   `json:"-"`                    // DER
	Notes              []string `json:"notes,omitempty"`      // what the user must know
}

// make calls a method that makes something.
func (c *Client) make(ctx context.Context, t func(string), at godbus.ObjectPath, iface, member string, args ...any) (Made, error) {
	var p map[string]godbus.Variant
	if err := c.follow(ctx, t, at, iface, member, args, &p); err != nil {
		return Made{}, err
	}
	var m Made
	m.ID, _ = p["ID"].Value().(string)
	m.Path, _ = p["Path"].Value().(string)
	m.PublicPath, _ = p["PublicPath"].Value().(string)
	m.PublicKey, _ = p["PublicKey"].Value().(string)
	_, m.Listed = p["Key"].Value().(godbus.ObjectPath)
	m.CertificateRequest, _ = p["CertificateRequest"].Value().([]byte)
	m.Notes, _ = p["Notes"].Value().([]string)
	return m, nil
}

// Create makes a new key. If ctx ends, and the connection is closed, nothing is
// made.
func (c *Client) Create(ctx context.Context, r Creation) (Made, error) {
	o := r.options()
	set(o, "algorithm", r.Algorithm)
	r.Request.add(o)
	return c.make(ctx, r.Progress, keysPath, keysIface, "Create", r.Path, o)
}

// Import makes a TPM key of the private key in the file at source, absolute. An
// empty t.Path is the source's name in the first key folder.
func (c *Client) Import(ctx context.Context, source string, t Target) (Made, error) {
	o := t.options()
	set(o, "path", t.Path)
	return c.make(ctx, t.Progress, keysPath, keysIface, "Import", source, o)
}

// Wrap makes a file of the private key at source, absolute, for the TPM of the
// machine that made request.
func (c *Client) Wrap(ctx context.Context, source string, request []byte, t Target) (Made, error) {
	return c.make(ctx, t.Progress, keysPath, keysIface, "Wrap", source, t.Path, request, t.options())
}

// Parent returns what another machine's Wrap needs of this TPM. 0 is the usual
// parent.
func (c *Client) Parent(ctx context.Context, handle uint32) ([]byte, error) {
	var request []byte
	err := c.call(ctx, keysPath, keysIface, "Parent", []any{handle}, &request)
	return request, err
}

// Seal seals what is in data, at most a few hundred bytes, into a file that only
// this TPM can read. It goes through a socket in dir, a folder of the user's own,
// and not over the bus. t.Path is absolute.
func (c *Client) Seal(ctx context.Context, dir string, data []byte, t Target) (m Made, err error) {
	socket, err := listen(dir)
	if err != nil {
		return m, err
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		if conn, err := socket.Accept(); err == nil {
			// What does not arrive, the daemon tells.
			_, _ = conn.Write(data)
			_ = conn.Close()
		}
	}()
	m, err = c.make(ctx, t.Progress, keysPath, keysIface, "Seal", t.Path, socket.path, t.options())
	socket.Close()
	<-written
	return m, err
}

// Unseal returns what is in the sealed file at path, absolute. It comes through
// a socket in dir, as Seal's.
func (c *Client) Unseal(ctx context.Context, dir, path string) ([]byte, error) {
	socket, err := listen(dir)
	if err != nil {
		return nil, err
	}
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	type result struct {
		data []byte
		err  error
	}
	read := make(chan result, 1)
	go func() {
		conn, err := socket.Accept()
		if err != nil {
			read <- result{nil, err}
			return
		}
		defer conn.Close()
		// A call that is given up must not wait for what does not come.
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		defer stop()
		data := make([]byte, maxSecret) // read at once, so that no copy is left
		n, err := io.ReadFull(conn, data)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = nil // it is as long as it is
		}
		read <- result{data[:n], err}
	}()
	err = c.call(ctx, keysPath, keysIface, "Unseal", []any{path, socket.path})
	socket.Close()
	if err != nil {
		giveUp()
	}
	r := <-read
	if err != nil {
		clear(r.data)
		return nil, err
	}
	return r.data, r.err
}

// maxSecret is more than any TPM seals.
const maxSecret = 4096

// A private is a socket that nobody but this user finds.
type private struct {
	net.Listener
	folder, path string
}

func listen(dir string) (*private, error) {
	folder, err := os.MkdirTemp(dir, "kr") // 0700
	if err != nil {
		return nil, err
	}
	p := &private{folder: folder, path: filepath.Join(folder, "s")}
	if p.Listener, err = net.Listen("unix", p.path); err != nil {
		_ = os.RemoveAll(folder)
		return nil, err
	}
	return p, nil
}

// Close ends Accept, and takes the socket away.
func (p *private) Close() {
	_ = p.Listener.Close()
	_ = os.RemoveAll(p.folder)
}

// A File names a key, and which of its files where it has several.
type File struct {
	ID   string
	Path string // "": the only one, or as the method says
}

func (f File) object() godbus.ObjectPath { return keysPath + "/" + godbus.ObjectPath(f.ID) }

func (f File) options() map[string]godbus.Variant {
	o := map[string]godbus.Variant{}
	set(o, "path", f.Path)
	return o
}

// ChangeAuth has the user choose another PIN, or takes it away.
func (c *Client) ChangeAuth(ctx context.Context, f File, noPIN bool, progress func(string)) (Made, error) {
	o := f.options()
	set(o, "no-pin", noPIN)
	return c.make(ctx, progress, f.object(), keyIface, "ChangeAuth", o)
}

// SetLabel writes the label beside the key; by default beside its first file.
func (c *Client) SetLabel(ctx context.Context, f File, label string) error {
	return c.call(ctx, f.object(), keyIface, "SetLabel", []any{label, f.options()})
}

// Remove deletes a TPM key's files, by default all of them, after the user has
// been asked.
func (c *Client) Remove(ctx context.Context, f File) error {
	return c.call(ctx, f.object(), keyIface, "Remove", []any{f.options()})
}

// Attest returns the TPM's statement that the key lives in it, as JSON. nonce,
// of at most 32 bytes, is the verifier's and may be empty.
func (c *Client) Attest(ctx context.Context, f File, nonce []byte) ([]byte, error) {
	o := f.options()
	if len(nonce) > 0 {
		o["nonce"] = godbus.MakeVariant(nonce)
	}
	var statement []byte
	err := c.call(ctx, f.object(), keyIface, "Attest", []any{o}, &statement)
	return statement, err
}
