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
	"strings"
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
	await(t, "keys", func() bool { return listed("pin") && listed("plain") })

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
			await(t, "end of what was for two seconds", func() bool {
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
//
// A thread may be inside the function at any time, so it stays as it is. Ours
// takes the place of gettimeofday(2), which Go has no use for, and then the
// variable by which Go's runtime finds clock_gettime(2) points to it.
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
	mappings := mapped(t, pid)
	kernel := kernelFunctions(t, memory, mappings)
	code := []byte{
		0xb8, 0xe4, 0, 0, 0, // mov eax, SYS_clock_gettime
		0x0f, 0x05, // syscall
		0x85, 0xff, // test edi, edi: is it CLOCK_REALTIME?
		0x75, 0x0a, // jnz ret
		0x48, 0x8b, 0x0d, 0x06, 0, 0, 0, // mov rcx, [rip+6], the seconds
		0x48, 0x01, 0x0e, // add [rsi], rcx
		0xc3, // ret
		0, 0, // the seconds, where eight bytes are written as one
	}
	ours, offset := kernel["__vdso_gettimeofday"], uint64(len(code))
	if ours.Value%8 != 0 || offset%8 != 0 || offset+8 > ours.Size {
		t.Fatalf("the kernel's function has %d bytes at %#x", ours.Size, ours.Value)
	}
	write := func(at uint64, data []byte) {
		t.Helper()
		if _, err := memory.WriteAt(data, int64(at)); err != nil {
			t.Skipf("this kernel does not let root change a process's code: %v", err)
		}
	}
	jump = func(by time.Duration) {
		t.Helper()
		write(ours.Value+offset, binary.NativeEndian.AppendUint64(nil, uint64(by/time.Second)))
	}
	write(ours.Value, code)
	jump(0)
	write(variable(t, memory, mappings, kernel["__vdso_clock_gettime"].Value), binary.NativeEndian.AppendUint64(nil, ours.Value))
	return jump
}

// A mapping is a line of a process's /proc/PID/maps.
type mapping struct {
	from, to           uint64
	permissions, place string
}

func (m mapping) read(t *testing.T, memory *os.File) []byte {
	t.Helper()
	data := make([]byte, m.to-m.from)
	if _, err := memory.ReadAt(data, int64(m.from)); err != nil {
		t.Fatal(err)
	}
	return data
}

func mapped(t *testing.T, pid int) (all []mapping) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		var m mapping
		var skipped string
		// The place is missing where memory is nobody's file.
		if n, err := fmt.Sscanf(line, "%x-%x %s %s %s %s %s", &m.from, &m.to, &m.permissions, &skipped, &skipped, &skipped, &m.place); n < 6 {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, m)
	}
	return all
}

// kernelFunctions are those that the kernel maps into a process, by their names,
// at their addresses there.
func kernelFunctions(t *testing.T, memory *os.File, mappings []mapping) map[string]elf.Symbol {
	t.Helper()
	for _, m := range mappings {
		if m.place != "[vdso]" {
			continue
		}
		file, err := elf.NewFile(bytes.NewReader(m.read(t, memory)))
		if err != nil {
			t.Fatal(err)
		}
		symbols, err := file.DynamicSymbols()
		if err != nil {
			t.Fatal(err)
		}
		functions := map[string]elf.Symbol{}
		for _, s := range symbols {
			s.Value += m.from
			functions[s.Name] = s
		}
		return functions
	}
	t.Fatal("the kernel maps no functions")
	return nil
}

// variable finds the one variable of the program that holds a value.
func variable(t *testing.T, memory *os.File, mappings []mapping, value uint64) uint64 {
	t.Helper()
	want := binary.NativeEndian.AppendUint64(nil, value)
	var found []uint64
	for i, m := range mappings {
		// Variables that start as zero follow the file's in memory of their own.
		if m.place == "" && i > 0 && mappings[i-1].to == m.from {
			m.place = mappings[i-1].place
		}
		if filepath.Base(m.place) != "keyringd" || !strings.HasPrefix(m.permissions, "rw") {
			continue
		}
		data := m.read(t, memory)
		for i := 0; i < len(data); i += 8 {
			if bytes.Equal(data[i:i+8], want) {
				found = append(found, m.from+uint64(i))
			}
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d variables hold %#x", len(found), value)
	}
	return found[0]
}
