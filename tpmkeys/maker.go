package tpmkeys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/keyringd/keyringd/internal/atomicfile"
	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/internal/folder/pubfile"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/tpm"
	"github.com/keyringd/keyringd/tpm/keyfile"
)

// A Maker makes TPM key files and looks after them. It implements
// keyring.Maker, keyring.Keeper and keyring.FileSealer.
//
// The fields are set before first use.
type Maker struct {
	Device *tpm.Device   // nil: there is no TPM
	Keys   *keyring.Keys // where keys are found by their ID
	Gate   *keyring.Gate // asks for PINs and permission

	// Dirs are the key folders, absolute; bare names go into the first.
	Dirs []string
	// Rescan makes what was written known; nil: it will be noticed.
	Rescan func(context.Context) error
	// Log hears of each key that was made, changed or removed; nil: slog.Default().
	Log *slog.Logger

	// Elsewhere writes files that may not be written here, because of err, if it
	// can; otherwise it returns err. Nil: nobody does.
	Elsewhere func(err error, files ...atomicfile.File) error

	step atomicfile.Step // of tests, to see what a fault on disk does

	mu      sync.Mutex
	writing map[string]bool // paths that somebody is about to write
}

// A fault is an error of the core's in words that say more than its name.
type fault struct{ is, cause error }

func (f *fault) Error() string   { return f.cause.Error() }
func (f *fault) Unwrap() []error { return []error{f.is, f.cause} }

// problem says what is wrong with a request, under a name of the core's.
func problem(is error, format string, args ...any) error {
	return &fault{is, fmt.Errorf(format, args...)}
}

// disk says what an error of the filesystem's means to the core.
func disk(err error) error {
	switch {
	case err == nil || errors.Is(err, keyring.ErrUnavailable) || errors.Is(err, keyring.ErrUnsupported):
		return err
	case errors.Is(err, fs.ErrExist):
		return problem(keyring.ErrUnsupported, "%w; hint: choose another name, or replace it with --force", err)
	case errors.Is(err, fs.ErrNotExist):
		return problem(keyring.ErrNotFound, "%w", err)
	}
	return problem(keyring.ErrUnavailable, "%w", err)
}

func (m *Maker) device() (*tpm.Device, error) {
	if m.Device == nil {
		return nil, problem(keyring.ErrUnavailable, "there is no TPM; hint: keyringctl status says what was looked for")
	}
	return m.Device, nil
}

func (m *Maker) log() *slog.Logger {
	if m.Log == nil {
		return slog.Default()
	}
	return m.Log
}

// place returns the absolute path that a target asks for.
func (m *Maker) place(path string) (string, error) {
	switch {
	case path == "" || strings.HasSuffix(path, "/") || strings.ContainsRune(path, 0):
		return "", problem(keyring.ErrUnsupported, "%q is not a file's name", path)
	case filepath.IsAbs(path):
		return filepath.Clean(path), nil
	case strings.ContainsRune(path, '/'), path == ".", path == "..":
		return "", problem(keyring.ErrUnsupported, "%q is neither a bare name nor an absolute path", path)
	case len(m.Dirs) == 0:
		return "", problem(keyring.ErrUnsupported, "there is no key folder for %q", path)
	}
	if err := os.MkdirAll(m.Dirs[0], 0o700); err != nil {
		return "", disk(err)
	}
	return filepath.Join(m.Dirs[0], path), nil
}

// claim keeps everybody else from writing the same file until release is called.
func (m *Maker) claim(path string) (release func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.writing[path] {
		return nil, problem(keyring.ErrUnavailable, "%s is being written by another request", path)
	}
	if m.writing == nil {
		m.writing = map[string]bool{}
	}
	m.writing[path] = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.writing, path)
	}, nil
}

// free returns early what would stop the file from being written at the end, so
// that nobody chooses a PIN for nothing.
func free(path string, force bool, suffixes ...string) error {
	for _, suffix := range suffixes {
		st, err := os.Lstat(path + suffix)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return disk(err)
		case st.IsDir():
			return problem(keyring.ErrUnsupported, "%s is a directory", path+suffix)
		case !force:
			return disk(&fs.PathError{Op: "create", Path: path + suffix, Err: fs.ErrExist})
		}
	}
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		return disk(err)
	}
	return nil
}

func tell(f func(keyring.Progress), p keyring.Progress) {
	if f != nil {
		f(p)
	}
}

// template translates what a target asks of the TPM.
func template(t keyring.Target, algorithm string) (tpm.Template, error) {
	banks, err := tpm.ParsePCRs(t.PCRs)
	if err != nil {
		return tpm.Template{}, problem(keyring.ErrUnsupported, "%w", err)
	}
	return tpm.Template{Algorithm: tpm.Algorithm(algorithm), Parent: t.Parent, PCRs: banks}, nil
}

// choose lets the user choose a PIN where the target wants one.
func (m *Maker) choose(ctx context.Context, c keyring.Caller, t keyring.Target, path, reason string) (secret.Bytes, error) {
	if !t.PIN {
		return secret.Bytes{}, nil
	}
	tell(t.Progress, keyring.ProgressAsking)
	return m.Gate.Choose(ctx, keyring.Use{ID: "new " + path, Subject: subject(path, t.Comment), PIN: true, Caller: c, Reason: reason}, maxPIN)
}

func subject(path, comment string) string { return pubfile.Label(path, comment) }

// Create makes a new key; see keyring.Maker.
func (m *Maker) Create(ctx context.Context, r keyring.CreateRequest) (keyring.Made, error) {
	dev, err := m.device()
	if err != nil {
		return keyring.Made{}, err
	}
	tmpl, err := template(r.Target, r.Algorithm)
	if err != nil {
		return keyring.Made{}, err
	}
	tmpl.Derive = r.Derive
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
	auth, err := m.choose(ctx, r.Caller, r.Target, path, "for a new key in the TPM")
	if err != nil {
		return keyring.Made{}, err
	}
	defer auth.Wipe()
	tell(r.Progress, keyring.ProgressMaking)
	file, err := dev.Create(ctx, tmpl, auth)
	if err != nil {
		return keyring.Made{}, translate(path, err)
	}
	var csr []byte
	if r.CertificateRequest != nil {
		if csr, err = m.request(ctx, file, auth, r.CertificateRequest); err != nil {
			return keyring.Made{}, translate(path, err)
		}
	}
	made, err := m.write(ctx, r.Target, path, file)
	if err != nil {
		return keyring.Made{}, err
	}
	made.CertificateRequest = csr
	m.done(ctx, "key created", r.Caller, made)
	return made, nil
}

// request has a key that was just made sign a PKCS #10 request.
func (m *Maker) request(ctx context.Context, file *keyfile.File, auth secret.Bytes, tmpl *x509.CertificateRequest) ([]byte, error) {
	k, err := m.Device.Key(file)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, tpm.Signer{Context: ctx, Key: k, Auth: auth})
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return der, nil
}

// write puts a key file and its public half in place. What is on the disk is
// read again before it gets its name.
func (m *Maker) write(ctx context.Context, t keyring.Target, path string, file *keyfile.File) (keyring.Made, error) {
	if err := ctx.Err(); err != nil {
		return keyring.Made{}, err
	}
	tell(t.Progress, keyring.ProgressWriting)
	pub, err := file.PublicKey()
	if err != nil {
		return keyring.Made{}, translate(path, err)
	}
	made, err := describe(pub, path, t.Comment)
	if err != nil {
		return keyring.Made{}, err
	}
	data, err := file.PEM()
	if err != nil {
		return keyring.Made{}, translate(path, err)
	}
	files := []atomicfile.File{
		{Path: path, Data: data, Perm: 0o600, Replace: t.Force},
		{Path: made.PublicPath, Data: made.PublicLine, Perm: 0o644, Replace: t.Force},
	}
	if err := m.put(files...); err != nil {
		return keyring.Made{}, err
	}
	if !m.watched(path) {
		made.Notes = append(made.Notes, fmt.Sprintf("%s is in no key folder, so that keyringd will not offer the key.", path))
	}
	return made, nil
}

// put stages files, reads them again, and gives them their names.
func (m *Maker) put(files ...atomicfile.File) error {
	err := m.putHere(files...)
	if m.Elsewhere != nil && errors.Is(err, fs.ErrPermission) {
		return disk(m.Elsewhere(err, files...))
	}
	return err
}

func (m *Maker) putHere(files ...atomicfile.File) error {
	staged, err := atomicfile.Stage(m.step, files...)
	if err != nil {
		return disk(err)
	}
	for i, f := range files {
		got, err := os.ReadFile(staged.Temp(i))
		if err == nil && !bytes.Equal(got, f.Data) {
			err = fmt.Errorf("%s does not come back from the disk as it was written", f.Path)
		}
		if err != nil {
			staged.Discard()
			return problem(keyring.ErrUnavailable, "%w", err)
		}
	}
	return disk(staged.Commit())
}

// describe says what is known of a key and makes its public line.
func describe(pub crypto.PublicKey, path, comment string) (keyring.Made, error) {
	id, err := keyring.NewKeyID(pub)
	if err != nil {
		return keyring.Made{}, problem(keyring.ErrUnsupported, "%w", err)
	}
	return keyring.Made{ID: id, Public: pub, Path: path, PublicPath: path + pubfile.Suffix, PublicLine: line(pub, comment)}, nil
}

// maxComment is far more than anybody reads.
const maxComment = 200

// line writes a public key as OpenSSH does.
func line(pub crypto.PublicKey, comment string) []byte {
	wire := pubfile.Wire(pub)
	kind := string(wire[4 : 4+int(wire[3])]) // the wire form begins with its own type, of less than 256 bytes
	text := kind + " " + base64.StdEncoding.EncodeToString(wire)
	if comment = caller.Sanitize(comment, maxComment); comment != "" {
		text += " " + comment
	}
	return []byte(text + "\n")
}

// watched says whether a file is where keys are looked for.
func (m *Maker) watched(path string) bool {
	return slices.ContainsFunc(m.Dirs, func(dir string) bool {
		rel, err := filepath.Rel(dir, path)
		return err == nil && filepath.IsLocal(rel)
	})
}

// done makes known what was done. The key is on disk, so that nothing which
// goes wrong from here on is the request's fault.
func (m *Maker) done(ctx context.Context, what string, c keyring.Caller, made keyring.Made) {
	if m.Rescan != nil {
		if err := m.Rescan(ctx); err != nil {
			m.log().Warn("the key folders were not looked at again", "err", err)
		}
	}
	m.log().Info(what, "caller", c.String(), "key", made.Path)
}
