package agent

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyringd/keyringd/keyring"
)

// FuzzRequest feeds one connection's bytes, in chunks of every size, to the
// decoders: nothing panics, memory is bounded by what arrived, frames are those
// that a naive reader cuts, each has one well-formed reply, and what a parser
// understands encodes to the same bytes.
func FuzzRequest(f *testing.F) {
	k := edKey(1)
	blob, host := k.blob(), edKey(9).blob()
	login := loginData("mia", methodPublicKey, blob, nil)
	bound := loginData("mia", methodHostBound, blob, host)
	commit := sshsigData("git", "sha512", make([]byte, 64))
	rsa := testKeys()[4].blob()
	skSeed, _ := skAddFrame(edKey(4), "ssh:", "ed", 1, constraint(constraintProvider, str("internal")))
	for _, seed := range [][]byte{
		nil,
		listFrame,
		slices.Concat(listFrame, listFrame, signFrame(blob, []byte("x"), 0)),
		signFrame(blob, login, 0), signFrame(blob, bound, 0), signFrame(blob, commit, 0),
		signFrame(rsa, login, flagSHA256|flagSHA512),
		slices.Concat(signFrame(blob, bound, 0), frame([]byte{9}), frame([]byte{27}, str("query"))),
		frame([]byte{27}, str("session-bind@openssh.com"), str(host), str("id"), str("sig"), []byte{0}),
		frame([]byte{22}, str("passphrase")),
		frame([]byte{13}, []byte{0xff, 0xff, 0xff, 0xff}),
		{0, 0, 0, 0}, {0, 4, 0, 1, 11}, {0, 4, 0, 0, 11}, {0xff, 0xff, 0xff, 0xff, 13},
		login, bound, commit,
		edKey(3).addFrame("k"), edKey(3).addFrame("k", lifetimeOf(1), []byte{constrainConfirm}),
		edKey(3).addFrame("k", restrict(testHop{}, testHop{"mia", "gate", []testKey{edKey(11)}, false}, testHop{host: "gate", keys: []testKey{edKey(11)}},
			testHop{"", "inner", []testKey{edKey(12)}, true})),
		testKeys()[1].addFrame("k"), testKeys()[4].addFrame("k"), testKeys()[2].addCertFrame(testKeys()[2].certify(1, 200, nil), "c"),
		edKey(3).addCertFrame(edKey(3).certify(1, 200, nil), "c"), skSeed,
		slices.Concat(bindFrame(edKey(11), nil, "s", true), bindFrame(edKey(12), hostCert("inner"), "t", false), listFrame, signFrame(blob, bound, 0)),
		frame([]byte{18}, str(blob)), frame([]byte{19}),
		frame([]byte{26}, str("/usr/lib/x.so"), str("1234"), constraint(constraintCertificates, []byte{1}, str(str(hostCert("a").Marshal())))),
		frame([]byte{21}, str("/usr/lib/x.so"), str("")),
	} {
		f.Add(seed, uint16(1))
		f.Add(seed, uint16(1000))
	}
	s, log := newSession(f, []keyring.Key{k.fake(), testKeys()[4].fake()})
	s.server.Providers = &hardware{}
	f.Fuzz(func(t *testing.T, stream []byte, size uint16) {
		s.bound = bindings{}
		defer s.server.DropAdded()
		checkParsers(t, stream)
		c := &chunks{rest: stream, size: int(size) + 1}
		r := frameReader{conn: c, timeout: time.Hour}
		c.onRead = func() {
			if arrived := len(stream) - len(c.rest); len(r.buf) > max(minBuffer, 2*(arrived+1)) {
				t.Fatalf("%d bytes reserved after %d arrived", len(r.buf), arrived)
			}
		}
		for rest := stream; ; {
			want, more := naiveFrame(rest)
			got, err := r.next()
			if (err == nil) != (want != nil) {
				t.Fatalf("frame %x, err %v; want %x", got, err, want)
			}
			if err != nil {
				break
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("frame %x, want %x", got, want)
			}
			rest = more
			if got[0] == msgSignRequest {
				d := decoder{rest: bytes.Clone(got[1:])}
				d.string()
				checkParsers(t, d.string())
			}
			if got[0] == msgLock || got[0] == msgUnlock {
				continue // takes time on purpose, and is no decoder
			}
			reply := s.answer(got)
			if len(reply) < 5 || int(binary.BigEndian.Uint32(reply)) != len(reply)-4 {
				t.Fatalf("reply %x to %x", reply, want)
			}
			clear(got)
		}
		if text := log.String(); strings.Contains(text, "ERROR") || strings.Contains(text, "panic") {
			t.Fatalf("journal: %s", text)
		}
	})
}

// naiveFrame returns the first frame's contents and what follows, or nil.
func naiveFrame(b []byte) (frame, rest []byte) {
	if len(b) < 4 {
		return nil, nil
	}
	n := binary.BigEndian.Uint32(b)
	if n == 0 || n > maxRequest || uint64(n) > uint64(len(b)-4) {
		return nil, nil
	}
	return bytes.Clone(b[4 : 4+n]), b[4+n:]
}

func checkParsers(t *testing.T, data []byte) {
	if u, ok := parseUserauth(data); ok && !bytes.Equal(u.encode(), data) {
		t.Fatalf("userauth %x encodes as %x", data, u.encode())
	}
	if s, ok := parseSSHSig(data); ok && !bytes.Equal(s.encode(), data) {
		t.Fatalf("sshsig %x encodes as %x", data, s.encode())
	}
}
