package e2e

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	sshagent "golang.org/x/crypto/ssh/agent"

	"github.com/keyringd/keyringd/internal/confine"
	"github.com/keyringd/keyringd/internal/daemontest"
)

// unlucky is a pinentry to which something else happens each time it is run.
// None of them gives a right answer to a question, although some know it.
const unlucky = `#!/bin/sh
dir=$(dirname "$0")
n=$(cat "$dir/runs")
echo $((n + 1)) >"$dir/runs"
fate=$((n % 24))
case $fate in
0) kill -SEGV $$ ;;
1) echo "cannot open display" >&2; exit 1 ;;
2) exit 0 ;;
3) printf '\177ELF\0\001 what is this\n' ;;
4) printf 'OK\nOK\nD open sesame\nOK\nOK\nOK\nOK\nOK\nOK\nOK\nOK\nOK\nOK\nOK\nOK\nOK\nOK\nOK\nOK\nOK\nOK\nOK\nOK\nOK\nOK\n' ;;
5) exec head -c 3000000 /dev/zero ;;
esac
echo "OK ready"
while IFS= read -r line; do
	case $fate$line in
	10GETPIN*|10CONFIRM*) kill -KILL $$ ;;
	11GETPIN*|11CONFIRM*) echo $$ >"$dir/hangs.new"; mv "$dir/hangs.new" "$dir/hangs"; exec sleep 600 ;;
	12GETPIN*|12CONFIRM*) echo 'surely!' ;;
	13GETPIN*|13CONFIRM*) exec <&- >&- 2>&-; exec sleep 600 ;;
	14GETPIN*|14CONFIRM*) exec yes 'S PROGRESS and so on' ;;
	15GETPIN*|15CONFIRM*) yes 'warning: it is raining' | head -c 3000000 >&2; exit 3 ;;
	16GETPIN*|16CONFIRM*) exit 0 ;;
	17GETPIN*|17CONFIRM*) printf 'D open se'; exit 0 ;;
	18GETPIN*|18CONFIRM*) printf 'D open sesame\n'; kill -KILL $$ ;;
	19GETPIN*|19CONFIRM*) printf 'D open sesame\nO'; exit 0 ;;
	20GETPIN*|20CONFIRM*) head -c 100000 /dev/zero | tr '\0' x; echo; echo OK ;;
	21GETPIN*|21CONFIRM*) head -c 500 /dev/zero; echo; echo OK ;;
	22GETPIN*|22CONFIRM*) printf 'OKAY\n'; exit 0 ;;
	23GETPIN*|23CONFIRM*) printf 'ERR\n'; exit 0 ;;
	6SETDESC*) printf 'OK\nD open sesame\nOK\n' ;;
	7SETDESC*) echo 'ERR 83886108 no memory' ;;
	8SETDESC*) yes 'D xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'; exit 0 ;;
	9SETDESC*) kill -SEGV $$ ;;
	*CONFIRM*|*GETPIN*) echo 'ERR 83886194 not confirmed' ;;
	*BYE*) echo OK; exit 0 ;;
	*) echo OK ;;
	esac
done
`

// TestUnluckyPrompters puts a hundred questions to pinentries that crash, are
// killed, hang, talk nonsense, or speak when they are not asked. Each asker is
// refused, other clients notice nothing, and nothing is left.
func TestUnluckyPrompters(t *testing.T) {
	// Not as many askers as would give each of them its own misfortunes again and
	// again, as they take turns.
	const questions, askers = 100, 5
	s := daemontest.New(t)
	good, err := os.ReadFile(filepath.Join(s.Dir, "pinentry"))
	if err != nil {
		t.Fatal(err)
	}
	s.Must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "plain", "-f", filepath.Join(s.Keys, "plain"))
	for i := range askers/2 + 1 {
		name := fmt.Sprint("locked", i)
		s.Must("ssh-keygen", "-q", "-t", "ed25519", "-a", "1", "-N", "open sesame", "-C", name, "-f", filepath.Join(s.Keys, name))
	}
	s.Write("runs", "0", 0o600)
	s.Write("pinentry", unlucky, 0o700)
	s.Start("none")
	if _, err := confine.Version(); err == nil {
		await(t, "sandbox", func() bool { return strings.Contains(s.Log.String(), "in its sandbox") })
	}
	first := s.Client()
	for i := range askers/2 + 1 {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := first.Add(sshagent.AddedKey{PrivateKey: key, Comment: fmt.Sprint("confirm", i), ConfirmBeforeUse: true}); err != nil {
			t.Fatal(err)
		}
	}
	_ = first.Close()
	for range 2 { // what is opened once is open
		if err := verify(t, s, "plain", []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	before := holdings(t, s.PID())

	done := make(chan struct{})
	var others, asking sync.WaitGroup
	others.Go(func() { killHanging(t, s, done) })
	var signed atomic.Int64
	others.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			default:
			}
			if err := verify(t, s, "plain", strconv.AppendInt(nil, int64(n), 10)); err != nil {
				t.Errorf("a key that needs no question: %v", err)
				return
			}
			signed.Add(1)
		}
	})
	for i := range askers {
		name := fmt.Sprint("locked", i/2)
		if i%2 == 1 {
			name = fmt.Sprint("confirm", i/2)
		}
		asking.Go(func() {
			// A crowd of clients, each of which asks a few times.
			for range questions / askers / 4 {
				isRefused(t, s.Socket, name, 4)
			}
		})
	}
	asking.Wait()
	close(done)
	others.Wait()
	text, err := os.ReadFile(filepath.Join(s.Dir, "runs"))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err != nil || n < questions {
		t.Errorf("%d questions were asked, %v, want %d", n, err, questions)
	}
	if signed.Load() == 0 {
		t.Error("nobody else signed meanwhile")
	}

	await(t, "the end of all that was begun", func() bool {
		return holdings(t, s.PID()).within(before)
	})
	// After all that the user is asked with one that works, and is heard.
	s.Write("pinentry", string(good), 0o700)
	s.Answer("open sesame")
	for _, name := range []string{"locked0", "locked1", "confirm0", "confirm1"} {
		if err := verify(t, s, name, []byte("x")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	await(t, "the end of the last questions", func() bool {
		return holdings(t, s.PID()).within(before)
	})
	for _, g := range goroutines(t, s) {
		if strings.Contains(g, "/prompt.") || strings.Contains(g, "/prompt/pinentry.") || strings.Contains(g, "keyring.(*Gate).") {
			t.Errorf("a goroutine is left:\n%s", g)
		}
	}
}

// isRefused asks for n signatures on one connection, all of which must be
// refused before its deadline, and the connection go on.
func isRefused(t *testing.T, socket, comment string, n int) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	client := sshagent.NewClient(conn)
	for range n {
		if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
			t.Error(err)
		}
		keys, err := client.List()
		i := slices.IndexFunc(keys, func(k *sshagent.Key) bool { return k.Comment == comment })
		if err != nil || i < 0 {
			t.Errorf("%s is not listed: %v", comment, err)
			return
		}
		if _, err := client.Sign(keys[i], []byte("x")); err == nil {
			t.Errorf("%s signed without an answer", comment)
		}
	}
	if _, err := client.List(); err != nil {
		t.Errorf("the connection after the refusals: %v", err)
	}
}

// killHanging kills the pinentries that hang, until done.
func killHanging(t *testing.T, s *daemontest.Session, done <-chan struct{}) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(filepath.Join(s.Dir, "hangs"))
		if err == nil {
			pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
			if err != nil {
				t.Error(err)
			}
			// Before the next one hangs.
			if err := os.Remove(filepath.Join(s.Dir, "hangs")); err != nil {
				t.Error(err)
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
		select {
		case <-tick.C:
		case <-done:
			return
		}
	}
}

// held is what a daemon has: its processes, itself first, and how many
// descriptors each of them has, as far as that can be seen.
type held struct{ processes, descriptors []int }

func holdings(t *testing.T, pid int) (h held) {
	t.Helper()
	h.processes = []int{pid}
	for i := 0; i < len(h.processes); i++ {
		h.processes = append(h.processes, children(t, h.processes[i])...)
	}
	for _, pid := range h.processes {
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			return held{} // it has just ended
		}
		if err != nil && !errors.Is(err, os.ErrPermission) {
			t.Fatal(err)
		}
		h.descriptors = append(h.descriptors, len(open))
	}
	return h
}

// within reports whether there is no more than there was before.
func (h held) within(before held) bool {
	if !slices.Equal(h.processes, before.processes) {
		return false
	}
	for i, n := range h.descriptors {
		if n > before.descriptors[i] {
			return false
		}
	}
	return true
}

// goroutines ends the daemon with SIGQUIT and returns what its goroutines did.
func goroutines(t *testing.T, s *daemontest.Session) []string {
	t.Helper()
	if err := syscall.Kill(s.PID(), syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	await(t, "end of the daemon", func() bool { return zombie(s.PID()) })
	s.Kill() // it has ended, and is waited for
	all := strings.Split(s.Log.String(), "\n\ngoroutine ")[1:]
	if len(all) < 3 {
		t.Errorf("the daemon shows %d goroutines", len(all))
	}
	return all
}
