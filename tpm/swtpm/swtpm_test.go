package swtpm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/tpm/link"
)

// begin starts a software TPM in a short-named folder.
func begin(t *testing.T, o Options) *Process {
	t.Helper()
	bustest.Need(t, "swtpm")
	if o.Dir == "" {
		o.Dir = filepath.Join(tempDir(t), "state")
	}
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill() })
	return p
}

func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func dial(t *testing.T, p *Process) *link.Link {
	t.Helper()
	l, err := link.Dial(t.Context(), p.Address(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// orderlyBit says whether the TPM was shut down in order before its last start
// (TPMA_STARTUP_CLEAR.orderly).
func orderlyBit(t *testing.T, l *link.Link) bool {
	t.Helper()
	rsp, err := tpm2.GetCapability{
		Capability:    tpm2.TPMCapTPMProperties,
		Property:      uint32(tpm2.TPMPTStartupClear),
		PropertyCount: 1,
	}.Execute(l)
	if err != nil {
		t.Fatal(err)
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil || len(list.TPMProperty) != 1 {
		t.Fatal(list, err)
	}
	return list.TPMProperty[0].Value>>31 == 1
}

// until waits for something that no event tells of.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("never: " + what)
		}
	}
}

func random(l *link.Link) error {
	_, err := tpm2.GetRandom{BytesRequested: 8}.Execute(l)
	return err
}

func TestStartServesOneConnectionAfterTheOther(t *testing.T) {
	t.Parallel()
	p := begin(t, Options{})
	for range 3 {
		l := dial(t, p)
		for range 3 {
			if err := random(l); err != nil {
				t.Fatal(err)
			}
		}
		l.Close()
	}
	state, err := filepath.Glob(filepath.Join(p.options.Dir, "*.permall"))
	if err != nil || len(state) != 1 {
		t.Fatal(state, err)
	}
	for path, want := range map[string]os.FileMode{p.options.Dir: 0o700, p.options.Socket: 0o600, state[0]: 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
}

func TestStopIsOrderlyAndKillIsNot(t *testing.T) {
	t.Parallel()
	o := Options{Dir: filepath.Join(tempDir(t), "state")}
	p := begin(t, o)
	pid := p.PID()
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if syscall.Kill(pid, 0) != syscall.ESRCH {
		t.Error("Stop returned before the child was reaped")
	}
	if err := p.Stop(); err != nil {
		t.Error("stopping twice:", err)
	}
	if _, err := os.Stat(p.options.Socket); err == nil {
		t.Error("the socket stays behind")
	}

	p = begin(t, o)
	l := dial(t, p)
	if !orderlyBit(t, l) {
		t.Error("Stop was not orderly")
	}
	l.Close()
	p.Kill()

	p = begin(t, o)
	if orderlyBit(t, dial(t, p)) {
		t.Error("Kill was orderly")
	}
}

func TestStopWhileTheConnectionIsHeld(t *testing.T) {
	t.Parallel()
	p := begin(t, Options{})
	l := dial(t, p)
	if err := random(l); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(); err == nil || !strings.Contains(err.Error(), "without TPM2_Shutdown") {
		t.Error(err)
	}
	if err := random(l); !errors.Is(err, link.ErrGone) {
		t.Error("the connection after that:", err)
	}
}

func TestStartedAgainWhenItDies(t *testing.T) {
	t.Parallel()
	p := begin(t, Options{})
	for range 2 {
		pid := p.PID()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		until(t, "a new child answers", func() bool {
			if now := p.PID(); now == 0 || now == pid {
				return false
			}
			l, err := link.Dial(t.Context(), p.Address(), nil)
			if err != nil {
				return false
			}
			defer l.Close()
			return random(l) == nil
		})
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

func TestStopDuringThePause(t *testing.T) {
	t.Parallel()
	p := begin(t, Options{})
	if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "it is noticed", func() bool { return p.PID() == 0 })
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if p.PID() != 0 {
		t.Error("it was started again")
	}
}

func TestNoStartup(t *testing.T) {
	t.Parallel()
	p := begin(t, Options{Startup: NoStartup})
	var c link.Counters
	a := p.Address()
	a.ResourceManager = true // such a link leaves starting to others
	l, err := link.Dial(t.Context(), a, &c)
	if err != nil {
		t.Fatal(err)
	}
	if err := random(l); !errors.Is(err, tpm2.TPMRCInitialize) {
		t.Errorf("before the startup: %v", err)
	}
	l.Close()
	l, err = link.Dial(t.Context(), p.Address(), &c)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := random(l); err != nil {
		t.Errorf("a link that may start it: %v", err)
	}
	if n := c.Snapshot()[tpm2.TPMCCStartup].Sent; n != 1 {
		t.Errorf("%d startups", n)
	}
}

func TestSecondOnTheSamePlace(t *testing.T) {
	t.Parallel()
	o := Options{Dir: filepath.Join(tempDir(t), "state")}
	p := begin(t, o)
	if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), "already listens") {
		t.Errorf("same socket: %v", err)
	}
	o.Socket = o.Dir + "/other"
	if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), "lock") {
		t.Errorf("same state: %v", err)
	}
	if err := random(dial(t, p)); err != nil {
		t.Error("the first one:", err)
	}
}

func TestLeftoverSocketIsReplaced(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "socket")})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if err := random(dial(t, begin(t, Options{Dir: dir}))); err != nil {
		t.Error(err)
	}
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	_, err := Start(t.Context(), Options{Dir: dir, Program: "swtpm-that-is-not-there"})
	var missing *MissingError
	if !errors.As(err, &missing) || !errors.Is(err, exec.ErrNotFound) || !strings.Contains(missing.Hint(), "install swtpm") {
		t.Errorf("missing: %v", err)
	}
	broken := filepath.Join(dir, "broken")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho out of order >&2\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = Start(t.Context(), Options{Dir: dir, Program: broken})
	if err == nil || !strings.Contains(err.Error(), "out of order") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("broken: %v", err)
	}
	if _, err = Start(t.Context(), Options{Dir: dir, Program: broken, Socket: "/" + strings.Repeat("x", 107)}); err == nil ||
		!strings.Contains(err.Error(), "longer") {
		t.Errorf("long path: %v", err)
	}
	if _, err = Start(t.Context(), Options{Dir: dir + ",x", Program: broken}); err == nil || !strings.Contains(err.Error(), "comma") {
		t.Errorf("comma: %v", err)
	}
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o770); err != nil {
		t.Fatal(err)
	}
	if _, err = Start(t.Context(), Options{Dir: open, Program: broken}); err == nil || !strings.Contains(err.Error(), "alone") {
		t.Errorf("a folder for everybody: %v", err)
	}
	if _, err = Start(t.Context(), Options{Dir: broken, Program: broken}); err == nil {
		t.Error("a file for a folder")
	}
}

func TestStartIsCancelled(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	mute := filepath.Join(dir, "mute")
	pidFile := filepath.Join(dir, "pid")
	if err := os.WriteFile(mute, []byte("#!/bin/sh\necho $$ >"+pidFile+".new; mv "+pidFile+".new "+pidFile+"\nexec cat <&3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error)
	go func() {
		_, err := Start(ctx, Options{Dir: dir, Program: mute})
		ended <- err
	}()
	until(t, "the program runs", func() bool { _, err := os.Stat(pidFile); return err == nil })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := strconv.Atoi(string(bytes.TrimSpace(b))); err != nil || syscall.Kill(pid, 0) != syscall.ESRCH {
		t.Errorf("child %s is still there", b)
	}
}

// TestEndsWithItsParent runs this test's program again as the parent and kills
// it.
func TestEndsWithItsParent(t *testing.T) {
	if dir := os.Getenv("SWTPM_TEST_PARENT"); dir != "" {
		p, err := Start(context.Background(), Options{Dir: dir})
		fmt.Println(p.PID(), err)
		select {}
	}
	t.Parallel()
	bustest.Need(t, "swtpm")
	parent := exec.Command(os.Args[0], "-test.run=^TestEndsWithItsParent$", "-test.timeout=0")
	parent.Env = append(os.Environ(), "SWTPM_TEST_PARENT="+tempDir(t))
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	var pid int
	if _, serr := fmt.Sscanf(line, "%d <nil>", &pid); serr != nil {
		parent.Process.Kill()
		t.Fatalf("%q, %v", line, err)
	}
	parent.Process.Kill()
	parent.Wait()
	until(t, "the child is gone", func() bool {
		// Whoever inherits it may be slow to reap it: a zombie is gone too.
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || bytes.Contains(b, []byte(") Z "))
	})
}

// TestCtrlCIsForItsOwner: a terminal signals a whole group.
func TestCtrlCIsForItsOwner(t *testing.T) {
	t.Parallel()
	p := begin(t, Options{})
	group, err := syscall.Getpgid(p.PID())
	if err != nil || group == syscall.Getpgrp() {
		t.Errorf("it is in our group %d: %v", group, err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}
