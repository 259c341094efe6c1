package e2e

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	sshagent "golang.org/x/crypto/ssh/agent"

	"github.com/keyringd/keyringd/tpm/tpmtest"
)

const decade = 10 * 365 * 24 * time.Hour

// TestClockJumps sets the wall clock of the daemon back and forth: what is
// remembered for a time is so for that time, and never for longer.
func TestClockJumps(t *testing.T) {
	tpm := tpmtest.Start(t)
	c := newCabinet(t, tpm.Address().String(), "--remember", "2s")
	c.Key("pin", tpm.OpenSSLKey(t, "EC:P-256", "4711", 0))
	c.Key("plain", tpm.OpenSSLKey(t, "EC:P-256", "", 0))
	c.Answer("4711")
	c.Write("new", "4711", 0o600)
	jump := shiftedClock(t, c.PID())
	secrets := c.open()
	agent := c.Client()
	add := func(comment string, lifetime uint32) {
		t.Helper()
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := agent.Add(sshagent.AddedKey{PrivateKey: key, Comment: comment, LifetimeSecs: lifetime}); err != nil {
			t.Fatal(err)
		}
	}
	listed := func(comment string) bool {
		t.Helper()
		keys, err := agent.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range keys {
			if k.Comment == comment {
				return true
			}
		}
		return false
	}
	signs := func() {
		t.Helper()
		if err := verify(t, c.Session, "pin", []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	await(t, 10*time.Second, "keys", func() bool { return listed("pin") && listed("plain") })

	for _, by := range []time.Duration{-decade, decade} {
		t.Run(by.String(), func(t *testing.T) {
			signs()
			add("short", 2)
			add("long", 3600)
			asked := c.Prompts()
			jump(by)
			if back := by < 0; listed("long") != back || !back && listed("short") {
				t.Errorf("a key for an hour is listed: %v, one for two seconds: %v", listed("long"), listed("short"))
			}
			// Set forward, the clock may have been so while the machine slept.
			await(t, 20*time.Second, "end of what was for two seconds", func() bool {
				signs()
				return c.Prompts() > asked && !listed("short")
			})
			if err := verify(t, c.Session, "plain", []byte("y")); err != nil {
				t.Error(err)
			}
			// A time is only told, and orders nothing.
			label := "stored at " + by.String()
			item, err := secrets.Store("/org/freedesktop/secrets/collection/login", label, map[string]string{"by": by.String()}, []byte(label), true)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := secrets.Secret(item); err != nil || string(got) != label {
				t.Errorf("the item: %q, %v", got, err)
			}
			var created godbus.Variant
			if err := secrets.Call(item, "org.freedesktop.DBus.Properties.Get", []any{"org.freedesktop.Secret.Item", "Created"}, &created); err != nil {
				t.Fatal(err)
			}
			at, _ := created.Value().(uint64)
			if off := time.Until(time.Unix(int64(at), 0)) - by; off.Abs() > time.Hour {
				t.Errorf("the item is from %v: the clock was not set", time.Unix(int64(at), 0))
			}
			jump(0)
		})
	}
	c.again(tpm.Address().String())
	secrets = c.open()
	for _, by := range []time.Duration{-decade, decade} {
		if unlocked, _, err := secrets.Search(map[string]string{"by": by.String()}); err != nil || len(unlocked) != 1 {
			t.Errorf("stored at %v: %v, %v", by, unlocked, err)
		}
	}
}

// shiftedClock gives a running process a wall clock of its own, and returns what
// sets it: to the machine's and by. The process reads the clock as every other
// does, by a function that the kernel maps into it (vdso(7)), and no preloaded
// library or time namespace reaches that one. Root can write there, and the
// kernel makes it a copy of the process's own.
func shiftedClock(t *testing.T, pid int) (jump func(by time.Duration)) {
	t.Helper()
	if os.Geteuid() != 0 || runtime.GOARCH != "amd64" {
		t.Skip("only root can set the clock of one process, and only on amd64")
	}
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = memory.Close() })
	at, size := clockFunction(t, pid, memory)
	return func(by time.Duration) {
		t.Helper()
		// Nobody may be in the function while it changes.
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
		code := []byte{
			0xb8, 0xe4, 0, 0, 0, // mov eax, SYS_clock_gettime
			0x0f, 0x05, // syscall
			0x85, 0xff, // test edi, edi: is it CLOCK_REALTIME?
			0x75, 0x0d, // jnz ret
			0x48, 0xb9, // mov rcx, the seconds
		}
		code = binary.LittleEndian.AppendUint64(code, uint64(by/time.Second))
		code = append(code, 0x48, 0x01, 0x0e, 0xc3) // add [rsi], rcx; ret
		if uint64(len(code)) > size {
			t.Fatalf("the kernel's function has %d bytes", size)
		}
		if _, err := memory.WriteAt(code, int64(at)); err != nil {
			t.Skipf("this kernel does not let root change a process's code: %v", err)
		}
	}
}

// clockFunction finds the function in the memory of a process.
func clockFunction(t *testing.T, pid int, memory *os.File) (at, size uint64) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		if filepath.Base(fields[len(fields)-1]) != "[vdso]" {
			continue
		}
		low, high, _ := strings.Cut(fields[0], "-")
		from, err := strconv.ParseUint(low, 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		to, err := strconv.ParseUint(high, 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		image := make([]byte, to-from)
		if _, err := memory.ReadAt(image, int64(from)); err != nil {
			t.Fatal(err)
		}
		file, err := elf.NewFile(bytes.NewReader(image))
		if err != nil {
			t.Fatal(err)
		}
		symbols, err := file.DynamicSymbols()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range symbols {
			if s.Name == "__vdso_clock_gettime" {
				return from + s.Value, s.Size
			}
		}
	}
	t.Fatal("the kernel maps no function for the time")
	return 0, 0
}
