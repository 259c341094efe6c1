package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyringd/keyringd/keyring"
)

// TestUpstream puts OpenSSH's agent behind ours.
func TestUpstream(t *testing.T) {
	theirs := startSSHAgent(t)
	other := dial(t, theirs)
	k, both, restricted := edKey(21), edKey(1), edKey(22)
	for _, request := range [][]byte{k.addFrame("theirs"), both.addFrame("both"),
		restricted.addFrame("restricted", restrict(testHop{}, testHop{"", "gate", []testKey{edKey(11)}, false}))} {
		ours.want(t, other, "add", "yes", request)
	}
	a := start(t, fakes(both), func(s *Server) { s.Upstream = theirs })
	c := a.dial(t)
	wantComments(t, c, "ours first", "ed25519 key", "theirs", "restricted")
	verifyReply(t, roundTrip(t, c, signFrame(k.blob(), []byte("x"), 0)), k.signer.Public(), []byte("x"))
	past := a.Keys.Gate().History()
	if len(past) != 1 || past[0].Subject != "theirs" || past[0].Reason != "sign data of an unknown kind" || past[0].Err != nil {
		t.Errorf("history: %+v", past)
	}
	// On a new connection that never listed.
	verifyReply(t, roundTrip(t, a.dial(t), signFrame(k.blob(), []byte("y"), 0)), k.signer.Public(), []byte("y"))
	ours.want(t, c, "a key that nobody has", "no", signFrame(edKey(99).blob(), nil, 0))

	// What binds ours binds theirs, before and after it is first asked.
	for _, early := range []bool{true, false} {
		bound := a.dial(t)
		if early {
			comments(t, bound)
		}
		ours.want(t, bound, "bind", "yes", bindFrame(edKey(11), nil, "s", false))
		login := loginTo("s", "mia", restricted.blob(), "ssh-ed25519", edKey(11).blob())
		verifyReply(t, roundTrip(t, bound, signFrame(restricted.blob(), login, 0)), restricted.signer.Public(), login)
		elsewhere := a.dial(t)
		ours.want(t, elsewhere, "bind", "yes", bindFrame(edKey(12), nil, "s", false))
		ours.want(t, elsewhere, "sign elsewhere", "no", signFrame(restricted.blob(), login, 0))
		wantComments(t, elsewhere, "elsewhere", "ed25519 key", "theirs")
	}

	ours.want(t, c, "lock", "yes", frame([]byte{22}, str("x")))
	wantComments(t, c, "locked")
	ours.want(t, c, "sign while locked", "no", signFrame(k.blob(), nil, 0))
	wantComments(t, other, "theirs is not locked", "theirs", "both", "restricted")
	ours.want(t, c, "unlock", "yes", frame([]byte{23}, str("x")))

	ours.want(t, c, "remove theirs", "yes", frame([]byte{18}, str(k.blob())))
	wantComments(t, other, "removed", "both", "restricted")
	ours.want(t, c, "add", "yes", edKey(30).addFrame("added"))
	wantComments(t, other, "nothing is added there", "both", "restricted")
	ours.want(t, c, "remove all", "yes", frame([]byte{19}))
	wantComments(t, other, "all removed")
	wantComments(t, c, "all removed")
}

// A silentAgent accepts connections and answers what reply returns; nil:
// nothing at all.
func silentAgent(t *testing.T, reply func(request []byte) []byte) (socket string) {
	t.Helper()
	dir := must(os.MkdirTemp("", "kr"))
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "u")
	l := must(net.Listen("unix", socket))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				for {
					request, err := readReply(c)
					if err != nil {
						return
					}
					if answer := reply(request); answer != nil {
						if _, err := c.Write(answer); err != nil {
							return
						}
					}
				}
			}()
		}
	}()
	return socket
}

// withUpstream is for an agent that this process plays.
func withUpstream(socket string) func(*Server) {
	return func(s *Server) { s.Upstream, s.pid = socket, 0 }
}

// TestUpstreamFailuresAreNotOurs puts agents behind ours that are of no use.
func TestUpstreamFailuresAreNotOurs(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone")
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, "", 0o600)
	always := func(answer []byte) string { return silentAgent(t, func([]byte) []byte { return answer }) }
	huge := binary.BigEndian.AppendUint32(nil, 1<<31)
	for name, socket := range map[string]string{
		"not there": gone, "a file": file, "silent": always(nil), "refuses": always(failureReply), "endless": always(huge),
		"empty": always([]byte{0, 0, 0, 0}), "malformed": always([]byte{0, 0, 0, 9, 12, 0, 0, 0, 5, 0, 0, 0, 9}),
		"half an answer": always([]byte{0, 0, 1, 0, 12}),
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			a := start(t, fakes(edKey(1)), withUpstream(socket))
			c := a.dial(t)
			for range 3 {
				wantComments(t, c, name, "ed25519 key")
				ours.want(t, c, "sign", "yes", signFrame(edKey(1).blob(), nil, 0))
				ours.want(t, c, "sign with what nobody has", "no", signFrame(edKey(9).blob(), nil, 0))
			}
			ours.want(t, c, "remove all", "yes", frame([]byte{19}))
		})
	}
}

// TestUpstreamIsNotAskedWhileAbsent wants the second client not to wait.
func TestUpstreamIsNotAskedWhileAbsent(t *testing.T) {
	asked := make(chan struct{}, 100)
	socket := silentAgent(t, func([]byte) []byte { asked <- struct{}{}; return nil })
	a := start(t, fakes(edKey(1)), withUpstream(socket))
	a.absent.note(true)
	for range 10 {
		wantComments(t, a.dial(t), "absent", "ed25519 key")
	}
	if len(asked) != 0 {
		t.Errorf("asked %d times", len(asked))
	}
	a.absent.mu.Lock()
	a.absent.since = time.Now().Add(-upstreamAbsent)
	a.absent.mu.Unlock()
	wantComments(t, a.dial(t), "back", "ed25519 key")
	if len(asked) != 1 {
		t.Errorf("asked %d times", len(asked))
	}
}

// TestUpstreamThatIsOurself does not go round in circles.
func TestUpstreamThatIsOurself(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	a := start(t, fakes(edKey(1)), func(s *Server) { s.Upstream = link })
	if err := os.Symlink(a.socket, link); err != nil {
		t.Fatal(err)
	}
	wantComments(t, a.dial(t), "itself", "ed25519 key")
}

// TestHangUpEndsUpstreamSign wants a question of the other agent to go away
// with who asked.
func TestHangUpEndsUpstreamSign(t *testing.T) {
	k := edKey(21)
	signing := make(chan struct{}, 1)
	socket := silentAgent(t, func(request []byte) []byte {
		if request[0] == msgSignRequest {
			signing <- struct{}{}
			return nil
		}
		return frame([]byte{12}, u32(1), str(k.blob()), str("theirs"))
	})
	a := start(t, nil, withUpstream(socket))
	c := a.dial(t)
	if _, err := c.Write(signFrame(k.blob(), []byte("x"), 0)); err != nil {
		t.Fatal(err)
	}
	receive(t, signing, "the other agent to be asked")
	c.Close()
	await(t, "the use to end", func() bool {
		past := a.Keys.Gate().History()
		return len(past) == 1 && past[0].Err != nil
	})
	if a.absent.is() {
		t.Error("the other agent is blamed for a client that went away")
	}
}

func TestUpstreamListIsCut(t *testing.T) {
	var list []byte
	n := 0
	for i := range 3000 {
		list = append(list, append(str(append(edKey(1).blob(), byte(i), byte(i>>8))), str(fmt.Sprint("key ", i))...)...)
		n++
	}
	many := frame([]byte{12}, u32(uint32(n)), list)
	socket := silentAgent(t, func([]byte) []byte { return many })
	a := start(t, fakes(edKey(1)), withUpstream(socket))
	got := comments(t, a.dial(t))
	if len(got) != maxIdentities || got[0] != "ed25519 key" || !slices.Contains(got, "key 2046") {
		t.Errorf("%d listed", len(got))
	}
}

func TestUpstreamErrorsHaveOutcomes(t *testing.T) {
	if reply, _ := outcome(fmt.Errorf("%w: %w", errUpstream, keyring.ErrUnavailable)); reply != msgFailure || errors.Is(errUpstream, keyring.ErrDenied) {
		t.Error(reply)
	}
}
