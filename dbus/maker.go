package dbus

import (
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"strings"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/dbus/internal/wire"
	"github.com/keyringd/keyringd/keyring"
)

// maxNonce is how many bytes the verifier of an attestation may want in it.
const maxNonce = 32

// errNoTPM is what making and looking after keys fails with where nobody can.
var errNoTPM = fmt.Errorf("%w: there is no TPM", keyring.ErrUnsupported)

// files refuses a program in a sandbox: the paths that it knows are not ours,
// and through us it must not write where it cannot itself.
func (c *call) files() error {
	if c.sender.app != "" {
		return fmt.Errorf("%w, and not for %s", errSandbox, c.sender.app)
	}
	return nil
}

func (c *call) maker() (keyring.Maker, error) {
	if err := c.files(); err != nil {
		return nil, err
	}
	if m := c.bus.server.Maker; m != nil {
		return m, nil
	}
	return nil, errNoTPM
}

func (c *call) keeper() (keyring.Keeper, error) {
	if err := c.files(); err != nil {
		return nil, err
	}
	if k := c.bus.server.Keeper; k != nil {
		return k, nil
	}
	return nil, errNoTPM
}

// createKey is Keys1.Create.
func (c *call) createKey(path string, options map[string]godbus.Variant) (properties, error) {
	o := readOptions(options)
	r := keyring.CreateRequest{Caller: c.caller, Target: o.target(c), Algorithm: option[string](o, "algorithm")}
	o.place(&r.Target)
	r.Path = o.name("path", path)
	r.CertificateRequest = o.certificateRequest()
	if err := o.end(); err != nil {
		return nil, err
	}
	m, err := c.maker()
	if err != nil {
		return nil, err
	}
	made, err := m.Create(c.ctx, r)
	return c.made(made), err
}

// importKey is Keys1.Import.
func (c *call) importKey(source string, options map[string]godbus.Variant) (properties, error) {
	o := readOptions(options)
	r := keyring.ImportRequest{Caller: c.caller, Target: o.target(c), Source: o.path("source", source)}
	o.place(&r.Target)
	if p := option[string](o, "path"); p != "" {
		r.Path = o.name("option path", p)
	}
	if err := o.end(); err != nil {
		return nil, err
	}
	m, err := c.maker()
	if err != nil {
		return nil, err
	}
	made, err := m.Import(c.ctx, r)
	return c.made(made), err
}

// wrapKey is Keys1.Wrap.
func (c *call) wrapKey(source, path string, request []byte, options map[string]godbus.Variant) (properties, error) {
	o := readOptions(options)
	r := keyring.WrapRequest{Caller: c.caller, Target: o.target(c), Source: o.path("source", source), For: request}
	r.Path = o.path("path", path)
	if err := o.end(); err != nil {
		return nil, err
	}
	m, err := c.maker()
	if err != nil {
		return nil, err
	}
	made, err := m.Wrap(c.ctx, r)
	return c.made(made), err
}

// parent is Keys1.Parent.
func (c *call) parent(handle uint32) ([]byte, error) {
	m, err := c.maker()
	if err != nil {
		return nil, err
	}
	return m.Parent(c.ctx, handle)
}

// changeAuth is Key1.ChangeAuth.
func (c *call) changeAuth(options map[string]godbus.Variant) (properties, error) {
	o := readOptions(options)
	r := keyring.ChangeAuthRequest{
		Caller: c.caller, Key: c.node.key.info.ID, Path: o.file(), NoPIN: option[bool](o, "no-pin"), Progress: c.progress,
	}
	if err := o.end(); err != nil {
		return nil, err
	}
	k, err := c.keeper()
	if err != nil {
		return nil, err
	}
	made, err := k.ChangeAuth(c.ctx, r)
	return c.made(made), err
}

// setLabel is Key1.SetLabel.
func (c *call) setLabel(label string, options map[string]godbus.Variant) error {
	o := readOptions(options)
	r := keyring.LabelRequest{Caller: c.caller, Key: c.node.key.info.ID, Path: o.file(), Label: o.line("the label", label)}
	if err := o.end(); err != nil {
		return err
	}
	k, err := c.keeper()
	if err != nil {
		return err
	}
	return k.SetLabel(c.ctx, r)
}

// removeKey is Key1.Remove.
func (c *call) removeKey(options map[string]godbus.Variant) error {
	o := readOptions(options)
	r := keyring.RemoveRequest{Caller: c.caller, Key: c.node.key.info.ID, Path: o.file()}
	if err := o.end(); err != nil {
		return err
	}
	k, err := c.keeper()
	if err != nil {
		return err
	}
	return k.Remove(c.ctx, r)
}

// attest is Key1.Attest.
func (c *call) attest(options map[string]godbus.Variant) ([]byte, error) {
	o := readOptions(options)
	r := keyring.AttestRequest{Caller: c.caller, Key: c.node.key.info.ID, Path: o.file(), Nonce: option[[]byte](o, "nonce")}
	if len(r.Nonce) > maxNonce {
		o.wrong("a nonce of %d bytes, and %d are the most", len(r.Nonce), maxNonce)
	}
	if err := o.end(); err != nil {
		return nil, err
	}
	k, err := c.keeper()
	if err != nil {
		return nil, err
	}
	return k.Attest(c.ctx, r)
}

// requestCertificate is Key1.RequestCertificate. It reads and writes no file, so
// that programs in a sandbox may call it as they may call Sign.
func (c *call) requestCertificate(options map[string]godbus.Variant) ([]byte, error) {
	o := readOptions(options)
	template := o.certificateRequest()
	if template == nil {
		o.wrong("a certificate request names a subject or alternative-names")
	}
	if err := o.end(); err != nil {
		return nil, err
	}
	signer, err := c.bus.server.keys.Signer(c.ctx, keyring.SignRequest{
		Caller: c.caller, Key: c.node.key.info.ID, Reason: "request a certificate",
	})
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificateRequest(rand.Reader, template, signer)
}

// made is what was made, as Keys1 says it.
func (c *call) made(m keyring.Made) properties {
	p := properties{"Path": godbus.MakeVariant(m.Path)}
	if m.Public != nil {
		p["ID"] = godbus.MakeVariant(m.ID.String())
	}
	if keys, err := c.bus.server.catalog(); err == nil && keys.byPath[keyPath(m.ID)] != nil {
		p["Key"] = godbus.MakeVariant(keyPath(m.ID))
	}
	if m.PublicPath != "" {
		p["PublicPath"] = godbus.MakeVariant(m.PublicPath)
	}
	if len(m.PublicLine) > 0 {
		p["PublicKey"] = godbus.MakeVariant(strings.TrimSpace(string(m.PublicLine)))
	}
	if len(m.CertificateRequest) > 0 {
		p["CertificateRequest"] = godbus.MakeVariant(m.CertificateRequest)
	}
	if len(m.Notes) > 0 {
		p["Notes"] = godbus.MakeVariant(m.Notes)
	}
	return p
}

// progress tells the caller, and nobody else, what its call is at.
func (c *call) progress(step keyring.Progress) {
	about := keysInterface
	if c.node.key != nil {
		about = keyInterface
	}
	values := []any{c.header.Serial, string(step)}
	body, err := wire.Append(nil, values...)
	if err != nil || c.ctx.Err() != nil {
		return
	}
	// A bus that is gone has nobody to tell.
	_, _ = c.bus.tap.Send(wire.Header{
		Type: godbus.TypeSignal, Flags: godbus.FlagNoReplyExpected, Destination: c.header.Sender,
		Path: c.header.Path, Interface: about, Member: "Progress", Signature: wire.Signature(values...),
	}, body)
}
