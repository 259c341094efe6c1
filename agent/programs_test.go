package agent

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/agent/knownhosts"
	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/prompt"
)

// newKeyFile makes a key with ssh-keygen.
func newKeyFile(t *testing.T, args ...string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "key")
	args = append([]string{"-q", "-N", "", "-f", path}, args...)
	if out, status := run(t, "", "", "ssh-keygen", args...); status != 0 {
		t.Fatalf("ssh-keygen %s: %s", args, out)
	}
	return path
}

// TestSSHAddEveryOption uses ssh-add as people do.
func TestSSHAddEveryOption(t *testing.T) {
	a := start(t, fakes(edKey(1)), nil)
	a.allow()
	add := func(says string, want int, args ...string) string {
		t.Helper()
		out, status := run(t, a.socket, "", "ssh-add", args...)
		if status != want || !strings.Contains(out, says) {
			t.Errorf("ssh-add %s: status %d, %q; want %d and %q", args, status, out, want, says)
		}
		return out
	}
	lines := func(want int) {
		t.Helper()
		out, _ := run(t, a.socket, "", "ssh-add", "-l")
		if n := strings.Count(out, "\n"); strings.Contains(out, "no identities") && want != 0 || n != max(want, 1) {
			t.Errorf("%d lines, want %d:\n%s", n, want, out)
		}
	}
	for _, kind := range [][]string{{"-t", "ed25519"}, {"-t", "rsa", "-b", "2048"}, {"-t", "ecdsa", "-b", "256"}, {"-t", "ecdsa", "-b", "521"}} {
		path := newKeyFile(t, append(kind, "-C", "a comment")...)
		add("Identity added", 0, path)
		add("", 0, "-T", path+".pub")
		lines(2)
		add("Identity removed", 0, "-d", path)
		lines(1)
	}
	path := newKeyFile(t, "-t", "ed25519")
	ca := newKeyFile(t, "-t", "ed25519")
	if out, status := run(t, "", "", "ssh-keygen", "-q", "-s", ca, "-I", "id", "-n", "mia", path+".pub"); status != 0 {
		t.Fatal(out)
	}
	add("Certificate added", 0, path)
	lines(3)
	add("ED25519-CERT", 0, "-l")
	add("Identity removed", 0, "-d", path)
	lines(1)
	add("Identity added", 0, "-k", path)
	lines(2)
	add("Lifetime set to 1000 seconds", 0, "-t", "1000", path)
	add("The user must confirm each use", 0, "-c", path)
	add("", 0, "-T", path+".pub")
	if q := a.prompter.Questions(); len(q) == 0 || q[len(q)-1].Kind != prompt.Confirm {
		t.Errorf("asked %+v", q)
	}
	add("", 0, "-q", path)
	add("MD5:", 0, "-E", "md5", "-l")

	dir := t.TempDir()
	known := filepath.Join(dir, "known")
	writeFile(t, known, knownLine("gate", edKey(11))+knownLine("inner", edKey(12)), 0o600)
	add("Identity added", 0, "-H", known, "-h", "gate", "-h", "gate>mia@inner", path)
	add("", 1, "-T", path+".pub") // refused on a connection that is not bound

	add("Agent locked", 0, "-x")
	add("no identities", 1, "-l")
	add("Failed to lock", 1, "-x")
	add("Agent unlocked", 0, "-X")
	lines(3)
	add("Failed to unlock", 1, "-X")
	add("Could not add card", 1, "-s", "/usr/lib/none.so")
	add("Could not remove card", 1, "-e", "/usr/lib/none.so")
	add("All identities removed", 0, "-D")
	lines(0)
	add("Could not remove identity", 1, "-d", path)
}

// sshdConfig makes what an sshd needs that ssh starts as its proxy command, so
// that no port is needed.
func sshdConfig(t *testing.T, name string, authorized string) (config, hostPublic string) {
	t.Helper()
	program(t, "sshd")
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	host := newKeyFile(t, "-t", "ed25519", "-C", name)
	config = filepath.Join(t.TempDir(), "sshd_config")
	keys := filepath.Join(t.TempDir(), "authorized")
	writeFile(t, keys, authorized, 0o600)
	writeFile(t, config, strings.Join([]string{
		"HostKey " + host, "AuthorizedKeysFile " + keys, "PidFile none", "StrictModes no", "UsePAM no",
		"PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password",
		"AllowAgentForwarding yes", "LogLevel ERROR", "Subsystem sftp internal-sftp", "",
	}, "\n"), 0o600)
	return config, string(must(os.ReadFile(host + ".pub")))
}

// TestTwoHops goes through one real sshd to another, with the agent forwarded,
// and with keys that may or may not be used so.
func TestTwoHops(t *testing.T) {
	me := must(user.Current()).Username
	sshd, client := program(t, "sshd"), program(t, "ssh")
	path := newKeyFile(t, "-t", "ed25519")
	public := string(must(os.ReadFile(path + ".pub")))
	gate, gateKey := sshdConfig(t, "gate", public)
	inner, innerKey := sshdConfig(t, "inner", public)
	known := filepath.Join(t.TempDir(), "known_hosts")
	writeFile(t, known, "gate "+gateKey+"inner "+innerKey, 0o600)
	options := func(config string) string {
		return fmt.Sprintf("-F none -o UserKnownHostsFile=%s -o GlobalKnownHostsFile=/dev/null -o IdentityFile=none -o BatchMode=yes"+
			" -o StrictHostKeyChecking=yes -o LogLevel=ERROR -o 'ProxyCommand=%s -i -f %s'", known, sshd, config)
	}
	hop := fmt.Sprintf("%s %s %s@inner 'echo arrived'", client, options(inner), me)
	for _, c := range []struct {
		name    string
		args    []string // of ssh-add
		arrives bool
		asked   bool
	}{
		{"free", []string{path}, true, false},
		{"both hops", []string{"-H", known, "-h", "gate", "-h", "gate>inner", path}, true, false},
		{"both hops, asked", []string{"-c", "-H", known, "-h", "gate", "-h", "gate>" + me + "@inner", path}, true, true},
		{"first hop only", []string{"-H", known, "-h", "gate", path}, false, false},
		{"another user", []string{"-H", known, "-h", "gate", "-h", "gate>somebody@inner", path}, false, false},
		{"elsewhere", []string{"-H", known, "-h", "inner", path}, false, false},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			a := start(t, nil, nil)
			a.KnownHosts = knownhosts.New(known)
			a.allow()
			if out, status := run(t, a.socket, "", "ssh-add", c.args...); status != 0 {
				t.Fatalf("ssh-add: %s", out)
			}
			script := fmt.Sprintf("%s -A %s %s@gate %q", client, options(gate), me, hop)
			out, status := run(t, a.socket, "", "sh", "-c", script)
			if arrived := strings.Contains(out, "arrived"); arrived != c.arrives {
				t.Errorf("status %d, %s\n%s", status, out, a.log)
			}
			past := a.Keys.Gate().History()
			if !c.arrives {
				return
			}
			if len(past) != 2 {
				t.Fatalf("%d uses: %+v", len(past), past)
			}
			first, second := past[0], past[1]
			if first.Host != "gate" || first.HostWarning != "" || first.Forwarded || first.Reason != "log in as "+me+" to gate" {
				t.Errorf("first hop: %+v", first)
			}
			if second.Host != "inner" || second.HostWarning != "" || !second.Forwarded || second.Through != "gate" ||
				second.Reason != "log in as "+me+" to inner" {
				t.Errorf("second hop: %+v", second)
			}
			if asked := a.prompter.Questions(); (len(asked) > 0) != c.asked {
				t.Errorf("asked %+v", asked)
			}
		})
	}
	// Nobody at the other end of a forwarded agent changes it.
	a := start(t, nil, nil)
	if out, status := run(t, a.socket, "", "ssh-add", path); status != 0 {
		t.Fatal(out)
	}
	script := fmt.Sprintf("%s -A %s %s@gate 'ssh-add -D; ssh-add -l'", client, options(gate), me)
	out, _ := run(t, a.socket, "", "sh", "-c", script)
	if !strings.Contains(out, "Failed to remove") || !strings.Contains(out, "ED25519") {
		t.Errorf("from afar: %s", out)
	}
}

func TestSCPAndSFTP(t *testing.T) {
	me := must(user.Current()).Username
	sshd := program(t, "sshd")
	path := newKeyFile(t, "-t", "ecdsa")
	config, hostKey := sshdConfig(t, "there", string(must(os.ReadFile(path+".pub"))))
	known := filepath.Join(t.TempDir(), "known_hosts")
	writeFile(t, known, "there "+hostKey, 0o600)
	a := start(t, nil, nil)
	if out, status := run(t, a.socket, "", "ssh-add", "-H", known, "-h", me+"@there", path); status != 0 {
		t.Fatal(out)
	}
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	writeFile(t, from, "some text", 0o600)
	for _, legacy := range []string{"-p", "-O"} {
		os.Remove(to)
		out, status := run(t, a.socket, "", "scp", legacy, "-q", "-F", "none", "-o", "UserKnownHostsFile="+known, "-o", "IdentityFile=none",
			"-o", "BatchMode=yes", "-o", fmt.Sprintf("ProxyCommand=%s -i -f %s", sshd, config), from, me+"@there:"+to)
		got, err := os.ReadFile(to)
		if status != 0 || err != nil || string(got) != "some text" {
			t.Errorf("scp %s: status %d, %s, %v", legacy, status, out, err)
		}
	}
}

// TestGitSignsAndVerifies makes a signed commit and a signed tag.
func TestGitSignsAndVerifies(t *testing.T) {
	program(t, "git")
	k := edKey(1)
	key := k.fake()
	key.KeyInfo.Confirm = true
	a := start(t, nil, nil)
	a.Keys.Replace("test", fakes(edKey(2)))
	a.Keys.Replace("confirmed", append(fakes(), key))
	a.allow()
	dir := t.TempDir()
	pub, allowed := filepath.Join(dir, "k.pub"), filepath.Join(dir, "allowed")
	writeFile(t, pub, k.authorized(), 0o600)
	writeFile(t, allowed, "mia@example.org "+k.authorized(), 0o600)
	repo := filepath.Join(dir, "repo")
	git := func(args ...string) string {
		t.Helper()
		args = append([]string{"-C", repo, "-c", "user.name=Mia", "-c", "user.email=mia@example.org", "-c", "gpg.format=ssh",
			"-c", "user.signingKey=" + pub, "-c", "gpg.ssh.allowedSignersFile=" + allowed}, args...)
		out, status := run(t, a.socket, "", "git", args...)
		if status != 0 {
			t.Fatalf("git %s: %s", args, out)
		}
		return out
	}
	if err := os.Mkdir(repo, 0o700); err != nil {
		t.Fatal(err)
	}
	git("init", "-q")
	git("commit", "-q", "--allow-empty", "-S", "-m", "signed")
	git("tag", "-s", "-m", "signed", "v1")
	if out := git("verify-commit", "HEAD"); !strings.Contains(out, "Good") {
		t.Error(out)
	}
	if out := git("verify-tag", "v1"); !strings.Contains(out, "Good") {
		t.Error(out)
	}
	// One answer serves both: the same program, key and namespace.
	asked := a.prompter.Questions()
	if len(asked) != 1 || asked[0].Reason != "sign a git commit or tag" || !strings.Contains(asked[0].Caller, "git") {
		t.Errorf("asked %+v", asked)
	}
}

// TestPythonClients runs scripts with two libraries that are not OpenSSH's.
func TestPythonClients(t *testing.T) {
	// The distribution's own, for which its packages are.
	python := "/usr/bin/python3"
	if _, err := os.Stat(python); err != nil {
		python = program(t, "python3")
	}
	for _, script := range []string{"paramiko", "asyncssh"} {
		t.Run(script, func(t *testing.T) {
			if out, err := exec.Command(python, "-c", "import "+script).CombinedOutput(); err != nil {
				t.Logf("%s", out)
				bustest.Missing(t, "python3-"+script)
			}
			a := start(t, fakes(edKey(1), testKeys()[4], testKeys()[1]), nil)
			a.allow()
			key := newKeyFile(t, "-t", "ed25519", "-C", "from python")
			out, status := run(t, a.socket, "", python, filepath.Join("testdata", "use_"+script+".py"), key)
			if status != 0 || !strings.Contains(out, "all is well") {
				t.Errorf("status %d:\n%s\n%s", status, out, a.log)
			}
			if script == "asyncssh" {
				added := must(ssh.ParsePrivateKey(must(os.ReadFile(key))))
				wantComments(t, a.dial(t), "what it added", "ed25519 key", "p256 key", "rsa key", "from python")
				ours.want(t, a.dial(t), "sign", "yes", signFrame(added.PublicKey().Marshal(), nil, 0))
				if q := a.prompter.Questions(); len(q) == 0 {
					t.Error("the constraint to confirm is not kept to")
				}
			}
		})
	}
}
