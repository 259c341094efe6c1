package knownhosts

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
	sshknownhosts "golang.org/x/crypto/ssh/knownhosts"

	"github.com/keyringd/keyringd/internal/bustest"
)

func signer(tb testing.TB, n byte) ssh.Signer {
	tb.Helper()
	s, err := ssh.NewSignerFromSigner(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize)))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func line(tb testing.TB, hosts string, n byte) string {
	return hosts + " " + string(ssh.MarshalAuthorizedKey(signer(tb, n).PublicKey()))
}

func write(tb testing.TB, path string, lines ...string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600); err != nil {
		tb.Fatal(err)
	}
}

func cert(tb testing.TB, kind uint32, ca byte, before uint64, principals ...string) *ssh.Certificate {
	tb.Helper()
	c := &ssh.Certificate{Key: signer(tb, 50).PublicKey(), CertType: kind, ValidPrincipals: principals, ValidBefore: before}
	if err := c.SignCert(rand.Reader, signer(tb, ca)); err != nil {
		tb.Fatal(err)
	}
	return c
}

func TestLookup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "known_hosts")
	write(t, path,
		"# a comment\n", "\n", "nonsense\n", "host ssh-ed25519 not-base64\n",
		line(t, "git.example.org,192.0.2.1", 1),
		line(t, "192.0.2.2", 2),
		line(t, "192.0.2.3,*.wild.example.org,named.example.org", 3),
		line(t, "[port.example.org]:2222", 4),
		line(t, sshknownhosts.HashHostname("secret.example.org"), 5),
		line(t, sshknownhosts.HashHostname("[secret.example.org]:2200"), 6),
		line(t, "one,two,three,four", 7),
		"@revoked "+line(t, "*", 8),
		line(t, "once.example.org", 8),
		"@cert-authority "+line(t, "*.example.org,!bad.example.org", 20),
		"@cert-authority "+line(t, "gone.example.org", 21),
		"@revoked "+line(t, "*", 21),
	)
	guesses := func() []string { return []string{"other", "secret.example.org", "[secret.example.org]:2200", "two"} }
	const ever = ssh.CertTimeInfinity
	for _, c := range []struct {
		name    string
		key     ssh.PublicKey
		guesses func() []string
		want    Host
	}{
		{"name before address", signer(t, 1).PublicKey(), nil, Host{Names: []string{"git.example.org", "192.0.2.1"}}},
		{"address", signer(t, 2).PublicKey(), nil, Host{Names: []string{"192.0.2.2"}}},
		{"name before patterns", signer(t, 3).PublicKey(), nil, Host{Names: []string{"named.example.org", "192.0.2.3", "*.wild.example.org"}}},
		{"port", signer(t, 4).PublicKey(), nil, Host{Names: []string{"[port.example.org]:2222"}}},
		{"hashed, nothing to guess with", signer(t, 5).PublicKey(), nil, Host{Hashed: true}},
		{"hashed, guessed", signer(t, 5).PublicKey(), guesses, Host{Names: []string{"secret.example.org"}, Hashed: true}},
		{"hashed with a port", signer(t, 6).PublicKey(), guesses, Host{Names: []string{"[secret.example.org]:2200"}, Hashed: true}},
		{"many", signer(t, 7).PublicKey(), nil, Host{Names: []string{"one", "two", "three"}}},
		{"many, one of them guessed", signer(t, 7).PublicKey(), guesses, Host{Names: []string{"two", "one", "three"}}},
		{"revoked", signer(t, 8).PublicKey(), guesses, Host{Revoked: true}},
		{"unknown", signer(t, 9).PublicKey(), guesses, Host{}},
		{"authority", cert(t, ssh.HostCert, 20, ever, "a.example.org", "b.elsewhere.org"), nil, Host{Names: []string{"a.example.org"}}},
		{"authority, but not for this", cert(t, ssh.HostCert, 20, ever, "bad.example.org"), nil, Host{}},
		{"authority, expired", cert(t, ssh.HostCert, 20, 1, "a.example.org"), nil, Host{}},
		{"authority, a user's", cert(t, ssh.UserCert, 20, ever, "a.example.org"), nil, Host{}},
		{"authority, for everybody", cert(t, ssh.HostCert, 20, ever), nil, Host{}},
		{"revoked authority", cert(t, ssh.HostCert, 21, ever, "gone.example.org"), nil, Host{Revoked: true}},
		{"unknown authority", cert(t, ssh.HostCert, 22, ever, "a.example.org"), nil, Host{}},
	} {
		got := New(path, filepath.Join(t.TempDir(), "none")).Lookup(c.key, c.guesses)
		slices.Sort(got.Names[min(1, len(got.Names)):])
		slices.Sort(c.want.Names[min(1, len(c.want.Names)):])
		if !slices.Equal(got.Names, c.want.Names) || got.Hashed != c.want.Hashed || got.Revoked != c.want.Revoked {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestFilesAreReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "known_hosts")
	f := New(path)
	if got := f.Lookup(signer(t, 1).PublicKey(), nil); got.Names != nil {
		t.Errorf("before there is a file: %+v", got)
	}
	write(t, path, line(t, "first.example.org", 1))
	if got := f.Lookup(signer(t, 1).PublicKey(), nil); !slices.Equal(got.Names, []string{"first.example.org"}) {
		t.Errorf("a new file: %+v", got)
	}
	write(t, path, line(t, "second.example.org", 1))
	if got := f.Lookup(signer(t, 1).PublicKey(), nil); !slices.Equal(got.Names, []string{"second.example.org"}) {
		t.Errorf("a changed file: %+v", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := f.Lookup(signer(t, 1).PublicKey(), nil); got.Names != nil { // does not hang, first of all
		t.Errorf("a pipe in its place: %+v", got)
	}
}

// TestHashedByOpenSSH reads what ssh-keygen -H writes.
func TestHashedByOpenSSH(t *testing.T) {
	bustest.Need(t, "ssh-keygen")
	path := filepath.Join(t.TempDir(), "known_hosts")
	write(t, path, line(t, "git.example.org,192.0.2.1", 1), line(t, "[other.example.org]:2022", 2))
	if out, err := exec.Command("ssh-keygen", "-H", "-f", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f := New(path)
	for n, argv := range map[byte]string{1: "ssh -v mia@git.example.org true", 2: "ssh -p2022 other.example.org"} {
		want := map[byte]string{1: "git.example.org", 2: "[other.example.org]:2022"}[n]
		got := f.Lookup(signer(t, n).PublicKey(), func() []string { return f.Guesses(strings.Fields(argv)) })
		if len(got.Names) == 0 || got.Names[0] != want || !got.Hashed {
			t.Errorf("%s: %+v, want %s", argv, got, want)
		}
		if got := f.Lookup(signer(t, n).PublicKey(), func() []string { return f.Guesses([]string{"ssh", "elsewhere"}) }); len(got.Names) > 0 {
			t.Errorf("a wrong guess: %+v", got)
		}
	}
}

func TestGuesses(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config")
	write(t, config, "Host work w*\n  HostName=server.example.org\n  HostKeyAlias \"the alias\"\nPort 2222\n")
	f := New()
	for argv, want := range map[string][]string{
		"":                             {},
		"ssh":                          {},
		"ssh host":                     {"host"},
		"ssh -4 -i key -l mia Host ls": {"host"},
		"ssh -vp2200 mia@host":         {"host", "[host]:2200"},
		"ssh -o HostName=a -oPort=7 b": {"a", "[a]:7", "b", "[b]:7"},
		"ssh -J mia@j1:22,j2 host":     {"j1", "[j1]:22", "j2", "[j2]:22", "host", "[host]:22"},
		"ssh ssh://mia@host:2200":      {"host", "[host]:2200"},
		"ssh 2001:db8::1":              {"2001:db8::1"},
		"ssh -p":                       {},
	} {
		if got := f.Guesses(strings.Fields(argv)); !slices.Equal(got, want) && len(got)+len(want) > 0 {
			t.Errorf("%q: %q, want %q", argv, got, want)
		}
	}
	f.Config = []string{config, filepath.Join(t.TempDir(), "none")}
	want := []string{"h", "[h]:2222", "work", "[work]:2222", "server.example.org", "[server.example.org]:2222",
		"the", "[the]:2222", "alias", "[alias]:2222"}
	if got := f.Guesses([]string{"ssh", "h"}); !slices.Equal(got, want) {
		t.Errorf("with a configuration: %q, want %q", got, want)
	}
}

// TestGuessesOnce wants what is costly done once for a host with many lines, such
// as one with an address for each day.
func TestGuessesOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "known_hosts")
	var lines []string
	for i := range 100 {
		lines = append(lines, line(t, sshknownhosts.HashHostname(fmt.Sprint("host", i)), 1))
	}
	write(t, path, lines...)
	asked := 0
	h := New(path).Lookup(signer(t, 1).PublicKey(), func() []string { asked++; return []string{"host99"} })
	if asked != 1 || !slices.Equal(h.Names, []string{"host99"}) {
		t.Errorf("asked %d times, %+v", asked, h)
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		s, pattern string
		want       bool
	}{
		{"", "", true}, {"", "*", true}, {"", "?", false}, {"a", "", false}, {"abc", "a*c", true}, {"ac", "a*c", true},
		{"abcd", "a*c", false}, {"abcbc", "a*bc", true}, {"abc", "a?c", true}, {"abc", "???", true}, {"abc", "??", false},
		{"abc", "*b*", true}, {"a/b", "*", true}, {"a*c", "a*c", true}, {"[h]:22", "[h]:22", true}, {"abc", "**", true},
	} {
		if got := Match(c.s, c.pattern); got != c.want {
			t.Errorf("%q with %q: %v", c.s, c.pattern, got)
		}
	}
	// A pattern that is bad for simple matchers ends soon.
	if Match(strings.Repeat("a", 10_000), strings.Repeat("*a", 500)+"b") {
		t.Error("matches")
	}
}

// FuzzHosts wants no line to be too much.
func FuzzHosts(f *testing.F) {
	f.Add([]byte(line(f, "a,|1|AAAA|BBBB,*", 1)))
	f.Add([]byte("@revoked * ssh-ed25519 AAAA\n@cert-authority\n@\n|1| x " + base64.StdEncoding.EncodeToString([]byte("x"))))
	f.Fuzz(func(t *testing.T, data []byte) {
		x := &index{keys: map[string][]entry{}, cas: map[string][]entry{}, bad: map[string]bool{}}
		x.add(data)
		for blob, entries := range x.keys {
			if blob == "" || len(entries) == 0 {
				t.Fatal("an entry without a key")
			}
			for _, e := range entries {
				e.covers("name")
				e.guess([]string{"name", fmt.Sprint(len(data))})
			}
		}
	})
}
