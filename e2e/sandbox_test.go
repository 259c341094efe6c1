package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	godbus "github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/internal/confine"
	"github.com/keyringd/keyringd/internal/daemontest"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

func needLandlock(t *testing.T) {
	t.Helper()
	if _, err := confine.Version(); err != nil {
		t.Skip(err)
	}
}

// sandbox is how it stands, as keyringctl says.
func (d *desk) sandbox() string {
	d.t.Helper()
	for line := range strings.Lines(d.mustCtl("status", "--json")) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && strings.Trim(name, `"`) == "Sandbox" {
			return strings.Trim(strings.TrimSpace(value), `",`)
		}
	}
	return ""
}

func (d *desk) awaitSandbox(what string) {
	d.t.Helper()
	await(d.t, "sandbox that is "+what, func() bool { return strings.Contains(d.sandbox(), what) })
}

// children are the processes that a process has started.
func children(t *testing.T, parent int) (pids []int) {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // gone
		}
		// The name may have anything in it.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if fields[1] == strconv.Itoa(parent) && fields[0] != "Z" {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// privileges reports whether a process can still get more than it has.
func privileges(t *testing.T, pid int) bool {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	return !strings.Contains(string(text), "NoNewPrivs:\t1")
}

// TestSandbox has the daemon do from inside what it needs the outside for.
func TestSandbox(t *testing.T) {
	needLandlock(t)
	tpm := tpmtest.Start(t)
	d := newDesk(t, tpm.ResourceManager().Address().String(), "--remember", "0")
	d.awaitSandbox("on (Landlock")
	if privileges(t, d.PID()) {
		t.Error("the daemon is in no domain")
	}
	if n := len(children(t, d.PID())); n != 1 {
		t.Errorf("the daemon has %d children, want the process outside", n)
	}

	// A question is asked, and says who wants what.
	d.Write("new", "a-pin", 0o600)
	d.Answer("a-pin")
	d.mustCtl("key", "new", "guarded")
	before := d.Prompts()
	d.sshSigns(filepath.Join(d.Keys, "guarded.pub"))
	if n := d.Prompts() - before; n != 1 {
		t.Errorf("%d questions for a signature, want one", n)
	}
	if !strings.Contains(d.Questions(), "ssh-keygen (") {
		t.Errorf("no question says who asks:\n%s", d.Questions())
	}

	// Files where a request wants them; but not where programs look for theirs.
	d.mustCtl("key", "new", "./elsewhere", "--no-pin")
	d.mustCtl("keyring", "new", "Mine")
	d.mustCtl("export", "archive")
	for _, name := range []string{"elsewhere", "elsewhere.pub", "archive"} {
		if st, err := os.Stat(filepath.Join(d.Dir, name)); err != nil || st.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	d.refused(1, []string{"permission denied"}, "export", ".profile")
	d.mustCtl("key", "new", "./.hidden", "--no-pin") // is nothing to another program
	d.Write("notes", "my own words", 0o600)
	d.refused(1, []string{"permission denied"}, "export", "notes", "--force")
	if text, err := os.ReadFile(filepath.Join(d.Dir, "notes")); string(text) != "my own words" {
		t.Errorf("a file of another kind is %q now: %v", text, err)
	}

	// A pipe that has a name, and is somebody else's.
	code := d.recoveryCode(filepath.Join(d.Dir, "fifo"))
	if len(code) < 20 {
		t.Errorf("the code that came is %q", code)
	}

	// Another key folder in the place of the one that the domain has.
	if err := os.Rename(d.Keys, d.Keys+"-before"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(d.Keys, 0o700); err != nil {
		t.Fatal(err)
	}
	d.mustCtl("key", "new", "later", "--no-pin")
	await(t, "key in the new folder", func() bool { return strings.Contains(d.mustCtl("key", "list"), d.Keys+"/later") })
	if s := d.sandbox(); !strings.Contains(s, "another folder") {
		t.Errorf("status says %q", s)
	}
}

// recoveryCode has the code of a new slot written into a FIFO.
func (d *desk) recoveryCode(path string) string {
	d.t.Helper()
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		d.t.Fatal(err)
	}
	r, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	defer r.Close()
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	defer w.Close()
	conn, err := godbus.Connect(d.bus.Address)
	if err != nil {
		d.t.Fatal(err)
	}
	defer conn.Close()
	var all []struct{ ID, Label string }
	if err := json.Unmarshal([]byte(d.mustCtl("keyring", "list", "--json")), &all); err != nil {
		d.t.Fatal(err)
	}
	id := ""
	for _, k := range all {
		if k.Label == "Mine" {
			id = k.ID
		}
	}
	const keyrings = "io.github.keyringd.Keyrings1"
	var slot string
	err = conn.Object("io.github.keyringd", "/io/github/keyringd/keyrings").CallWithContext(d.t.Context(), keyrings+".AddRecoverySlot", 0,
		id, godbus.UnixFD(w.Fd())).Store(&slot)
	if err != nil {
		d.t.Fatal(err)
	}
	if flags, err := unix.FcntlInt(w.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
		d.t.Errorf("the pipe's flags are %#o now: %v", flags, err)
	}
	text := make([]byte, 1000)
	n, err := r.Read(text)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(text[:n])
}

// TestSandboxComesWithTheKeyFolder begins without one of them.
func TestSandboxComesWithTheKeyFolder(t *testing.T) {
	needLandlock(t)
	tpm := tpmtest.Start(t)
	dir := filepath.Join(t.TempDir(), "keys")
	d := newDesk(t, tpm.ResourceManager().Address().String(), "--key-dir", dir)
	d.awaitSandbox(dir + " is not there")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d.awaitSandbox("on (Landlock")
	d.mustCtl("key", "new", "first", "--no-pin")
	d.mustCtl("key", "new", filepath.Join(dir, "second"), "--no-pin")
}

func TestSandboxTurnedOff(t *testing.T) {
	d := newDesk(t, "none", "--landlock=false")
	if s := d.sandbox(); !strings.HasPrefix(s, "off") {
		t.Errorf("status says %q", s)
	}
	if !privileges(t, d.PID()) && privileges(t, os.Getpid()) {
		t.Error("the daemon is in a domain")
	}
	if n := len(children(t, d.PID())); n != 0 {
		t.Errorf("the daemon has %d children", n)
	}
}

// TestProcessOutsideIsKilled: the daemon can neither ask nor say who asks, and
// ends, and is as before once it is started again.
func TestProcessOutsideIsKilled(t *testing.T) {
	needLandlock(t)
	s := daemontest.New(t)
	s.Must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "plain", "-f", filepath.Join(s.Keys, "plain"))
	s.Start("none")
	await(t, "sandbox", func() bool { return strings.Contains(s.Log.String(), "in its sandbox") })
	for _, pid := range children(t, s.PID()) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "end of the daemon", func() bool {
		return strings.Contains(s.Log.String(), "keyringd: the process outside of the sandbox has ended")
	})
	s.Kill() // it has ended, and is waited for
	s.Start("none")
	if err := verify(t, s, "plain", []byte("x")); err != nil {
		t.Error(err)
	}
}

// TestProcessOutsideEndsWithTheDaemon, however that ends.
func TestProcessOutsideEndsWithTheDaemon(t *testing.T) {
	needLandlock(t)
	s := daemontest.New(t)
	for name, end := range map[string]func(){"told to": func() { _ = s.Stop() }, "killed": s.Kill} {
		s.Start("none")
		await(t, "process outside", func() bool { return len(children(t, s.PID())) == 1 })
		pid := children(t, s.PID())[0]
		end()
		await(t, "end of the process outside of a daemon that was "+name, func() bool {
			return syscall.Kill(pid, 0) == syscall.ESRCH || zombie(pid)
		})
	}
}

// zombie reports whether a process has ended and nobody has asked how.
func zombie(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err != nil || strings.Contains(string(text), "State:\tZ")
}
