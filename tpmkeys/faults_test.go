package tpmkeys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/keyringd/keyringd/internal/atomicfile"
	"github.com/keyringd/keyringd/internal/folder"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
	"github.com/keyringd/keyringd/tpm"
	"github.com/keyringd/keyringd/tpm/keyfile"
	"github.com/keyringd/keyringd/tpm/link"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

// What the faults are tried on. Before each, dir/id is a key with the PIN "old",
// but for the ones that make a new file.
var operations = map[string]func(m *Maker, dir string) error{
	"new": func(m *Maker, _ string) error {
		_, err := m.Create(context.Background(), keyring.CreateRequest{Target: keyring.Target{Path: "fresh", PIN: true, Comment: "c"}})
		return err
	},
	"new with force": func(m *Maker, _ string) error {
		_, err := m.Create(context.Background(), keyring.CreateRequest{Target: keyring.Target{Path: "id", PIN: true, Force: true}})
		return err
	},
	"import": func(m *Maker, dir string) error {
		_, err := m.Import(context.Background(), keyring.ImportRequest{Target: keyring.Target{Path: "fresh", PIN: true}, Source: filepath.Join(dir, "..", "software")})
		return err
	},
	"passwd": func(m *Maker, _ string) error {
		_, err := m.ChangeAuth(context.Background(), keyring.ChangeAuthRequest{Key: m.Keys.List()[0].ID})
		return err
	},
}

// stand runs fn with a Maker on dir whose user knows the old PIN and wants the
// new one.
func stand(address link.Address, dir string, step atomicfile.Step, fn func(*Maker) error) error {
	ctx, cancel := context.WithCancel(context.Background())
	dev := tpm.New(address, tpm.Options{})
	user := &keyringtest.FakePrompter{Default: func(q prompt.Question) keyringtest.Reply {
		if q.Kind == prompt.NewPassphrase {
			return keyringtest.Reply{Passphrase: "new"}
		}
		return keyringtest.Reply{Passphrase: "old"}
	}}
	gate := keyring.NewGate(user)
	keys := keyring.NewKeys(gate)
	f, err := folder.Watch(ctx, folder.Options{Dirs: []string{dir}}, New(dev, keys, nil))
	if err != nil {
		cancel()
		return err
	}
	err = fn(&Maker{Device: dev, Keys: keys, Gate: gate, Dirs: []string{dir}, Rescan: f.Rescan, step: step})
	cancel()
	<-f.Done()
	_ = dev.Close()
	return err
}

const (
	crashAt   = "TPMKEYS_TEST_CRASH_AT"
	crashFull = -1 // nothing fits on the disk
)

// TestMain is the daemon that is killed, when it is told to be.
func TestMain(m *testing.M) {
	at, err := strconv.Atoi(os.Getenv(crashAt))
	if err != nil {
		os.Exit(m.Run())
	}
	socket, dir, name := os.Args[1], os.Args[2], os.Args[3]
	if at == crashFull {
		signal.Ignore(syscall.SIGXFSZ)
		_ = syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 20, Max: 20})
	}
	i := 0
	die := func(string, string) error {
		if i++; i-1 == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}
	address := link.Address{Kind: link.Unix, Target: socket, ResourceManager: true}
	if err := stand(address, dir, die, func(m *Maker) error { return operations[name](m, dir) }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	os.Exit(0)
}

// A scene is a folder with a key file in it, and a software key beside.
type scene struct {
	t       *testing.T
	address link.Address
	dir     string
	key     []byte // dir/id
	other   []byte // the software key
	dev     *tpm.Device
}

func newScene(t *testing.T, address link.Address, key, software []byte) *scene {
	d := dir(t)
	write(t, filepath.Join(d, "id"), key)
	write(t, filepath.Join(d, "..", "software"), software)
	return &scene{t: t, address: address, dir: d, key: key, other: software, dev: device(t, address)}
}

// signs says whether a file is a whole key with the PIN.
func (s *scene) signs(path, pin string) bool {
	s.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	f, err := keyfile.Parse(data)
	if err != nil {
		s.t.Errorf("%s is half a file: %v", path, err)
		return false
	}
	k, err := s.dev.Key(f)
	must(s.t, err)
	defer k.Close()
	digest := sha256.Sum256(nil)
	auth := secret.Copy([]byte(pin))
	defer auth.Wipe()
	_, err = k.Sign(context.Background(), auth, digest[:], crypto.SHA256)
	return err == nil
}

// nothingLost wants every key to be there and to work, after whatever happened
// while name ran.
func (s *scene) nothingLost(at, name string) {
	s.t.Helper()
	if got, err := os.ReadFile(filepath.Join(s.dir, "..", "software")); err != nil || !bytes.Equal(got, s.other) {
		s.t.Errorf("%s: the original is not as it was: %v", at, err)
	}
	id, fresh := filepath.Join(s.dir, "id"), filepath.Join(s.dir, "fresh")
	got, err := os.ReadFile(id)
	if err != nil {
		s.t.Fatalf("%s: the key file is lost: %v", at, err)
	}
	if bytes.Equal(got, s.key) {
		if !s.signs(id, "old") {
			s.t.Errorf("%s: the old key does not work", at)
		}
	} else if name != "passwd" && name != "new with force" {
		s.t.Errorf("%s: another key's file was changed", at)
	} else if !s.signs(id, "new") {
		s.t.Errorf("%s: the new key does not work", at)
	}
	if _, err := os.Lstat(fresh); err == nil && !s.signs(fresh, "new") {
		s.t.Errorf("%s: the new file does not work", at)
	}
	// What a crash left is no key to be offered beside the real ones, and does
	// not stand in the way.
	for _, n := range []string{fresh, fresh + ".pub"} {
		_ = os.Remove(n)
	}
	write(s.t, id, s.key)
	if err := stand(s.address, s.dir, nil, func(m *Maker) error { return operations[name](m, s.dir) }); err != nil {
		s.t.Errorf("%s: not possible afterwards: %v", at, err)
	}
	for _, n := range listing(s.t, s.dir) {
		if strings.HasPrefix(n, ".") {
			s.t.Errorf("%s: %s was left and not cleared", at, n)
		}
	}
}

// script has what every scene begins with, made once.
func script(t *testing.T) (address link.Address, key, software []byte) {
	sim := tpmtest.Start(t)
	address = sim.ResourceManager().Address()
	dev := tpm.New(address, tpm.Options{})
	old := secret.Copy([]byte("old"))
	f, err := dev.Create(t.Context(), tpm.Template{}, old)
	must(t, err)
	_ = dev.Close()
	key, err = f.PEM()
	must(t, err)
	return address, key, softwareKey(t)
}

func softwareKey(t *testing.T) []byte {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func steps(t *testing.T, s *scene, name string) int {
	t.Helper()
	n := 0
	must(t, stand(s.address, s.dir, func(string, string) error { n++; return nil }, func(m *Maker) error { return operations[name](m, s.dir) }))
	if n < 5 {
		t.Fatalf("%s takes only %d steps on the disk: the faults would miss some", name, n)
	}
	return n
}

// The disk fails at each step, as a full one does.
func TestDiskFailsAtEachStep(t *testing.T) {
	address, key, software := script(t)
	for name, run := range operations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for n := range steps(t, newScene(t, address, key, software), name) {
				s := newScene(t, address, key, software)
				i, at := 0, ""
				err := stand(address, s.dir, func(what, path string) error {
					if i++; i-1 == n {
						at = fmt.Sprintf("%s: %s %s", name, what, filepath.Base(path))
						return syscall.ENOSPC
					}
					return nil
				}, func(m *Maker) error { return run(m, s.dir) })
				if !errors.Is(err, keyring.ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("%s: %v", at, err)
				}
				for _, n := range listing(t, s.dir) {
					if strings.HasPrefix(n, ".") {
						t.Errorf("%s: %s is left", at, n)
					}
				}
				s.nothingLost(at, name)
			}
		})
	}
}

// The daemon is killed at each step.
func TestKilledAtEachStep(t *testing.T) {
	address, key, software := script(t)
	for name := range operations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for n := range steps(t, newScene(t, address, key, software), name) {
				s := newScene(t, address, key, software)
				if crash(t, s, n, name).Exited() {
					t.Fatalf("step %d: not killed", n)
				}
				s.nothingLost(fmt.Sprintf("%s, step %d", name, n), name)
			}
		})
	}
}

// No file can have more than a few bytes.
func TestNoRoomOnTheDisk(t *testing.T) {
	address, key, software := script(t)
	for name := range operations {
		s := newScene(t, address, key, software)
		if code := crash(t, s, crashFull, name).ExitCode(); code != 3 {
			t.Errorf("%s: exit status %d", name, code)
		}
		if got, err := os.ReadFile(filepath.Join(s.dir, "id")); err != nil || !bytes.Equal(got, key) {
			t.Errorf("%s: the key file is not as it was: %v", name, err)
		}
		s.nothingLost(name, name)
	}
}

func crash(t *testing.T, s *scene, at int, name string) *os.ProcessState {
	t.Helper()
	cmd := exec.Command(os.Args[0], s.address.Target, s.dir, name)
	cmd.Env = append(os.Environ(), crashAt+"="+strconv.Itoa(at))
	_ = cmd.Run()
	return cmd.ProcessState
}
