// Package moduletest builds the PKCS#11 module, runs its C tests, and lets real
// programs use it: against `p11-kit server` with SoftHSM behind it, which shares
// no code with us, and against keyringd's own server. It is a package of its own
// because a folder with C files in it may hold no Go.
package moduletest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/pkcs11"
)

// patience is how long a test waits for a program that has little to do.
const patience = time.Minute

// pin is the user's on the tokens that have one.
const pin = "1234"

func need(tb testing.TB, programs ...string) {
	tb.Helper()
	for _, name := range programs {
		bustest.Need(tb, name)
	}
}

// library returns the first file that a pattern finds.
func library(tb testing.TB, patterns ...string) string {
	tb.Helper()
	for _, pattern := range patterns {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[0]
		}
	}
	bustest.Missing(tb, patterns[0])
	return ""
}

// make runs a target of the module's Makefile with a build folder of the test's
// own, and returns what it printed.
func makeModule(tb testing.TB, dir string, args ...string) string {
	tb.Helper()
	need(tb, "make", "cc")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	args = append([]string{"-s", "-C", "../module", "BUILD=" + dir, "OUT=" + filepath.Join(dir, "keyringd-pkcs11.so")}, args...)
	out, err := exec.CommandContext(ctx, "make", args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("make %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// module builds the module as it is shipped and returns its path.
func module(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	makeModule(tb, dir, "all")
	return filepath.Join(dir, "keyringd-pkcs11.so")
}

// A host runs programs with the module in reach.
type host struct {
	tb     testing.TB
	module string
	dir    string
	env    []string
}

func newHost(tb testing.TB, socket string, more ...string) *host {
	tb.Helper()
	h := &host{tb: tb, module: module(tb), dir: tb.TempDir()}
	h.env = append(os.Environ(), "KEYRINGD_PKCS11_SOCKET="+socket, "HOME="+h.dir, "XDG_CONFIG_HOME="+h.dir+"/.config", "LC_ALL=C")
	h.env = append(h.env, more...)
	return h
}

func (h *host) try(name string, args ...string) (string, error) {
	h.tb.Helper()
	need(h.tb, name)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = h.dir, h.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func (h *host) run(name string, args ...string) string {
	h.tb.Helper()
	out, err := h.try(name, args...)
	if err != nil {
		h.tb.Fatal(err)
	}
	return out
}

// tool runs pkcs11-tool with a module, ours if it is "".
func (h *host) tool(module string, args ...string) string {
	h.tb.Helper()
	if module == "" {
		module = h.module
	}
	return h.run("pkcs11-tool", append([]string{"--module", module}, args...)...)
}

func (h *host) write(name string, data []byte) string {
	h.tb.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		h.tb.Fatal(err)
	}
	return path
}

func wantIn(tb testing.TB, text string, want ...string) {
	tb.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			tb.Errorf("%q is missing in:\n%s", w, text)
		}
	}
}

// A softHSM is a SoftHSM token with an EC and an RSA key, served by p11-kit.
type softHSM struct {
	socket string
	env    string // where its configuration is
	direct string // SoftHSM's own module
	kill   func() // ends the server
}

func newSoftHSM(tb testing.TB) *softHSM {
	tb.Helper()
	need(tb, "softhsm2-util", "pkcs11-tool", "p11-kit")
	dir, err := os.MkdirTemp("", "kr") // not TempDir: a socket's path is short
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	s := &softHSM{
		socket: filepath.Join(dir, "s"),
		env:    "SOFTHSM2_CONF=" + filepath.Join(dir, "conf"),
		direct: library(tb, "/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so"),
	}
	conf := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", dir)
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o600); err != nil {
		tb.Fatal(err)
	}
	for _, args := range [][]string{
		{"softhsm2-util", "--init-token", "--free", "--label", "soft", "--pin", pin, "--so-pin", "5678"},
		{"pkcs11-tool", "--module", s.direct, "-l", "--pin", pin, "--keypairgen", "--key-type", "EC:prime256v1", "--id", "01", "--label", "ec"},
		{"pkcs11-tool", "--module", s.direct, "-l", "--pin", pin, "--keypairgen", "--key-type", "rsa:2048", "--id", "02", "--label", "rsa"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), s.env)
		if out, err := cmd.CombinedOutput(); err != nil {
			tb.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}

	server := exec.Command("p11-kit", "server", "-f", "-n", s.socket, "--provider", s.direct, "pkcs11:token=soft")
	server.Env = append(os.Environ(), s.env)
	var log bytes.Buffer
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		tb.Fatal(err)
	}
	done := make(chan struct{})
	go func() { server.Wait(); close(done) }()
	s.kill = func() { server.Process.Kill(); <-done }
	tb.Cleanup(s.kill)
	await(tb, "p11-kit server listens", func() bool {
		conn, err := net.Dial("unix", s.socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return s
}

// await polls until something is so.
func await(tb testing.TB, what string, so func() bool) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(patience)
	for !so() {
		select {
		case <-tick.C:
		case <-end:
			tb.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// A softKey signs whatever crypto.Signer does.
type softKey struct {
	*keyringtest.FakeKey
	signer crypto.Signer
}

func (k softKey) Sign(_ context.Context, _ secret.Bytes, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.signer.Sign(rand.Reader, digest, opts)
}

// newKeyringd serves an EC and an RSA key at a socket with keyringd's server.
func newKeyringd(tb testing.TB) (socket string) {
	tb.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		tb.Fatal(err)
	}
	keys := keyring.NewKeys(keyring.NewGate(&keyringtest.FakePrompter{}))
	var all []keyring.Key
	for name, signer := range map[string]crypto.Signer{"ec": ec, "rsa": rsaKey} {
		all = append(all, softKey{keyringtest.NewFakeKey(signer, keyring.KindFile, name, "/home/mia/.ssh/"+name), signer})
	}
	keys.Replace("test", all)

	dir, err := os.MkdirTemp("", "kr")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "pkcs11")
	l, err := net.Listen("unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	server := pkcs11.New(keys, slog.New(slog.DiscardHandler), pkcs11.Options{})
	go func() { done <- server.Serve(ctx, l) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	return socket
}

// idOf returns the CKA_ID of the private key of a type, "EC" or "RSA", as
// pkcs11-tool lists it.
func (h *host) idOf(kind string) string {
	h.tb.Helper()
	out := h.tool("", "-O", "--type", "privkey")
	found := regexp.MustCompile(`Private Key Object; ` + kind + `[^;]*?ID: +([0-9a-f]+)`).FindStringSubmatch(out)
	if found == nil {
		h.tb.Fatalf("no %s key in:\n%s", kind, out)
	}
	return found[1]
}
