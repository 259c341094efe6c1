package caller

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeProc writes a proc file system of processes.
type fakeProcess struct {
	pid, ppid, session int
	start              uint64
	comm, exe          string
}

func fakeProc(t *testing.T, ps ...fakeProcess) proc {
	t.Helper()
	dir := t.TempDir()
	for _, p := range ps {
		d := filepath.Join(dir, strconv.Itoa(p.pid))
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		stat := fmt.Sprintf("%d (%s) S %d %d %d 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 %d 9 9 9\n",
			p.pid, p.comm, p.ppid, p.pid, p.session, p.start)
		if err := os.WriteFile(filepath.Join(d, "stat"), []byte(stat), 0o644); err != nil {
			t.Fatal(err)
		}
		if p.exe != "" {
			if err := os.Symlink(p.exe, filepath.Join(d, "exe")); err != nil {
				t.Fatal(err)
			}
		}
	}
	return proc{dir: dir, self: 99}
}

func TestChain(t *testing.T) {
	for _, test := range []struct {
		name string
		ps   []fakeProcess
		want string
	}{
		{"up to the session leader", []fakeProcess{
			{pid: 4711, ppid: 30, session: 20, start: 9, comm: "x", exe: "/usr/bin/ssh"},
			{pid: 30, ppid: 20, session: 20, start: 8, comm: "git", exe: "/usr/bin/git"},
			{pid: 20, ppid: 10, session: 20, start: 7, comm: "zsh", exe: "/bin/zsh"},
			{pid: 10, ppid: 1, session: 10, start: 6, comm: "term", exe: "/usr/bin/term"},
		}, "ssh (4711) ← git ← zsh"},
		{"names itself something else", []fakeProcess{
			{pid: 4711, ppid: 1, session: 2, comm: "ssh", exe: "/tmp/evil"},
		}, "evil (4711)"},
		{"executable unreadable", []fakeProcess{{pid: 4711, ppid: 1, session: 2, comm: "gpg-agent"}}, "gpg-agent (4711)"},
		{"upgraded meanwhile", []fakeProcess{
			{pid: 4711, ppid: 1, session: 2, comm: "x", exe: "/usr/bin/ssh (deleted)"},
		}, "ssh (4711)"},
		{"stops at systemd", []fakeProcess{
			{pid: 4711, ppid: 10, session: 2, start: 9, comm: "ssh"},
			{pid: 10, ppid: 1, session: 10, start: 1, comm: "systemd", exe: "/lib/systemd/systemd"},
		}, "ssh (4711)"},
		{"stops at ourselves", []fakeProcess{
			{pid: 4711, ppid: 99, session: 2, start: 9, comm: "ssh"},
			{pid: 99, ppid: 1, session: 2, start: 1, comm: "keyringd"},
		}, "ssh (4711)"},
		{"a parent younger than its child", []fakeProcess{
			{pid: 4711, ppid: 10, session: 2, start: 9, comm: "ssh"},
			{pid: 10, ppid: 1, session: 2, start: 10, comm: "recycled"},
		}, "ssh (4711)"},
		{"a ring", []fakeProcess{
			{pid: 4711, ppid: 10, session: 2, start: 9, comm: "a"},
			{pid: 10, ppid: 4711, session: 2, start: 9, comm: "b"},
		}, "a (4711) ← b ← a ← b ← a ← …"},
		{"names that look like links", []fakeProcess{
			{pid: 4711, ppid: 1, session: 2, comm: "x", exe: "/tmp/ssh (1) ← git"},
		}, "ssh \uFFFD1\uFFFD \uFFFD git (4711)"},
		{"terminal escapes", []fakeProcess{
			{pid: 4711, ppid: 1, session: 2, comm: "a\x1b[2J\nb) (\u202Ec"},
		}, "a\uFFFD[2J\uFFFDb\uFFFD \uFFFD\uFFFDc (4711)"},
		{"no name at all", []fakeProcess{{pid: 4711, ppid: 1, session: 2}}, "? (4711)"},
		{"long name", []fakeProcess{
			{pid: 4711, ppid: 1, session: 2, exe: "/" + strings.Repeat("n", 200)},
		}, strings.Repeat("n", maxName-1) + "… (4711)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := Peer{PID: 4711}
			p.describe(fakeProc(t, test.ps...).look, func() bool { return true })
			if p.Process != test.want {
				t.Errorf("got  %q\nwant %q", p.Process, test.want)
			}
		})
	}
}

func TestFlatpak(t *testing.T) {
	r := fakeProc(t, fakeProcess{pid: 7, ppid: 1, session: 2, comm: "ssh", exe: "/app/bin/ssh"})
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(r.dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	link := func(path, target string) {
		t.Helper()
		path = filepath.Join(r.dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	link("7/ns/mnt", "mnt:[2]")
	link("self/ns/mnt", "mnt:[1]")
	write("7/root/.flatpak-info", "[Instance]\nname=no\n[Application]\nname=org.example.\x1bApp\nruntime=x\n")
	p := Peer{PID: 7}
	p.describe(r.look, func() bool { return true })
	if p.App != "org.example.\uFFFDApp" || p.Process != "ssh (7, Flatpak org.example.\uFFFDApp)" || p.Program != "" {
		t.Errorf("%+v", p)
	}
}

// A peer's own file system may never answer.
func TestSandboxThatHangs(t *testing.T) {
	for range cap(lookers) {
		lookers <- struct{}{}
	}
	defer func() {
		for range cap(lookers) {
			<-lookers
		}
	}()
	if program, app := host.sandbox(os.Getpid(), "/bin/true"); program != "" || app != "" {
		t.Errorf("looked although all lookers are stuck: %q %q", program, app)
	}
}

func TestReadSomeDoesNotWait(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { _, err := readSome(fifo, 10); done <- err }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("read a FIFO")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("waits for a FIFO's writer")
	}
	if b, err := readSome("/proc/self/status", 10); err != nil || len(b) != 10 {
		t.Errorf("%q %v", b, err)
	}
}

func FuzzParseStat(f *testing.F) {
	if b, err := os.ReadFile("/proc/self/stat"); err == nil {
		f.Add(b)
	}
	f.Add([]byte("1 (a) b (c\n) S 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23"))
	f.Add([]byte("1 ()) S 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22"))
	f.Add([]byte(")("))
	f.Add([]byte("1 (x) S -1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseStat(b)
		if err != nil {
			if s != (status{}) {
				t.Errorf("error with %+v", s)
			}
			return
		}
		if s.ppid < 0 || s.session < 0 {
			t.Errorf("negative: %+v", s)
		}
		again := fmt.Appendf(nil, "1 (%s) S %d 0 %d 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 %d", s.comm, s.ppid, s.session, s.start)
		if s2, err := parseStat(again); err != nil || s2 != s {
			t.Errorf("%+v, written and read again: %+v %v", s, s2, err)
		}
	})
}

func TestParseStatOfAHostileName(t *testing.T) {
	b := []byte("12 (a) R 1 1 1\n(x)) S 34 12 56 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 789 0")
	s, err := parseStat(b)
	if want := (status{comm: "a) R 1 1 1\n(x)", ppid: 34, session: 56, start: 789}); err != nil || s != want {
		t.Errorf("%+v %v", s, err)
	}
}
