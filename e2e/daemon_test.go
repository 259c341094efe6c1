package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/daemontest"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

// TestOrdinaryKeys serves keys that ssh-keygen made, on a machine without a TPM.
func TestOrdinaryKeys(t *testing.T) {
	s := daemontest.New(t)
	for _, alg := range []string{"ed25519", "ecdsa", "rsa"} {
		s.Must("ssh-keygen", "-q", "-t", alg, "-N", "", "-C", "plain-"+alg, "-f", filepath.Join(s.Keys, alg))
	}
	s.Must("ssh-keygen", "-q", "-t", "ed25519", "-N", "open sesame", "-C", "locked", "-f", filepath.Join(s.Keys, "locked"))
	s.Must("sh", "-c", "rm "+s.Keys+"/rsa.pub")
	s.Answer("open sesame")
	s.Start("none")
	for _, name := range []string{"plain-ed25519", "plain-ecdsa", "locked"} {
		if err := verify(t, s, name, []byte("x")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := strings.Count(s.Must("ssh-add", "-l"), "\n"); n != 4 {
		t.Errorf("%d keys are listed, want 4", n)
	}
	if n := s.Prompts(); n != 1 {
		t.Errorf("%d prompts, want one for the one key with a passphrase", n)
	}
	if n := strings.Count(s.Log.String(), "no TPM"); n != 1 {
		t.Errorf("the missing TPM is mentioned %d times, want once", n)
	}
}

// TestFolderChanges adds, replaces and removes key files under a running daemon.
func TestFolderChanges(t *testing.T) {
	tpm := tpmtest.Start(t)
	first, second := tpm.OpenSSLKey(t, "EC:P-256", "", 0), tpm.OpenSSLKey(t, "EC:P-256", "", 0)
	s := daemontest.New(t)
	s.Start(tpm.Address().String())
	list := func() string { out, _ := s.Run("ssh-add", "-L"); return out }
	if out := list(); !strings.Contains(out, "no identities") {
		t.Fatalf("an empty folder lists %q", out)
	}
	s.Key("moving", first)
	await(t, "added key", func() bool { return strings.Contains(list(), "moving") })
	before := list()
	s.Key("moving", second)
	await(t, "replaced key", func() bool { now := list(); return now != before && strings.Contains(now, "moving") })
	if err := verify(t, s, "moving", []byte("x")); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(s.Keys, "moving")); err != nil {
		t.Fatal(err)
	}
	await(t, "removal", func() bool { return strings.Contains(list(), "no identities") })
}

// TestListDuringPrompt holds a PIN prompt open: listing and other keys go on,
// and the prompt goes away with the one who asked.
func TestListDuringPrompt(t *testing.T) {
	tpm := tpmtest.Start(t)
	s := daemontest.New(t)
	s.Key("pin", tpm.OpenSSLKey(t, "EC:P-256", "secret-pin", 0))
	s.Key("plain", tpm.OpenSSLKey(t, "EC:P-256", "", 0))
	s.Write("pinentry", "#!/bin/sh\necho $$ >\"$(dirname \"$0\")/open\"\necho OK\n"+
		"while read -r line; do case $line in GETPIN*) exec sleep 600 ;; *) echo OK ;; esac; done\n", 0o700)
	s.Start(tpm.Address().String())

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.Write("text", "x", 0o600)
	public := s.Must("ssh-add", "-L")
	for line := range strings.Lines(public) {
		if strings.Contains(line, " pin") {
			s.Write("pin.pub", line, 0o600)
		}
	}
	asker := exec.CommandContext(ctx, "ssh-keygen", "-Y", "sign", "-n", "file", "-f", filepath.Join(s.Dir, "pin.pub"), filepath.Join(s.Dir, "text"))
	asker.Env = append(os.Environ(), "SSH_AUTH_SOCK="+s.Socket)
	if err := asker.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	await(t, "prompt", func() bool {
		text, _ := os.ReadFile(filepath.Join(s.Dir, "open"))
		n, _ := fmt.Sscan(string(text), &pid)
		return n == 1
	})
	if n := strings.Count(s.Must("ssh-add", "-l"), "\n"); n != 2 {
		t.Errorf("%d keys are listed during the prompt, want 2", n)
	}
	if err := verify(t, s, "plain", []byte("y")); err != nil {
		t.Errorf("another key does not sign during the prompt: %v", err)
	}
	if syscall.Kill(pid, 0) != nil {
		t.Fatal("the prompt did not stay open")
	}
	cancel()
	_ = asker.Wait()
	await(t, "end of the prompt", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
}

// TestSoftwareTPM starts the daemon's own software TPM, and expects it to end
// with the daemon and to keep its keys.
func TestSoftwareTPM(t *testing.T) {
	tpmtest.Require(t, "swtpm")
	s := daemontest.New(t)
	s.Start("swtpm:" + filepath.Join(s.Dir, "tpm"))
	if _, err := os.Stat(filepath.Join(s.Dir, "tpm")); err != nil {
		t.Error(err)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	if out, _ := exec.Command("pgrep", "-f", filepath.Join(s.Dir, "tpm")).Output(); len(out) > 0 {
		t.Errorf("swtpm is still running: %s", out)
	}
	if _, err := os.Stat(s.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// TestUsage gives flags and settings that make no sense: exit status 2 and a
// sentence that says what is wrong.
func TestUsage(t *testing.T) {
	config := filepath.Join(t.TempDir(), "keyringd")
	if err := os.Mkdir(config, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, flag, config, want string }{
		{"flag", "--no-such-flag", "", "no-such-flag"},
		{"argument", "surplus", "", "surplus"},
		{"tpm", "--tpm=floppy:", "", "floppy"},
		{"remember", "--remember=-1s", "", "remember"},
		{"prompter", "--prompter=shout", "", "shout"},
		{"setting", "--tpm=none", "tpm = \"none\"\nrember = \"1m\"\n", "config.toml:2: unknown setting \"rember\""},
		{"type", "--tpm=none", "\n\ntpm = 3\n", "config.toml:3"},
		{"syntax", "--tpm=none", "tpm = \n", "config.toml:1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(config, "config.toml"), []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), daemontest.Binary, c.flag)
			cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+filepath.Dir(config), "XDG_RUNTIME_DIR="+t.TempDir())
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 2 {
				t.Errorf("ended with %v, want exit status 2", err)
			}
			if !strings.Contains(string(out), c.want) {
				t.Errorf("said %q, want %q in it", out, c.want)
			}
		})
	}
}

// TestSecondDaemon must not take the socket from a running one.
func TestSecondDaemon(t *testing.T) {
	s := daemontest.New(t)
	s.Start("none")
	cmd := exec.CommandContext(t.Context(), daemontest.Binary, "--tpm", "none", "--key-dir", s.Keys, "--runtime-dir", filepath.Dir(s.Socket), "--prompter", "none")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "running") || !strings.Contains(string(out), "\nhint: ") {
		t.Errorf("a second daemon: %v, %s", err, out)
	}
	if _, err := s.Client().List(); err != nil {
		t.Errorf("the first daemon no longer answers: %v", err)
	}
}

// TestToldToEndWhileStarting: that is no failure, which a service manager would
// show and start anew after. The software TPM here never answers.
func TestToldToEndWhileStarting(t *testing.T) {
	s := daemontest.New(t)
	dir := t.TempDir()
	begun := filepath.Join(dir, "begun")
	if err := os.WriteFile(filepath.Join(dir, "swtpm"), []byte("#!/bin/sh\n: >'"+begun+"'\nexec sleep 600\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), daemontest.Binary, "--tpm", "swtpm:"+filepath.Join(dir, "state"), "--key-dir", s.Keys,
		"--runtime-dir", filepath.Dir(s.Socket), "--prompter", "none", "--bus", "none")
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(begun); err == nil {
			break
		}
		select {
		case <-tick.C:
		case err := <-ended:
			t.Fatalf("it ended by itself: %v\n%s", err, said.String())
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("%v\n%s", err, said.String())
	}
}

// TestSystemd hands the socket over as systemd does, and expects READY=1.
func TestSystemd(t *testing.T) {
	s := daemontest.New(t)
	if err := os.Mkdir(filepath.Dir(s.Socket), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.Socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(s.Dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	// LISTEN_PID is the daemon's own pid, which only the shell it replaces knows.
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", daemontest.Binary, "--tpm", "none", "--key-dir", s.Keys,
		"--runtime-dir", filepath.Join(s.Dir, "elsewhere"), "--prompter", "none")
	cmd.Env = append(os.Environ(), "HOME="+s.Dir, "LISTEN_FDS=1", "LISTEN_FDNAMES=ssh", "NOTIFY_SOCKET="+filepath.Join(s.Dir, "notify"))
	cmd.ExtraFiles = []*os.File{file}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Signal(syscall.SIGTERM) }()
	_ = notify.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 1024)
	n, err := notify.Read(buf)
	if err != nil || !strings.HasPrefix(string(buf[:n]), "READY=1") {
		t.Fatalf("notified %q, %v", buf[:n], err)
	}
	if _, err := s.Client().List(); err != nil {
		t.Errorf("the socket that was handed over: %v", err)
	}
}
