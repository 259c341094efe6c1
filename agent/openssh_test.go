package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"
)

// run runs a program as a client of the agent at socket.
func run(t *testing.T, socket string, stdin string, name string, args ...string) (output string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t, name), args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C", "SSH_AUTH_SOCK=" + socket,
		"SSH_ASKPASS=" + askpass(t), "SSH_ASKPASS_REQUIRE=force"}
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil || ctx.Err() != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// askpass returns a program that answers every question with "secret".
func askpass(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "askpass")
	writeFile(t, path, "#!/bin/sh\necho secret\n", 0o700)
	return path
}

func writeFile(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func (k testKey) authorized() string {
	return string(ssh.MarshalAuthorizedKey(must(ssh.NewPublicKey(k.signer.Public()))))
}

func TestSSHAdd(t *testing.T) {
	a := start(t, fakes(testKeys()...), nil)
	out, status := run(t, a.socket, "", "ssh-add", "-l")
	for _, k := range testKeys() {
		want := ssh.FingerprintSHA256(must(ssh.NewPublicKey(k.signer.Public()))) + " " + k.name + " key ("
		if !strings.Contains(out, want) {
			t.Errorf("ssh-add -l does not say %q:\n%s", want, out)
		}
	}
	if status != 0 {
		t.Errorf("ssh-add -l: status %d", status)
	}
	out, status = run(t, a.socket, "", "ssh-add", "-L")
	for _, k := range testKeys() {
		if want := strings.TrimSpace(k.authorized()) + " " + k.name + " key\n"; !strings.Contains(out, want) {
			t.Errorf("ssh-add -L does not say %q:\n%s", want, out)
		}
	}
	if status != 0 {
		t.Errorf("ssh-add -L: status %d", status)
	}
	for _, k := range testKeys() { // signs with it, and verifies
		file := filepath.Join(t.TempDir(), k.name+".pub")
		writeFile(t, file, k.authorized(), 0o600)
		if out, status := run(t, a.socket, "", "ssh-add", "-T", file); status != 0 {
			t.Errorf("ssh-add -T %s: status %d, %s", k.name, status, out)
		}
	}

	empty := start(t, nil, nil)
	if out, status := run(t, empty.socket, "", "ssh-add", "-l"); status != 1 || !strings.Contains(out, "no identities") {
		t.Errorf("ssh-add -l without keys: status %d, %q", status, out)
	}
}

func TestSSHAddListsLargestAnswer(t *testing.T) {
	a := start(t, numbered(maxIdentities+10, shortLabel), nil)
	out, status := run(t, a.socket, "", "ssh-add", "-l")
	if n := strings.Count(out, "\n"); n != maxIdentities || status != 0 {
		t.Errorf("%d lines, status %d: %.200s", n, status, out)
	}
}

func TestSSHKeygenSignAndVerify(t *testing.T) {
	for _, k := range testKeys() {
		t.Run(k.name, func(t *testing.T) {
			key := k.fake()
			key.KeyInfo.Confirm = true
			a := start(t, nil, nil)
			a.Keys.Replace("test", append(fakes(edKey(77)), key))
			a.allow()
			dir := t.TempDir()
			pub, allowed, signature := filepath.Join(dir, "k.pub"), filepath.Join(dir, "allowed"), filepath.Join(dir, "sig")
			writeFile(t, pub, k.authorized(), 0o600)
			writeFile(t, allowed, "mia@example.org "+k.authorized(), 0o600)
			sig, status := run(t, a.socket, "a commit\n", "ssh-keygen", "-Y", "sign", "-q", "-n", "git", "-f", pub)
			if status != 0 {
				t.Fatalf("sign: status %d, %s", status, sig)
			}
			writeFile(t, signature, sig, 0o600)
			out, status := run(t, "", "a commit\n", "ssh-keygen", "-Y", "verify", "-n", "git", "-f", allowed,
				"-I", "mia@example.org", "-s", signature)
			if status != 0 || !strings.Contains(out, "Good") {
				t.Errorf("verify: status %d, %s", status, out)
			}
			if out, status := run(t, "", "another\n", "ssh-keygen", "-Y", "verify", "-n", "git", "-f", allowed,
				"-I", "mia@example.org", "-s", signature); status == 0 {
				t.Errorf("verifies for another text: %s", out)
			}
			asked := a.prompter.Questions()
			if len(asked) != 1 || asked[0].Reason != "sign a git commit or tag" || !strings.HasPrefix(asked[0].Caller, "ssh-keygen (") {
				t.Errorf("asked %+v", asked)
			}
		})
	}
}

// TestLogin logs in to a real sshd, which ssh starts as its proxy command, so
// that no port is needed.
func TestLogin(t *testing.T) {
	sshd := program(t, "sshd")
	program(t, "ssh")
	if os.Geteuid() == 0 {
		// sshd's own start script makes it, for a daemon that has been started.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	hostKey := filepath.Join(dir, "host")
	if out, status := run(t, "", "", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", hostKey); status != 0 {
		t.Fatalf("ssh-keygen: %s", out)
	}
	hostPub := must(os.ReadFile(hostKey + ".pub"))
	host, _, _, _, err := ssh.ParseAuthorizedKey(hostPub)
	if err != nil {
		t.Fatal(err)
	}
	authorized, config := filepath.Join(dir, "authorized"), filepath.Join(dir, "sshd_config")
	log, known := filepath.Join(dir, "sshd.log"), filepath.Join(dir, "known_hosts")
	writeFile(t, known, "there "+string(hostPub), 0o600)
	writeFile(t, config, strings.Join([]string{
		"HostKey " + hostKey, "AuthorizedKeysFile " + authorized, "PidFile none", "StrictModes no", "UsePAM no",
		"PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password",
		"LogLevel VERBOSE", "",
	}, "\n"), 0o600)

	for _, k := range testKeys() {
		t.Run(k.name, func(t *testing.T) {
			writeFile(t, authorized, k.authorized(), 0o600)
			key := k.fake()
			key.KeyInfo.Confirm = true
			a := start(t, nil, nil)
			a.Keys.Replace("test", append(fakes(edKey(77)), key))
			a.allow()
			out, status := run(t, a.socket, "", "ssh", "-F", "none", "-o", "UserKnownHostsFile="+known,
				"-o", "IdentityFile=none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
				"-o", fmt.Sprintf("ProxyCommand=%s -i -f %s -E %s", sshd, config, log), me.Username+"@there", "true")
			// 255 is ssh's own; what else a command returns is up to the user's shell.
			if status == 255 {
				t.Fatalf("ssh: %s\n%s", out, must(os.ReadFile(log)))
			}
			want := ssh.FingerprintSHA256(must(ssh.NewPublicKey(k.signer.Public())))
			accepted := false
			for line := range strings.Lines(string(must(os.ReadFile(log)))) {
				accepted = accepted || strings.Contains(line, "Accepted publickey for "+me.Username) && strings.Contains(line, want)
			}
			if !accepted {
				t.Errorf("sshd does not say that it accepted %s:\n%s", want, must(os.ReadFile(log)))
			}
			reason := "log in as " + me.Username + " to host key " + ssh.FingerprintSHA256(host)
			asked := a.prompter.Questions()
			if len(asked) != 1 || asked[0].Reason != reason || !strings.HasPrefix(asked[0].Caller, "ssh (") {
				t.Errorf("asked %+v, want once for %q", asked, reason)
			}
		})
	}
}

// startSSHAgent runs OpenSSH's agent until the test ends.
func startSSHAgent(t *testing.T) (socket string) {
	socket, _ = startSSHAgentAsking(t)
	return socket
}

// startSSHAgentAsking runs OpenSSH's agent, whose questions are answered as
// answer was told last; until then with yes.
func startSSHAgentAsking(t *testing.T) (socket string, answer func(yes bool)) {
	t.Helper()
	path := program(t, "ssh-agent")
	dir := must(os.MkdirTemp("", "kr"))
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "o")
	no := filepath.Join(dir, "no")
	writeFile(t, filepath.Join(dir, "askpass"), "#!/bin/sh\n! test -e "+no+"\n", 0o700)
	cmd := exec.Command(path, "-D", "-a", socket)
	cmd.Env = append(os.Environ(), "SSH_ASKPASS="+filepath.Join(dir, "askpass"), "SSH_ASKPASS_REQUIRE=force")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	await(t, "ssh-agent", func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return socket, func(yes bool) {
		if yes {
			os.Remove(no)
		} else {
			writeFile(t, no, "", 0o600)
		}
	}
}

// exchange sends request and returns the reply, or what else came of it.
func exchange(t *testing.T, socket string, request []byte) (reply []byte, outcome string) {
	t.Helper()
	c := dial(t, socket)
	defer c.Close()
	// A reader of its own: the other end may close before it has read all.
	go c.Write(request)
	reply, err := readReply(c)
	if err != nil {
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Fatal("no reply in time")
		}
		return nil, "dropped"
	}
	return reply, fmt.Sprintf("type %d", reply[0])
}

// TestAnswersLikeOpenSSH sends the same bytes to OpenSSH's agent and to ours,
// both holding the same keys, and wants the same answers, byte for byte where
// signatures are deterministic.
func TestAnswersLikeOpenSSH(t *testing.T) {
	theirs := startSSHAgent(t)
	ours := start(t, fakes(testKeys()...), nil)
	client := sshagent.NewClient(dial(t, theirs))
	// Ours lists by path; OpenSSH as they came.
	byPath := slices.Clone(testKeys())
	slices.SortFunc(byPath, func(a, b testKey) int { return strings.Compare(a.name, b.name) })
	for _, k := range byPath {
		var private any = k.signer
		if err := client.Add(sshagent.AddedKey{PrivateKey: private, Comment: k.name + " key"}); err != nil {
			t.Fatal(err)
		}
	}

	type request struct {
		name  string
		bytes []byte
		exact bool // the reply's bytes are the same too
	}
	ed, rsa := testKeys()[0].blob(), testKeys()[4].blob()
	sign := signFrame(ed, []byte("data"), 0)[headerSize:]
	u32 := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	requests := []request{
		{"list", listFrame, true},
		{"list and more", frame([]byte{11, 1, 2, 3}), true},
		{"list, largest request", frame([]byte{11}, make([]byte, maxRequest-1)), true},
		{"list, one byte too large", frame([]byte{11}, make([]byte, maxRequest)), false},
		{"length of 4 GiB", append(u32(1<<32-1), 11), false},
		{"length 0 and more", append(u32(0), 11), false},

		{"sign", frame(sign), true},
		{"sign and more", frame(sign, []byte("more")), true},
		{"sign nothing", signFrame(ed, nil, 0), true},
		{"sign without flags", frame(sign[:len(sign)-4]), true},
		{"sign with half of the flags", frame(sign[:len(sign)-2]), true},
		{"sign without data", frame([]byte{13}, str(ed)), true},
		{"sign without a key", frame([]byte{13}), true},
		{"sign with an empty key", signFrame(nil, []byte("data"), 0), true},
		{"sign with a key and more", signFrame(append(bytes.Clone(ed), 0), []byte("data"), 0), true},
		{"sign with a short key", signFrame(ed[:len(ed)-1], []byte("data"), 0), true},
		{"sign with an unknown key", signFrame(edKey(99).blob(), []byte("data"), 0), true},
		{"sign with an unknown type", signFrame(str("ssh-none"), []byte("data"), 0), true},
		{"sign with a key past the end", frame([]byte{13}, u32(1<<20), ed), true},
		{"sign with a key of 4 GiB", frame([]byte{13}, u32(1<<32-1), ed), true},
		{"sign with data past the end", frame([]byte{13}, str(ed), u32(5), []byte("data")), true},

		{"extension without a name", frame([]byte{27}), true},
		{"extension with an empty name", frame([]byte{27}, str("")), true},
		{"unknown extension", frame([]byte{27}, str("none@example.org"), []byte("contents")), true},
		{"extension with a name past the end", frame([]byte{27}, u32(100), []byte("x")), true},
		{"remove a key without naming it", frame([]byte{18}), true},
		{"remove an unknown key", frame([]byte{18}, str(edKey(99).blob())), true},
	}
	for flags := range uint32(10) {
		requests = append(requests,
			request{fmt.Sprintf("sign with rsa, flags %d", flags), signFrame(rsa, []byte("data"), flags), true},
			request{fmt.Sprintf("sign with ed25519, flags %d", flags), signFrame(ed, []byte("data"), flags), true})
	}
	for n := range 256 {
		switch n {
		case 9, 19: // OpenSSH removes its keys; ours has none that a client may remove
		case 22, 23: // OpenSSH 9.2 exits on a lock without a passphrase
		default:
			requests = append(requests, request{fmt.Sprintf("message %d without a body", n), frame([]byte{byte(n)}), true},
				request{fmt.Sprintf("message %d with zeros", n), frame([]byte{byte(n)}, make([]byte, 12)), true})
		}
	}
	for _, r := range requests {
		want, wantOutcome := exchange(t, theirs, r.bytes)
		got, gotOutcome := exchange(t, ours.socket, r.bytes)
		if gotOutcome != wantOutcome || r.exact && !bytes.Equal(got, want) {
			t.Errorf("%s: %s, OpenSSH %s\n%.80x\n%.80x", r.name, gotOutcome, wantOutcome, got, want)
		}
	}

	for _, k := range testKeys()[1:4] { // ECDSA: the same algorithm, and both verify
		pub := must(ssh.NewPublicKey(k.signer.Public()))
		for name, socket := range map[string]string{"OpenSSH's": theirs, "ours": ours.socket} {
			reply, _ := exchange(t, socket, signFrame(k.blob(), []byte("data"), flagSHA512))
			d := decoder{rest: reply[1:]}
			inner := decoder{rest: d.string()}
			sig := &ssh.Signature{Format: string(inner.string()), Blob: inner.string()}
			if !d.done() || !inner.done() || sig.Format != pub.Type() || pub.Verify([]byte("data"), sig) != nil {
				t.Errorf("%s, %s: %x", k.name, name, reply)
			}
		}
	}
}

// TestEmptyFrameIsDroppedAtOnce is a difference: OpenSSH waits for a fifth byte.
func TestEmptyFrameIsDroppedAtOnce(t *testing.T) {
	a := start(t, nil, nil)
	c := a.dial(t)
	if _, err := c.Write([]byte{0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read %d, %v", n, err)
	}
}
