//go:build bench

package bench

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	sshagent "golang.org/x/crypto/ssh/agent"
	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/internal/daemontest"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

func quantile(d []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(d))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.3f", float64(d)/1e6) }

// cpu is the processor time that a process has used, with that of its threads
// that are gone. The kernel says it to the nanosecond on a clock of the process's
// own, whose number is made as clock_getcpuclockid(3) makes it.
func cpu(tb testing.TB, pid int) time.Duration {
	tb.Helper()
	const scheduled = 2 // CPUCLOCK_SCHED
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduled), &used); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(used.Nano())
}

// rss is the resident memory of a process in MB.
func rss(tb testing.TB, pid int) float64 {
	tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb / 1024
		}
	}
	tb.Fatal("no VmRSS")
	return 0
}

// peer is a running agent, ours or OpenSSH's.
type peer struct {
	name, socket string
	pid          int
}

func (p peer) client(tb testing.TB) sshagent.Agent {
	tb.Helper()
	c, err := net.Dial("unix", p.socket)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return sshagent.NewClient(c)
}

// peers starts both with the ordinary keys in a folder. Each is given the keys
// in its own way: ssh-agent has them added, keyringd finds them.
func peers(tb testing.TB, s *daemontest.Session) []peer {
	tb.Helper()
	s.Start("none", "--remember", "10m")
	theirs := sshAgent(tb, s.Dir)
	files, err := filepath.Glob(filepath.Join(s.Keys, "k*"))
	if err != nil {
		tb.Fatal(err)
	}
	files = slices.DeleteFunc(files, func(f string) bool { return strings.HasSuffix(f, ".pub") })
	for chunk := range slices.Chunk(files, 100) {
		add := exec.Command("ssh-add", append([]string{"-q"}, chunk...)...)
		add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+theirs.socket)
		if out, err := add.CombinedOutput(); err != nil {
			tb.Fatalf("ssh-add: %v\n%s", err, out)
		}
	}
	return []peer{{"keyringd", s.Socket, s.PID()}, theirs}
}

// sshAgent starts OpenSSH's agent for as long as the test.
func sshAgent(tb testing.TB, dir string, environ ...string) peer {
	tb.Helper()
	socket := filepath.Join(dir, "agent")
	cmd := exec.Command("ssh-agent", "-D", "-a", socket)
	cmd.Env = append(os.Environ(), environ...)
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	until(tb, "ssh-agent", func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return peer{"ssh-agent", socket, cmd.Process.Pid}
}

func keygen(tb testing.TB, args ...string) {
	tb.Helper()
	if out, err := exec.Command("ssh-keygen", append([]string{"-q", "-N", ""}, args...)...).CombinedOutput(); err != nil {
		tb.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
}

// TestSign compares the processor time and latency of a signature by ordinary
// keys, one client and sixteen.
func TestSign(t *testing.T) {
	row := table("Ordinary keys: a signature", "key", "keyringd CPU us", "ssh-agent CPU us", "CPU ratio", "p50/p99 ms at 16", "ssh-agent at 16")
	for _, c := range []struct{ name, alg, bits string }{{"ed25519", "ed25519", "256"}, {"ecdsa P-256", "ecdsa", "256"}, {"rsa 2048", "rsa", "2048"}, {"rsa 3072", "rsa", "3072"}} {
		s := daemontest.New(t)
		keygen(t, "-t", c.alg, "-b", c.bits, "-f", filepath.Join(s.Keys, "key"))
		var used []float64
		var sixteen []string
		for _, p := range peers(t, s) {
			client := p.client(t)
			keys := list(t, client)
			sign(t, client, keys, 5)
			n := 0
			before := cpu(t, p.pid)
			for start := time.Now(); time.Since(start) < time.Second; n += 20 {
				sign(t, client, keys, 20)
			}
			used = append(used, float64(cpu(t, p.pid)-before)/float64(n)/1e3)
			took := crowd(t, p, keys)
			sixteen = append(sixteen, ms(quantile(took, 0.5))+"/"+ms(quantile(took, 0.99)))
		}
		row(c.name, fmt.Sprintf("%.0f", used[0]), fmt.Sprintf("%.0f", used[1]), ratio(used[0], used[1]), sixteen[0], sixteen[1])
	}
}

// crowd has sixteen connections sign at the same time.
func crowd(tb testing.TB, p peer, keys []*sshagent.Key) []time.Duration {
	tb.Helper()
	var mu sync.Mutex
	var all []time.Duration
	var group sync.WaitGroup
	for range 16 {
		client := p.client(tb)
		group.Go(func() {
			took := sign(tb, client, keys, 25)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
		})
	}
	group.Wait()
	return all
}

// TestList compares listing, start and memory with few and many keys.
func TestList(t *testing.T) {
	row := table("Listing, memory", "agent", "keys", "list p50 ms", "list CPU us", "RSS MB")
	for _, n := range []int{1, 1000} {
		s := daemontest.New(t)
		for i := range n {
			keygen(t, "-t", "ed25519", "-C", fmt.Sprint("k", i), "-f", filepath.Join(s.Keys, fmt.Sprintf("k%04d", i)))
		}
		for _, p := range peers(t, s) {
			idle := rss(t, p.pid)
			client := p.client(t)
			if got := len(list(t, client)); got != n {
				t.Fatalf("%s lists %d keys, want %d", p.name, got, n)
			}
			var took []time.Duration
			before, count := cpu(t, p.pid), 0
			for start := time.Now(); time.Since(start) < time.Second; count++ {
				one := time.Now()
				list(t, client)
				took = append(took, time.Since(one))
			}
			used := float64(cpu(t, p.pid)-before) / float64(count) / 1e3
			row(p.name, n, ms(quantile(took, 0.5)), fmt.Sprintf("%.0f", used), fmt.Sprintf("%.1f", idle))
		}
	}
}

// TestStart measures the time from the start of the process to its first list,
// with 1,000 TPM key files, and what that costs the TPM.
func TestStart(t *testing.T) {
	row := table("Start with TPM key files", "files", "first list ms", "TPM commands", "RSS MB")
	tpm := tpmtest.Start(t)
	pem := tpm.OpenSSLKey(t, "EC:P-256", "", 0)
	for _, n := range []int{1, 1000} {
		s := daemontest.New(t)
		for i := range n {
			s.Key(fmt.Sprintf("k%04d", i), daemontest.Distinct(t, pem))
		}
		relay := tpm.Relay()
		start := time.Now()
		s.Start(relay.Address().String())
		keys := list(t, s.Client())
		took := time.Since(start)
		if len(keys) != n {
			t.Fatalf("%d keys are listed, want %d", len(keys), n)
		}
		row(n, ms(took), relay.Total(), fmt.Sprintf("%.1f", rss(t, s.PID())))
	}
}

// signCommand is TPM2_Sign's command code (TPM 2.0 Library Part 2, §6.5.2).
const signCommand = 0x15D

// TestListWhileBusy measures listing while a prompt is open and while the TPM
// takes its time.
func TestListWhileBusy(t *testing.T) {
	row := table("Listing while something else goes on", "meanwhile", "p50 ms", "p99 ms", "max ms")
	tpm := tpmtest.Start(t)
	s := daemontest.New(t)
	s.Key("pin", tpm.OpenSSLKey(t, "EC:P-256", "1234", 0))
	s.Key("plain", tpm.OpenSSLKey(t, "EC:P-256", "", 0))
	s.Write("pinentry", "#!/bin/sh\necho OK\nwhile read -r l; do case $l in GETPIN*) touch \"$(dirname \"$0\")/open\"; exec sleep 600 ;; *) echo OK ;; esac; done\n", 0o700)
	relay := tpm.Relay()
	s.Start(relay.Address().String())
	measure := func(what string) {
		client := s.Client()
		var took []time.Duration
		for range 2000 {
			start := time.Now()
			list(t, client)
			took = append(took, time.Since(start))
		}
		row(what, ms(quantile(took, 0.5)), ms(quantile(took, 0.99)), ms(slices.Max(took)))
	}
	measure("nothing")
	keys := list(t, s.Client())
	signing := func(comment string) {
		for _, k := range keys {
			if k.Comment == comment {
				c, err := net.Dial("unix", s.Socket)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = c.Close() })
				go func() { _, _ = sshagent.NewClient(c).Sign(k, []byte("x")) }()
			}
		}
	}
	hold := relay.Hold(signCommand)
	signing("plain")
	until(t, "a signature", func() bool { return relay.Sent()[signCommand] != 0 })
	measure("the TPM is busy")
	hold.Release()
	signing("pin")
	there := func(path string) func() bool {
		return func() bool {
			_, err := os.Stat(path)
			return err == nil
		}
	}
	until(t, "a prompt", there(filepath.Join(s.Dir, "open")))
	measure("a prompt is open")

	// ssh-agent asks nobody for a PIN, but for permission. Its prompt is closed
	// after two seconds; measured is one list that was asked for when it came.
	s.Write("askpass", "#!/bin/sh\ntouch \"$(dirname \"$0\")/asked-by-agent\"\nsleep 2\nexit 1\n", 0o700)
	theirs := sshAgent(t, s.Dir, "SSH_ASKPASS="+filepath.Join(s.Dir, "askpass"), "SSH_ASKPASS_REQUIRE=force")
	file := filepath.Join(t.TempDir(), "key")
	keygen(t, "-t", "ed25519", "-f", file)
	add := exec.Command("ssh-add", "-q", "-c", file)
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+theirs.socket)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("ssh-add: %v\n%s", err, out)
	}
	signer, lister := theirs.client(t), theirs.client(t)
	held := list(t, lister)
	go func() { _, _ = signer.Sign(held[0], []byte("x")) }()
	until(t, "a prompt", there(filepath.Join(s.Dir, "asked-by-agent")))
	start := time.Now()
	list(t, lister)
	row("ssh-agent: a prompt is open, for two seconds", "-", "-", ms(time.Since(start)))
}
