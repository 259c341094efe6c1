package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/daemontest"
	"github.com/keyringd/keyringd/internal/logindtest"
	"github.com/keyringd/keyringd/internal/pamtest"
	"github.com/keyringd/keyringd/internal/sshdtest"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

// A login is one whole session of a user's: a password at the door, a TPM with a
// PIN key, a server to log in to, a screen, and a lid to close.
type login struct {
	cabinet
	logind *logindtest.Logind
	tpm    *tpmtest.TPM
	sshd   *sshdtest.SSHD
	public string // the file of the PIN key's public half
}

const (
	loginPassword = "the login password"
	sessionPIN    = "canary-of-the-pin-4711"
)

// TestWholeSession plays a login from the password to the logout, with the real
// programs at every step, and counts what the user is asked.
func TestWholeSession(t *testing.T) {
	for _, program := range []string{"secret-tool", "git", "modutil"} {
		bustest.Need(t, program)
	}
	if _, err := os.Stat(p11kitClient); err != nil {
		tpmtest.Require(t, p11kitClient)
	}
	l := &login{cabinet: cabinet{&desk{Session: daemontest.New(t), t: t, bus: bustest.Start(t)}}, tpm: tpmtest.Start(t)}
	system := bustest.Start(t)
	l.logind = logindtest.Start(t, system.Address)
	l.SystemBus = system.Address
	l.Key("laptop", l.tpm.OpenSSLKey(t, "EC:P-256", sessionPIN, 0))
	l.Answer(sessionPIN)
	pam := pamtest.New(t, l.Runtime())

	// As the kernel's resource manager: it outlives the chip's resets.
	l.Start(l.tpm.ResourceManager().Address().String(), "--bus", l.bus.Address)
	await(t, "answer to keyringctl", func() bool { _, _, status := l.ctl("status"); return status == 0 })
	if what := l.logind.AwaitInhibitor(); what != "sleep delay" {
		t.Errorf("the inhibitor is for %q", what)
	}
	if out, err := pam.Run([]string{"PAM_AUTHTOK=" + loginPassword}, "authenticate", "open_session"); err != nil {
		t.Fatalf("the login: %v\n%s", err, out)
	}
	pam.NoOther()

	l.must("swordfish", "secret-tool", "store", "--label=Mail", "user", "mia")
	l.asks("an app with the keyring that the login has opened", 0, l.looksUp)

	line := l.Must("ssh-add", "-L")
	l.public = filepath.Join(l.Dir, "laptop.pub")
	l.Write("laptop.pub", line, 0o600)
	l.sshd = sshdtest.Start(t, line)
	l.asks("the first ssh", 1, l.logsIn)
	l.asks("the second ssh", 0, l.logsIn)
	if asked := l.Questions(); !strings.Contains(asked, "ssh") || !strings.Contains(asked, "laptop") {
		t.Errorf("the prompt names neither program nor key:\n%s", asked)
	}
	l.asks("git commit -S", 0, l.commits)
	l.asks("NSS", 0, l.listsToken)

	l.locksScreen()
	l.sleepsAndWakes()
	l.logsOut()
}

// asks wants that a step asks for a PIN or password so many times.
func (l *login) asks(step string, want int, do func()) {
	l.t.Helper()
	before := l.Prompts()
	do()
	if n := l.Prompts() - before; n != want {
		l.t.Errorf("%s: %d questions, want %d", step, n, want)
	}
}

// looksUp is an app that reads its secret.
func (l *login) looksUp() {
	l.t.Helper()
	if out := l.must("", "secret-tool", "lookup", "user", "mia"); out != "swordfish" {
		l.t.Errorf("lookup: %q", out)
	}
}

// logsIn is `ssh HOST`.
func (l *login) logsIn() {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	if out, err := l.sshd.Login(ctx, l.Socket, l.public); err != nil || out != "logged in" {
		l.t.Fatalf("login: %q, %v", out, err)
	}
}

// commits is `git commit -S`, and git's own look at the signature.
func (l *login) commits() {
	l.t.Helper()
	line, err := os.ReadFile(l.public)
	if err != nil {
		l.t.Fatal(err)
	}
	l.Write("allowed", "mia@example.org "+string(line), 0o600)
	repo := filepath.Join(l.Dir, "repo")
	l.Must("git", "init", "-q", "-b", "main", repo)
	git := func(args ...string) string {
		return l.Must("git", append([]string{"-C", repo, "-c", "user.name=Mia", "-c", "user.email=mia@example.org",
			"-c", "gpg.format=ssh", "-c", "user.signingkey=" + l.public,
			"-c", "gpg.ssh.allowedSignersFile=" + filepath.Join(l.Dir, "allowed")}, args...)...)
	}
	git("commit", "-q", "-S", "--allow-empty", "-m", "signed")
	if out := git("verify-commit", "-v", "HEAD"); !strings.Contains(out, `Good "git" signature for mia@example.org`) {
		l.t.Errorf("git verify-commit: %s", out)
	}
}

// listsToken is a program with NSS, as browsers are, that looks for smart cards.
func (l *login) listsToken() {
	l.t.Helper()
	db := "sql:" + filepath.Join(l.Dir, "nss")
	nss := func(name string, args ...string) string {
		cmd := l.command(name, args...)
		cmd.Env = append(cmd.Env, "P11_KIT_SERVER_ADDRESS=unix:path="+filepath.Join(filepath.Dir(l.Socket), "pkcs11"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			l.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	if _, err := os.Stat(filepath.Join(l.Dir, "nss")); err != nil {
		if err := os.Mkdir(filepath.Join(l.Dir, "nss"), 0o700); err != nil {
			l.t.Fatal(err)
		}
		nss("certutil", "-d", db, "-N", "--empty-password")
		nss("modutil", "-dbdir", db, "-force", "-add", "keyringd", "-libfile", p11kitClient)
	}
	if out := nss("modutil", "-dbdir", db, "-list"); !strings.Contains(out, "status: loaded") || !strings.Contains(out, "token: keyringd TPM") {
		l.t.Errorf("modutil -list:\n%s", out)
	}
}

// locksScreen locks the screen in both of logind's ways: the PIN is forgotten,
// and what the login has opened stays open.
func (l *login) locksScreen() {
	l.t.Helper()
	for way, lock := range map[string]func(locked bool){"LockedHint": l.logind.SetLocked, "Lock": l.logind.Ask} {
		l.happens("the screen was locked", func() { lock(true) })
		l.asks("an app while the screen is locked, "+way, 0, l.looksUp)
		lock(false)
		l.asks("ssh after the screen was locked, "+way, 1, l.logsIn)
		l.asks("git after that", 0, l.commits)
	}
}

// happens waits until the daemon says that it took something away, because of
// what event did.
func (l *login) happens(why string, event func()) {
	l.t.Helper()
	said := func() int { return strings.Count(l.Log.String(), strconv.Quote(why)) }
	before := said()
	event()
	await(l.t, why, func() bool { return said() > before })
}

// sleepsAndWakes closes the lid and opens it again.
func (l *login) sleepsAndWakes() {
	l.t.Helper()
	if !l.logind.Held() {
		l.t.Error("nothing holds up sleep")
	}
	l.signal(syscall.SIGSTOP)
	l.remembers(sessionPIN, true)
	l.signal(syscall.SIGCONT)
	l.happens("the machine goes to sleep", func() {
		l.logind.Sleep()
		l.logind.AwaitRelease()
		// The machine sleeps from here on, and the daemon with it: what it has not
		// forgotten by now is in the memory of a stolen laptop.
		l.signal(syscall.SIGSTOP)
		l.remembers(sessionPIN, false)
		l.asleep()
		l.signal(syscall.SIGCONT)
	})
	if what := l.logind.AwaitInhibitor(); what != "sleep delay" {
		l.t.Errorf("after waking, the inhibitor is for %q", what)
	}
	l.asks("ssh after sleep", 1, l.logsIn)
	l.asks("git after sleep", 0, l.commits)
	l.asks("an app after sleep", 0, l.looksUp)
	l.asks("NSS after sleep", 0, l.listsToken)
}

// asleep is what happens to a machine that sleeps: the TPM loses its power, and
// somebody opens the lid.
func (l *login) asleep() {
	l.t.Helper()
	l.tpm.Kill()
	l.tpm.Restart()
	l.logind.Wake()
}

func (l *login) signal(s syscall.Signal) {
	l.t.Helper()
	if err := syscall.Kill(l.PID(), s); err != nil {
		l.t.Fatal(err)
	}
}

// remembers says whether text should be in the memory of the daemon, which is
// stopped. Only root can look.
func (l *login) remembers(text string, should bool) {
	l.t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	n, size, err := occurrences(l.PID(), text)
	if err != nil {
		l.t.Fatal(err)
	}
	if n > 0 != should || size == 0 {
		l.t.Errorf("the PIN is %d times in the %d bytes of the daemon's memory, want it there: %v", n, size, should)
	}
}

// logsOut ends the session while a prompt is open and a key is added: all of it
// goes, and nothing runs or listens any more.
func (l *login) logsOut() {
	l.t.Helper()
	l.Must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "for-today", "-f", filepath.Join(l.Dir, "today"))
	l.Must("ssh-add", "-q", filepath.Join(l.Dir, "today"))
	if out := l.Must("ssh-add", "-L"); strings.Count(out, "\n") != 2 {
		l.t.Errorf("before the logout:\n%s", out)
	}
	l.happens("the screen was locked", func() { l.logind.Ask(true) })
	l.Write("pinentry", hanging, 0o700)
	l.Write("text", "x", 0o600)
	asker := l.command("ssh-keygen", "-Y", "sign", "-n", "file", "-f", l.public, "text")
	asker.Env = append(asker.Env, "SSH_AUTH_SOCK="+l.Socket)
	if err := asker.Start(); err != nil {
		l.t.Fatal(err)
	}
	openPrompt(l.t, l.Session)

	l.happens("the user logged out", func() { l.logind.Logout(false) })
	await(l.t, "end of the added key", func() bool { return strings.Count(l.Must("ssh-add", "-L"), "\n") == 1 })
	if !l.locked() {
		l.t.Error("the keyring is open after the logout")
	}
	if err := l.Stop(); err != nil {
		l.t.Errorf("the end of the daemon: %v", err)
	}
	if err := asker.Wait(); err == nil {
		l.t.Error("a signature that nobody gave the PIN for")
	}
	for _, socket := range sockets(l.Session) {
		if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
			l.t.Errorf("%s is still there: %v", socket, err)
		}
		if c, err := net.Dial("unix", socket); err == nil {
			_ = c.Close()
			l.t.Errorf("somebody answers at %s", socket)
		}
	}
	await(l.t, "end of every program", func() bool { return len(l.running()) == 0 })
	if all := l.running(); len(all) != 0 {
		l.t.Errorf("still running: %q", all)
	}
	for _, secret := range []string{sessionPIN, loginPassword, "swordfish"} {
		if strings.Contains(l.Log.String(), secret) {
			l.t.Errorf("%q is in the journal", secret)
		}
	}
}

// running names the processes that have to do with the session: the home is in
// their command line or environment.
func (l *login) running() (found []string) {
	l.t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		l.t.Fatal(err)
	}
	for _, p := range all {
		line, _ := os.ReadFile(p + "/cmdline") // it may be gone by now
		environ, _ := os.ReadFile(p + "/environ")
		if p != fmt.Sprint("/proc/", os.Getpid()) && strings.Contains(string(line)+string(environ), l.Dir+"/") {
			found = append(found, p+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}
