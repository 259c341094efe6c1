package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/logtest"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
	"github.com/keyringd/keyringd/sshkeys"
)

// patience is how long a test waits for something that happens at once.
const patience = time.Minute

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A testKey is one of a test's private keys, by the name of its type.
type testKey struct {
	name   string
	signer crypto.Signer
}

func (k testKey) blob() []byte { return must(ssh.NewPublicKey(k.signer.Public())).Marshal() }

func edKey(n byte) testKey {
	return testKey{"ed25519", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))}
}

// testKeys is one key of every type that is served, made once.
var testKeys = sync.OnceValue(func() []testKey {
	return []testKey{
		edKey(1),
		{"p256", must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))},
		{"p384", must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))},
		{"p521", must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))},
		{"rsa", must(rsa.GenerateKey(rand.Reader, 2048))},
	}
})

// fake returns k as a key of the core; its label tells its type.
func (k testKey) fake() *keyringtest.FakeKey {
	return keyringtest.NewFakeKey(k.signer, keyring.KindFile, k.name+" key", "/home/mia/.ssh/"+k.name)
}

// An agentTest is a running Server.
type agentTest struct {
	*Server
	prompter *keyringtest.FakePrompter
	socket   string
	log      *logtest.Buffer
	stop     func() // ends Serve and waits for it; may be called again
}

func fakes(keys ...testKey) []keyring.Key {
	var out []keyring.Key
	for _, k := range keys {
		out = append(out, k.fake())
	}
	return out
}

// start serves keys until the test ends. set, if not nil, may change the
// Server before that.
func start(tb testing.TB, keys []keyring.Key, set func(*Server)) *agentTest {
	tb.Helper()
	a := &agentTest{prompter: &keyringtest.FakePrompter{}, log: &logtest.Buffer{}}
	all := keyring.NewKeys(keyring.NewGate(a.prompter))
	all.Replace("test", keys)
	a.Server = New(all, slog.New(slog.NewTextHandler(a.log, nil)))
	a.Holder = sshkeys.NewAdded(all)
	if set != nil {
		set(a.Server)
	}
	dir := must(os.MkdirTemp("", "kr"))
	tb.Cleanup(func() { os.RemoveAll(dir) })
	a.socket = filepath.Join(dir, "s")
	l := must(net.Listen("unix", a.socket))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Serve(ctx, l) }()
	a.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				tb.Errorf("Serve: %v", err)
			}
		case <-time.After(patience):
			tb.Error("Serve does not return")
		}
	})
	tb.Cleanup(a.stop)
	return a
}

// allow lets every question of the Gate be answered with yes.
func (a *agentTest) allow() {
	a.prompter.Default = func(prompt.Question) keyringtest.Reply { return keyringtest.Reply{} }
}

// answer lets every question of the Gate be answered so.
func (a *agentTest) answer(yes bool) {
	reply := keyringtest.Reply{}
	if !yes {
		reply.Err = prompt.ErrDismissed
	}
	a.prompter.Default = func(prompt.Question) keyringtest.Reply { return reply }
}

// newSession is a session whose answers the test asks for itself.
func newSession(tb testing.TB, keys []keyring.Key) (*session, *logtest.Buffer) {
	tb.Helper()
	fds := must(unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		ends[i] = must(net.FileConn(f)).(*net.UnixConn)
		f.Close()
		tb.Cleanup(func() { ends[i].Close() })
	}
	all := keyring.NewKeys(keyring.NewGate(nil))
	all.Replace("test", keys)
	log := &logtest.Buffer{}
	ctx, cancel := context.WithCancel(context.Background())
	tb.Cleanup(cancel)
	server := New(all, slog.New(slog.NewTextHandler(log, nil)))
	server.Holder = sshkeys.NewAdded(all)
	return &session{server: server, conn: ends[0], raw: must(ends[0].SyscallConn()), ctx: ctx, cancel: cancel}, log
}

func (a *agentTest) dial(tb testing.TB) *net.UnixConn { return dial(tb, a.socket) }

func dial(tb testing.TB, socket string) *net.UnixConn {
	tb.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		tb.Fatal(err)
	}
	return c.(*net.UnixConn)
}

// frame is a request or reply with its length.
func frame(parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func str[T []byte | string](s T) []byte { return appendString(nil, s) }

var listFrame = frame([]byte{msgRequestIdentities})

func signFrame(blob, data []byte, flags uint32) []byte {
	return frame([]byte{msgSignRequest}, str(blob), str(data), binary.BigEndian.AppendUint32(nil, flags))
}

// readReply returns the next reply without its length.
func readReply(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:]))
	_, err := io.ReadFull(r, body)
	return body, err
}

func roundTrip(tb testing.TB, c net.Conn, request []byte) []byte {
	tb.Helper()
	if _, err := c.Write(request); err != nil {
		tb.Fatal(err)
	}
	reply, err := readReply(c)
	if err != nil {
		tb.Fatalf("no reply: %v", err)
	}
	return reply
}

func wantType(tb testing.TB, reply []byte, want byte) {
	tb.Helper()
	if len(reply) == 0 || reply[0] != want {
		tb.Fatalf("reply %.20x, want type %d", reply, want)
	}
}

// wantDropped reads until the other end closes.
func wantDropped(tb testing.TB, c net.Conn) {
	tb.Helper()
	n, err := c.Read(make([]byte, 1))
	if ne, ok := err.(net.Error); err == nil || ok && ne.Timeout() {
		tb.Fatalf("connection still open: read %d bytes, %v", n, err)
	}
}

// await waits until cond holds, looking every millisecond.
func await(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !cond() {
		select {
		case <-tick.C:
		case <-late:
			tb.Fatalf("still waiting for %s", what)
		}
	}
}

func receive[T any](tb testing.TB, c <-chan T, what string) T {
	tb.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		tb.Fatalf("still waiting for %s", what)
		panic("unreachable")
	}
}

// program returns the path of a program, or skips; fails where programs must
// be there.
func program(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
		if p, err := exec.LookPath(dir + name); err == nil {
			return p
		}
	}
	bustest.Missing(t, name)
	return ""
}

// blockingKey is an ed25519 key whose Sign waits until its context ends or
// release is closed; entered and left receive at its start and end.
type blockingKey struct {
	*keyringtest.FakeKey
	entered, left chan struct{}
	release       chan struct{}
}

func newBlockingKey(k testKey) *blockingKey {
	b := &blockingKey{FakeKey: k.fake(), entered: make(chan struct{}, 100), left: make(chan struct{}, 100),
		release: make(chan struct{})}
	b.Hook = func(ctx context.Context) error {
		b.entered <- struct{}{}
		defer func() { b.left <- struct{}{} }()
		select {
		case <-b.release:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("device: %w", ctx.Err())
		}
	}
	return b
}
