package tpmkeys

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/keyringd/keyringd/internal/folder"
	"github.com/keyringd/keyringd/internal/folder/pubfile"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/sshkeys"
	"github.com/keyringd/keyringd/tpm"
	"github.com/keyringd/keyringd/tpm/keyfile"
)

// maxSource is what a file to import may have: PKCS #12 files hold whole chains
// of certificates.
const maxSource = 256 << 10

// importSuffix is what an imported key's name has after the source's.
const importSuffix = ".tpm"

// load reads a file that the user named, by the rules of the key folders: it is
// the user's own, and no device that would keep us waiting.
func load(path string, private bool) (secret.Bytes, error) {
	if !filepath.IsAbs(path) {
		return secret.Bytes{}, problem(keyring.ErrUnsupported, "%q is not an absolute path", path)
	}
	var data secret.Bytes
	err := folder.Read(path, maxSource, func(f folder.File, b []byte) error {
		if private {
			if err := f.Exposed(); err != nil {
				return err
			}
		}
		data = secret.Copy(b)
		return nil
	})
	switch {
	case err == nil:
		return data, nil
	case errors.Is(err, folder.ErrGone):
		return data, problem(keyring.ErrNotFound, "%s: %w", path, err)
	}
	return data, problem(keyring.ErrUnavailable, "%s: %w", path, err)
}

// Import makes a TPM key file of another file's key; see keyring.Maker.
func (m *Maker) Import(ctx context.Context, r keyring.ImportRequest) (keyring.Made, error) {
	dev, err := m.device()
	if err != nil {
		return keyring.Made{}, err
	}
	tmpl, err := template(r.Target, "")
	if err != nil {
		return keyring.Made{}, err
	}
	data, err := load(r.Source, false)
	if err != nil {
		return keyring.Made{}, err
	}
	defer data.Wipe()
	if r.Path == "" {
		r.Path = filepath.Base(r.Source) + importSuffix
	}
	path, err := m.place(r.Path)
	if err != nil {
		return keyring.Made{}, err
	}
	release, err := m.claim(path)
	if err != nil {
		return keyring.Made{}, err
	}
	defer release()
	if err := free(path, r.Force, "", pubfile.Suffix); err != nil {
		return keyring.Made{}, err
	}
	var file *keyfile.File
	data.Use(func(b []byte) { file, err = keyfile.Parse(b) })
	var made keyring.Made
	switch {
	case err == nil:
		made, err = m.importFile(ctx, r, path, file)
	case errors.Is(err, keyfile.ErrNotKeyFile):
		made, err = m.importSoftware(ctx, dev, r, tmpl, path, data)
	default:
		return keyring.Made{}, problem(keyring.ErrUnsupported, "%s: %w", r.Source, err)
	}
	if err != nil {
		return keyring.Made{}, err
	}
	m.done(ctx, "key imported", r.Caller, made)
	return made, nil
}

// importFile makes an importable file of another machine or tool loadable.
func (m *Maker) importFile(ctx context.Context, r keyring.ImportRequest, path string, file *keyfile.File) (keyring.Made, error) {
	switch {
	case file.Type == keyfile.Sealed:
		return keyring.Made{}, problem(keyring.ErrUnsupported, "%s holds sealed data, not a key; hint: keyringctl unseal", r.Source)
	case file.Type != keyfile.Importable:
		return keyring.Made{}, problem(keyring.ErrUnsupported, "%s is a TPM key file already; hint: put it into a key folder as it is", r.Source)
	case r.PIN || r.PCRs != "" || r.Parent != 0:
		return keyring.Made{}, problem(keyring.ErrUnsupported,
			"%s was wrapped for one TPM with its PIN and policy, which stay as they are; hint: change the PIN afterwards, with keyringctl key passwd", r.Source)
	}
	tell(r.Progress, keyring.ProgressMaking)
	local, err := m.Device.Localize(ctx, file)
	if err == nil && !local.NeedsAuth() {
		err = m.Device.Prove(ctx, local, secret.Bytes{})
	}
	if err != nil {
		return keyring.Made{}, translate(r.Source, err)
	}
	if r.Comment == "" {
		r.Comment = comment(r.Source)
	}
	made, err := m.write(ctx, r.Target, path, local)
	if err != nil {
		return keyring.Made{}, err
	}
	made.Notes = append(made.Notes, fmt.Sprintf("%s is of no use to anybody but this TPM, which goes on taking it; it can be removed.", r.Source))
	if local.NeedsAuth() {
		made.Notes = append(made.Notes, "The key has the PIN that it was wrapped with.")
	}
	return made, nil
}

// importSoftware puts a private key into the TPM.
func (m *Maker) importSoftware(ctx context.Context, dev *tpm.Device, r keyring.ImportRequest, tmpl tpm.Template, path string, data secret.Bytes) (keyring.Made, error) {
	key, err := m.open(ctx, r.Caller, r.Source, r.Target, data)
	if err != nil {
		return keyring.Made{}, err
	}
	if r.Comment == "" {
		r.Comment = key.comment
	}
	auth, err := m.choose(ctx, r.Caller, r.Target, path, "for the key of "+filepath.Base(r.Source)+" in the TPM")
	if err != nil {
		return keyring.Made{}, err
	}
	defer auth.Wipe()
	tell(r.Progress, keyring.ProgressMaking)
	file, err := dev.Import(ctx, key.private, tmpl, auth)
	if err != nil {
		return keyring.Made{}, translate(r.Source, err)
	}
	made, err := m.write(ctx, r.Target, path, file)
	if err != nil {
		return keyring.Made{}, err
	}
	made.Notes = append(made.Notes, retire(r.Source)...)
	return made, nil
}

// retire says how to be rid of the key outside of the TPM.
func retire(source string) []string {
	return []string{
		fmt.Sprintf("%s is as it was: it still holds the private key, and works without the TPM.", source),
		"This TPM is now the only other place of the key. If the TPM is cleared or breaks, only a copy brings it back: keep one offline, or be able to replace the key where it is used.",
		fmt.Sprintf("When everything works with the new file: shred -u %s; copies and backups of it stay usable, so that only a newly made key is known to be in the TPM alone.", quote(source)),
	}
}

// quote makes a path fit for a shell.
func quote(path string) string {
	for _, c := range path {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '/', c == '.', c == '_', c == '-':
		default:
			return fmt.Sprintf("%q", path)
		}
	}
	return path
}

// software is a private key outside of the TPM.
type software struct {
	private crypto.Signer
	comment string
}

// open reads a software key, asking for its passphrase where it has one. Whether
// a TPM could take it is told before that, where the file shows it.
func (m *Maker) open(ctx context.Context, c keyring.Caller, source string, t keyring.Target, data secret.Bytes) (software, error) {
	var s sshkeys.Software
	var err error
	data.Use(func(b []byte) { s, err = sshkeys.Sketch(b) })
	if err != nil {
		return software{}, problem(keyring.ErrUnsupported, "%s: %w", source, err)
	}
	if s.Public != nil {
		if err := tpm.Importable(s.Public); err != nil {
			return software{}, translate(source, err)
		}
	}
	out := software{comment: s.Comment}
	if out.comment == "" {
		out.comment = comment(source)
	}
	read := func(passphrase secret.Bytes) error {
		var err error
		data.Use(func(b []byte) {
			passphrase.Use(func(p []byte) { out.private, err = sshkeys.Open(b, p) })
		})
		switch {
		case errors.Is(err, sshkeys.ErrPassphrase):
			return problem(keyring.ErrAuthFailed, "%s: %w", source, err)
		case err != nil:
			return problem(keyring.ErrUnsupported, "%s: %w", source, err)
		}
		return nil
	}
	if !s.Encrypted {
		err = read(secret.Bytes{})
	} else {
		tell(t.Progress, keyring.ProgressAsking)
		use := keyring.Use{ID: "import " + source, Subject: subject(source, s.Comment), NeedsAuth: true, Caller: c, Reason: "to bring the key into a TPM"}
		err = m.Gate.Use(ctx, use, read)
		m.Gate.Forget(use.ID) // it was needed this once
	}
	if err != nil {
		return software{}, err
	}
	if err := tpm.Importable(out.private.Public()); err != nil {
		return software{}, translate(source, err)
	}
	return out, nil
}

// comment is what the public key file beside a source says.
func comment(source string) string {
	data, err := os.ReadFile(source + pubfile.Suffix)
	if err != nil {
		return ""
	}
	p, _ := pubfile.Parse(data)
	return p.Comment
}

// Parent returns what is needed to wrap keys for this TPM; see keyring.Maker.
func (m *Maker) Parent(ctx context.Context, parent uint32) ([]byte, error) {
	dev, err := m.device()
	if err != nil {
		return nil, err
	}
	p, err := dev.Parent(ctx, parent)
	if err != nil {
		return nil, translate("storage key", err)
	}
	text, err := p.Text()
	if err != nil {
		return nil, translate("storage key", err)
	}
	return text, nil
}

// Wrap makes a file for the TPM of another machine; see keyring.Maker. It needs
// no TPM here.
func (m *Maker) Wrap(ctx context.Context, r keyring.WrapRequest) (keyring.Made, error) {
	parent, err := tpm.ParseParent(r.For)
	if err != nil {
		return keyring.Made{}, problem(keyring.ErrUnsupported, "the other machine's storage key: %w", err)
	}
	if r.PCRs != "" || r.Parent != 0 {
		return keyring.Made{}, problem(keyring.ErrUnsupported, "the other machine's registers are not known here, and its storage key says itself where it is")
	}
	data, err := load(r.Source, false)
	if err != nil {
		return keyring.Made{}, err
	}
	defer data.Wipe()
	path, err := m.place(r.Path)
	if err != nil {
		return keyring.Made{}, err
	}
	release, err := m.claim(path)
	if err != nil {
		return keyring.Made{}, err
	}
	defer release()
	if err := free(path, r.Force, "", pubfile.Suffix); err != nil {
		return keyring.Made{}, err
	}
	key, err := m.open(ctx, r.Caller, r.Source, r.Target, data)
	if err != nil {
		return keyring.Made{}, err
	}
	if r.Comment == "" {
		r.Comment = key.comment
	}
	auth, err := m.choose(ctx, r.Caller, r.Target, path, "for the key on the other machine")
	if err != nil {
		return keyring.Made{}, err
	}
	defer auth.Wipe()
	file, err := tpm.Wrap(key.private, parent, tpm.Template{}, auth)
	if err != nil {
		return keyring.Made{}, translate(r.Source, err)
	}
	made, err := m.write(ctx, r.Target, path, file)
	if err != nil {
		return keyring.Made{}, err
	}
	made.Notes = append(made.Notes,
		fmt.Sprintf("Only the TPM whose storage key has the name %s can use %s: make sure, on another way than it came, that this is the right machine's.", parent.Name(), path))
	made.Notes = append(made.Notes, fmt.Sprintf("%s is as it was, and still holds the private key.", r.Source))
	m.done(ctx, "key wrapped for another TPM", r.Caller, made)
	return made, nil
}
