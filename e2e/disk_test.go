package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	godbus "github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/daemontest"
	"github.com/keyringd/keyringd/internal/secretstest"
)

// A ledger is what a client was told is stored: path of an item → its secret.
type ledger map[godbus.ObjectPath]string

// add stores one more item, and notes it if that was acknowledged.
func (l ledger) add(client *secretstest.Client, number int, size int) error {
	value := fmt.Sprintf("%d %s", number, strings.Repeat("x", size))
	item, err := client.Store(secretstest.Login, fmt.Sprint("item ", number), map[string]string{"n": fmt.Sprint(number)}, []byte(value), true)
	if err == nil {
		l[item] = value
	}
	return err
}

// check wants that the collection is exactly what the ledger says.
func (l ledger) check(t *testing.T, client *secretstest.Client, when string) {
	t.Helper()
	items, err := client.Items(secretstest.Login)
	if err != nil || len(items) != len(l) {
		t.Errorf("%s: %d items, want %d; %v", when, len(items), len(l), err)
	}
	for _, item := range items {
		got, err := client.Secret(item)
		if err != nil {
			t.Errorf("%s: %s: %v", when, item, err)
		} else if want, ok := l[item]; !ok || string(got) != want {
			t.Errorf("%s: %s is %.30q, want %.30q", when, item, got, want)
		}
	}
}

// refusedFor wants an error by the name that programs know, with a reason and a
// hint that help a person.
func refusedFor(t *testing.T, what string, err error, reasons ...string) {
	t.Helper()
	var e godbus.Error
	if !errors.As(err, &e) || e.Name != "org.freedesktop.DBus.Error.Failed" {
		t.Errorf("%s: %v", what, err)
		return
	}
	for _, reason := range append(reasons, "nothing was changed", "hint: ") {
		if !strings.Contains(e.Error(), reason) {
			t.Errorf("%s: %q is not in %q", what, reason, e.Error())
		}
	}
}

// TestFullDisk stores secrets until there is no room, and goes on doing so: each
// is refused with a reason, what was acknowledged is there and can be read, and
// nothing else is; with room again, and after a crash, too.
func TestFullDisk(t *testing.T) {
	for _, kind := range []struct {
		name string
		make func(t *testing.T, c cabinet) (full func(bool))
	}{{"no file grows", limitedFiles}, {"file system", smallDisk}} {
		t.Run(kind.name, func(t *testing.T) {
			c := cabinet{&desk{Session: daemontest.New(t), t: t, bus: bustest.Start(t)}}
			// The prompter's files may be limited, too, so that it keeps no notes.
			c.Write("pinentry", strings.ReplaceAll(chooser, `printf '%s\n' "$line" >>"$dir/asked"`, ":"), 0o700)
			c.Write("new", passphrase, 0o600)
			c.Answer(passphrase)
			full := kind.make(t, c)
			c.begin("none")
			client := c.open()
			acknowledged, n := ledger{}, 0
			for range 20 {
				if err := acknowledged.add(client, n, 500); err != nil {
					t.Fatal(err)
				}
				n++
			}
			for round := range 3 {
				full(true)
				refused := 0
				for range 10 {
					// Large ones: the pages that are there have some room.
					if err := acknowledged.add(client, n, 20_000); err != nil {
						refused++
						refusedFor(t, "CreateItem", err, "make room")
					}
					n++
				}
				if refused == 0 {
					t.Error("the disk is not full")
				}
				for item := range acknowledged {
					err := client.SetSecret(item, bytes.Repeat([]byte("y"), 20_000))
					if err == nil {
						acknowledged[item] = strings.Repeat("y", 20_000)
					} else {
						refusedFor(t, "SetSecret", err, "make room")
					}
					break
				}
				when := fmt.Sprint("full for the ", round+1, ". time")
				acknowledged.check(t, client, when)
				if client.Lock(secretstest.Login) != nil || client.Unlock(secretstest.Login) != nil {
					t.Errorf("%s: it does not lock and unlock", when)
				}
				acknowledged.check(t, client, when+", locked and unlocked")
				if round == 1 { // a crash while there is no room
					c.Kill()
					c.begin("none")
					client = c.open()
					acknowledged.check(t, client, when+", after a crash")
				}
				full(false)
				if err := acknowledged.add(client, n, 20_000); err != nil {
					t.Errorf("with room again: %v", err)
				}
				n++
				acknowledged.check(t, client, when+", with room again")
			}
			c.Kill()
			c.begin("none")
			acknowledged.check(t, c.open(), "after a crash")
		})
	}
}

// limitedFiles makes a disk full by a limit on how far the daemon's files grow.
// Somebody who restarts it takes that away.
func limitedFiles(t *testing.T, c cabinet) (full func(bool)) {
	return func(full bool) {
		t.Helper()
		limit := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
		if full {
			limit.Cur = 4096
		}
		if err := unix.Prlimit(c.PID(), unix.RLIMIT_FSIZE, &limit, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// smallDisk puts the data folder on a file system of two megabytes.
func smallDisk(t *testing.T, c cabinet) (full func(bool)) {
	t.Helper()
	data := filepath.Join(c.Dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	inside := mounts(t, c.Session, "mount -t tmpfs -o size=2m,mode=0700 small "+data)
	filler := inside + data + "/filler"
	return func(full bool) {
		t.Helper()
		if !full {
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			return
		}
		f, err := os.Create(filler)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, 512))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
}

// mounts runs the session's daemons from now on in a view of the file system of
// their own, in which a shell command has mounted something. It returns where
// the test sees that view. Only root can mount.
func mounts(t *testing.T, s *daemontest.Session, command string) (root string) {
	t.Helper()
	for _, program := range []string{"unshare", "nsenter", "mount"} {
		bustest.Need(t, program)
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	// It holds the view until the end of the test: what is on a tmpfs lasts as
	// long as somebody sees it.
	holder := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-ec", command+"; echo mounted; exec cat")
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	holder.Stderr = os.Stderr
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, out)
		_ = holder.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "mounted\n" {
		t.Skipf("this system does not let root mount: %v", err)
	}
	s.Wrap = []string{"nsenter", fmt.Sprint("--mount=/proc/", holder.Process.Pid, "/ns/mnt"), "--"}
	return fmt.Sprint("/proc/", holder.Process.Pid, "/root")
}
