package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	sshagent "golang.org/x/crypto/ssh/agent"

	"github.com/keyringd/keyringd/internal/daemontest"
	"github.com/keyringd/keyringd/internal/secretstest"
)

// hanging is a pinentry that notes its process and never answers.
const hanging = "#!/bin/sh\necho $$ >\"$(dirname \"$0\")/open\"\necho OK\n" +
	"while read -r line; do case $line in GETPIN*) exec sleep 600 ;; *) echo OK ;; esac; done\n"

// openPrompt waits for a hanging pinentry and returns its process.
func openPrompt(t *testing.T, s *daemontest.Session) (pid int) {
	t.Helper()
	await(t, "prompt", func() bool {
		text, _ := os.ReadFile(filepath.Join(s.Dir, "open"))
		n, _ := fmt.Sscan(string(text), &pid)
		return n == 1
	})
	return pid
}

// TestSessionBusRestarts ends the session bus again and again: the names come
// back, what was unlocked stays so, D-Bus sessions do not outlive their bus, and
// neither do the questions that were asked for its clients.
func TestSessionBusRestarts(t *testing.T) {
	c := newCabinet(t, "none")
	item, err := c.open().Store(secretstest.Login, "Mail", map[string]string{"user": "mia"}, []byte("swordfish"), true)
	if err != nil {
		t.Fatal(err)
	}
	openSession := func(conn *godbus.Conn) (session godbus.ObjectPath) {
		t.Helper()
		var output godbus.Variant
		err := conn.Object("org.freedesktop.secrets", "/org/freedesktop/secrets").
			Call("org.freedesktop.Secret.Service.OpenSession", 0, "plain", godbus.MakeVariant("")).Store(&output, &session)
		if err != nil {
			t.Fatal(err)
		}
		return session
	}
	secret := func(conn *godbus.Conn, session godbus.ObjectPath) (string, error) {
		var s secretstest.Secret
		err := conn.Object("org.freedesktop.secrets", item).Call("org.freedesktop.Secret.Item.GetSecret", 0, session).Store(&s)
		return string(s.Value), err
	}
	before := c.Prompts()
	conn := c.connect()
	session := openSession(conn)
	var worst time.Duration
	const restarts = 10
	for range restarts {
		c.bus.Restart()
		start := time.Now()
		conn = c.connect()
		for _, name := range []string{"org.freedesktop.secrets", "io.github.keyringd"} {
			await(t, name+" on the new bus", func() bool {
				var owned bool
				err := conn.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, name).Store(&owned)
				return err == nil && owned
			})
		}
		worst = max(worst, time.Since(start))
		var name godbus.Error
		if _, err := secret(conn, session); !errors.As(err, &name) || name.Name != "org.freedesktop.Secret.Error.NoSession" {
			t.Errorf("with a session of the bus before: %v", err)
		}
		session = openSession(conn)
		if value, err := secret(conn, session); err != nil || value != "swordfish" {
			t.Fatalf("the secret is %q, %v", value, err)
		}
	}
	t.Logf("%d restarts; the names were back after %v at most", restarts, worst)
	if n := c.Prompts() - before; n != 0 {
		t.Errorf("%d questions, want none", n)
	}

	c.Write("pinentry", hanging, 0o700)
	if err := c.client().Lock(secretstest.Login); err != nil {
		t.Fatal(err)
	}
	client := c.client()
	unlocked := make(chan error, 1)
	go func() { unlocked <- client.Unlock(secretstest.Login) }()
	pid := openPrompt(t, c.Session)
	c.bus.Restart()
	if err := <-unlocked; err == nil {
		t.Error("unlocked by a question that nobody answered")
	}
	await(t, "end of the prompt", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
}

// connect returns a plain connection to the bus.
func (c cabinet) connect() *godbus.Conn {
	c.t.Helper()
	conn, err := godbus.Connect(c.bus.Address)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// sockets are where a session listens.
func sockets(s *daemontest.Session) []string {
	return []string{s.Socket, filepath.Join(filepath.Dir(s.Socket), "pkcs11"), filepath.Join(s.Runtime(), "keyring", "control")}
}

// listens reports whether the daemon, and no other process, is at a socket.
func listens(t *testing.T, s *daemontest.Session, path string) bool {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return false
	}
	defer conn.Close()
	pid, err := peer(conn)
	if err != nil {
		t.Fatal(err)
	}
	return pid == s.PID()
}

// TestSocketsTakenAway removes the sockets, then their folders, and then puts a
// live socket of another program's into the place of one: they come back, but
// not over somebody else.
func TestSocketsTakenAway(t *testing.T) {
	t.Parallel()
	s := daemontest.New(t)
	s.Must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "key", "-f", filepath.Join(s.Keys, "key"))
	s.Start("none")
	all := sockets(s)
	held := s.Client() // a connection outlives the name of its socket
	back := func(what string) {
		t.Helper()
		for _, path := range all {
			await(t, path+" after "+what, func() bool { return listens(t, s, path) })
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("after %s: %v, %v", what, info.Mode(), err)
			}
			if info, err = os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("the folder after %s: %v, %v", what, info.Mode(), err)
			}
		}
		if err := verify(t, s, "key", []byte(what)); err != nil {
			t.Errorf("after %s: %v", what, err)
		}
	}
	back("the start")
	for _, path := range all {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	back("the sockets were removed")
	for _, dir := range []string{filepath.Dir(s.Socket), s.Runtime()} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(s.Dir, "xdg"), 0o700); err != nil { // as logind does for the next login
		t.Fatal(err)
	}
	back("the runtime folder was removed")

	if err := os.Remove(s.Socket); err != nil {
		t.Fatal(err)
	}
	other, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.Socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	const told = "socket was taken away and cannot be made again"
	await(t, "word of another owner", func() bool { return strings.Contains(s.Log.String(), told) })
	if listens(t, s, s.Socket) {
		t.Error("the daemon took the socket from a live owner")
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	back("the other owner left")
	if n := strings.Count(s.Log.String(), told); n != 1 {
		t.Errorf("the other owner is told of %d times, want once", n)
	}
	if keys, err := held.List(); err != nil || len(keys) != 1 {
		t.Errorf("the connection from before: %v, %v", keys, err)
	}
}

// flood is how many connections a flood makes.
const flood = 10_000

// TestFlood opens thousands of connections, with and without half a request, to
// a daemon with few descriptors: it lives, gives back what they took, and goes
// on serving on every front.
func TestFlood(t *testing.T) {
	c := newCabinet(t, "none")
	c.Must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "key", "-f", filepath.Join(c.Keys, "key"))
	secrets := c.open()
	item, err := secrets.Store(secretstest.Login, "Mail", map[string]string{"user": "mia"}, []byte("swordfish"), true)
	if err != nil {
		t.Fatal(err)
	}
	c.limitDescriptors(256)
	serves := func() bool {
		conn, err := net.Dial("unix", c.Socket)
		if err != nil {
			return false
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		agent := sshagent.NewClient(conn)
		keys, err := agent.List()
		if err != nil || len(keys) != 1 {
			return false
		}
		_, err = agent.Sign(keys[0], []byte("x"))
		return err == nil
	}
	await(t, "the key", serves)
	for _, f := range []struct {
		name   string
		socket string
		first  []byte
	}{
		{"idle connections", c.Socket, nil},
		{"half messages", c.Socket, []byte{0, 4, 0, 0, 13, 0, 0}}, // 256 KiB of a sign request are to come
		{"half calls", sockets(c.Session)[1], []byte{0, 0, 0, 0, 9}},
	} {
		t.Run(f.name, func(t *testing.T) {
			before := footprintOf(t, c.PID())
			floodWith(t, f.socket, f.first)
			await(t, "a signature after all that", serves)
			if got, err := secrets.Secret(item); err != nil || string(got) != "swordfish" {
				t.Errorf("a secret after all that: %q, %v", got, err)
			}
			await(t, "a PKCS #11 client after all that", func() bool {
				out, err := tokenTool(t, c.Session, "-O")
				return err == nil && strings.Contains(out, "Private Key Object")
			})
			var now footprint
			await(t, "the daemon to be as it was", func() bool {
				now = footprintOf(t, c.PID())
				return now.descriptors <= before.descriptors+2
			})
			t.Logf("%d %s: %+v, then %+v", flood, f.name, before, now)
			if now.kilobytes-before.kilobytes > 32<<10 {
				t.Errorf("RSS grew from %d to %d kB", before.kilobytes, now.kilobytes)
			}
			// Threads that the Go runtime has made for a burst stay, but connections
			// must not need one each.
			if now.threads > before.threads+16 {
				t.Errorf("there are %d threads, were %d", now.threads, before.threads)
			}
		})
	}
	// It did come to its limit, and a flood of connections is none of the journal.
	if n := strings.Count(c.Log.String(), "too many open files"); n == 0 || n > 40 {
		t.Errorf("the journal has %d lines on descriptors", n)
	}
}
