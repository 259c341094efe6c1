//go:build bench

package bench

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"

	"github.com/keyringd/keyringd/internal/daemontest"
)

// per is the processor time of what, in microseconds.
func per(tb testing.TB, p peer, what func()) float64 {
	tb.Helper()
	for range 20 {
		what()
	}
	before, n := cpu(tb, p.pid), 0
	for start := time.Now(); time.Since(start) < 2*time.Second; n++ {
		what()
	}
	return float64(cpu(tb, p.pid)-before) / float64(n) / 1e3
}

// ed25519Files puts key files into a session's key folder.
func ed25519Files(tb testing.TB, s *daemontest.Session, n int) {
	tb.Helper()
	for i := range n {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			tb.Fatal(err)
		}
		block, err := ssh.MarshalPrivateKey(key, fmt.Sprint("k", i))
		if err != nil {
			tb.Fatal(err)
		}
		s.Key(fmt.Sprintf("k%04d", i), pem.EncodeToMemory(block))
	}
}

// TestAgent compares what the two agents spend on one signature and on one list,
// with one key and with a thousand. No client waits in these figures.
func TestAgent(t *testing.T) {
	row := table("ssh-agent and keyringd: processor time", "agent", "keys", "ed25519 sign us", "list us", "RSS MB")
	for _, n := range []int{1, 1000} {
		s := daemontest.New(t)
		ed25519Files(t, s, n)
		for _, p := range peers(t, s) {
			client := p.client(t)
			keys := list(t, client)
			if len(keys) != n {
				t.Fatalf("%s lists %d keys, want %d", p.name, len(keys), n)
			}
			one := keys[n/2 : n/2+1]
			signing := per(t, p, func() { sign(t, client, one, 1) })
			listing := per(t, p, func() { list(t, client) })
			row(p.name, n, fmt.Sprintf("%.0f", signing), fmt.Sprintf("%.0f", listing), fmt.Sprintf("%.1f", rss(t, p.pid)))
		}
	}
}

// TestCores has one client and then sixteen sign with RSA, and tells how many
// cores the agent kept busy for them.
func TestCores(t *testing.T) {
	row := table("RSA 3072 by several clients", "agent", "clients", "signatures/s", "cores used")
	s := daemontest.New(t)
	keygen(t, "-t", "rsa", "-b", "3072", "-f", filepath.Join(s.Keys, "key"))
	for _, p := range peers(t, s) {
		keys := list(t, p.client(t))
		for _, n := range []int{1, 16} {
			var clients []sshagent.Agent
			for range n {
				clients = append(clients, p.client(t))
			}
			sign(t, clients[0], keys, 5)
			before, start := cpu(t, p.pid), time.Now()
			var group sync.WaitGroup
			var mu sync.Mutex
			signed := 0
			for _, client := range clients {
				group.Go(func() {
					for time.Since(start) < 2*time.Second {
						sign(t, client, keys, 1)
						mu.Lock()
						signed++
						mu.Unlock()
					}
				})
			}
			group.Wait()
			took := time.Since(start)
			row(p.name, n, fmt.Sprintf("%.0f", float64(signed)/took.Seconds()), fmt.Sprintf("%.2f", float64(cpu(t, p.pid)-before)/float64(took)))
		}
	}
}

// TestFirstList measures the time from the start of an agent to its first
// answer, the best of many: what else goes on in the machine only adds to it.
func TestFirstList(t *testing.T) {
	row := table("From start to the first list, best of 20", "agent", "keys", "ms", "processor ms")
	for _, n := range []int{0, 1, 10, 1000} {
		best, spent := time.Hour, time.Hour
		home := daemontest.New(t)
		ed25519Files(t, home, n)
		for range 20 {
			s := daemontest.New(t)
			s.Keys = home.Keys
			start := time.Now()
			s.Start("none")
			if got := len(list(t, s.Client())); got != n {
				t.Fatalf("%d keys are listed, want %d", got, n)
			}
			best, spent = min(best, time.Since(start)), min(spent, cpu(t, s.PID()))
			if err := s.Stop(); err != nil {
				t.Fatal(err)
			}
		}
		row("keyringd", n, ms(best), ms(spent))
	}
	best, spent := time.Hour, time.Hour
	for range 20 {
		socket := filepath.Join(daemontest.New(t).Dir, "agent")
		cmd := exec.Command("ssh-agent", "-D", "-a", socket)
		start := time.Now()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var conn net.Conn
		for conn == nil {
			if time.Since(start) > time.Minute {
				t.Fatal("ssh-agent did not start")
			}
			conn, _ = net.Dial("unix", socket)
		}
		list(t, sshagent.NewClient(conn))
		best, spent = min(best, time.Since(start)), min(spent, cpu(t, cmd.Process.Pid))
		_ = conn.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	row("ssh-agent", 0, ms(best), ms(spent))
}
