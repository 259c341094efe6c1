// Package knownhosts finds the names of a host by its key, in known_hosts files
// as sshd(8) describes them: plain, with patterns, hashed, with certificate
// authorities and revoked keys.
//
// [Files] are the files, read again when they change; [Files.Lookup] answers
// with a [Host]. It is the opposite of what ssh looks up, and decides nothing:
// the answer is for a person to see.
package knownhosts

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

const (
	// maxFile is the largest file that is read: some 50,000 hosts.
	maxFile = 16 << 20
	// maxNames is how many names of one host are told.
	maxNames = 3
	// maxGuesses is how many names are tried for a hashed one.
	maxGuesses = 4096
)

// A Host is what is known of a host key.
type Host struct {
	// Names are the host's, most telling first: those that were guessed, then
	// names, then patterns and addresses. Not sanitised.
	Names []string
	// Hashed is true where the key is known under names that only their hashes
	// are known of.
	Hashed bool
	// Revoked is true where the key, or who vouches for it, is marked as not to
	// be trusted any more. There are no names then.
	Revoked bool
}

// Files are known_hosts files. All methods may be called concurrently.
type Files struct {
	// Config are the ssh_config(5) files that name hosts; see [Files.Guesses].
	// They are set before the first use.
	Config []string

	paths []string

	mu     sync.Mutex
	loaded []state
	now    *index
}

// state says whether a file is another now.
type state struct {
	dev, ino    uint64
	size, mtime int64
	ctime       int64
}

// New returns the files at these paths, which need not exist.
func New(paths ...string) *Files { return &Files{paths: paths, now: &index{}} }

// User returns the files that ssh reads for the user with this home directory
// where ssh_config(5) says nothing else.
func User(home string) *Files {
	f := New(filepath.Join(home, ".ssh/known_hosts"), filepath.Join(home, ".ssh/known_hosts2"),
		"/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
	f.Config = []string{filepath.Join(home, ".ssh/config"), "/etc/ssh/ssh_config"}
	return f
}

// An index is what all files say. It never changes.
type index struct {
	keys map[string][]entry // by the key's wire form
	cas  map[string][]entry
	bad  map[string]bool // revoked
}

// An entry is the hosts of one line.
type entry struct {
	names  []string
	hashed []hashed
}

type hashed struct{ salt, sum []byte }

// Lookup finds a host by its key, or by its certificate. guesses is asked for
// names that may be behind hashes, where there are any; it may be nil.
func (f *Files) Lookup(key ssh.PublicKey, guesses func() []string) Host {
	now := f.current()
	if cert, ok := key.(*ssh.Certificate); ok {
		if now.bad[string(cert.SignatureKey.Marshal())] || now.bad[string(cert.Key.Marshal())] {
			return Host{Revoked: true}
		}
		if h := now.vouched(cert); len(h.Names) > 0 {
			return h
		}
		key = cert.Key
	}
	blob := key.Marshal()
	if now.bad[string(blob)] {
		return Host{Revoked: true}
	}
	if guesses != nil {
		guesses = sync.OnceValue(guesses) // they are read from files
	}
	var h Host
	var guessed, plain, rest []string
	for _, e := range now.keys[string(blob)] {
		for _, name := range e.names {
			if isName(name) {
				plain = append(plain, name)
			} else {
				rest = append(rest, name)
			}
		}
		if len(e.hashed) > 0 {
			h.Hashed = true
			if guesses != nil {
				guessed = append(guessed, e.guess(guesses())...)
			}
		}
	}
	if guesses != nil && len(plain) > 1 {
		// Of many names the one that was typed says most.
		typed := guesses()
		for _, name := range plain {
			if slices.Contains(typed, name) {
				guessed = append(guessed, name)
			}
		}
	}
	for _, name := range slices.Concat(guessed, plain, rest) {
		if len(h.Names) < maxNames && !slices.Contains(h.Names, name) {
			h.Names = append(h.Names, name)
		}
	}
	return h
}

// guess returns the names that the hashes are of.
func (e *entry) guess(names []string) (found []string) {
	if len(names) > maxGuesses {
		names = names[:maxGuesses]
	}
	for _, h := range e.hashed {
		for _, name := range names {
			mac := hmac.New(sha1.New, h.salt)
			mac.Write([]byte(name))
			if hmac.Equal(mac.Sum(nil), h.sum) {
				found = append(found, name)
				break
			}
		}
	}
	return found
}

// vouched returns the names that a certificate is for, as far as its authority
// may vouch for them.
func (x *index) vouched(cert *ssh.Certificate) (h Host) {
	for _, e := range x.cas[string(cert.SignatureKey.Marshal())] {
		for _, name := range cert.ValidPrincipals {
			if len(h.Names) < maxNames && !slices.Contains(h.Names, name) && e.covers(name) && valid(cert, name) {
				h.Names = append(h.Names, name)
			}
		}
	}
	return h
}

func valid(cert *ssh.Certificate, name string) bool {
	checker := ssh.CertChecker{Clock: time.Now}
	return cert.CertType == ssh.HostCert && cert.Signature.Format != ssh.KeyAlgoRSA && checker.CheckCert(name, cert) == nil
}

// covers matches a name with the patterns of a line.
func (e *entry) covers(name string) bool {
	found := false
	for _, pattern := range e.names {
		pattern, not := strings.CutPrefix(pattern, "!")
		if Match(name, pattern) {
			if not {
				return false
			}
			found = true
		}
	}
	return found
}

// Match matches as ssh_config(5) says, "PATTERNS": * is any text, ? is any one
// byte.
func Match(s, pattern string) bool {
	star, mark := -1, 0
	i, j := 0, 0
	for i < len(s) {
		switch {
		case j < len(pattern) && pattern[j] == '*':
			star, mark = j, i
			j++
		case j < len(pattern) && (pattern[j] == '?' || pattern[j] == s[i]):
			i, j = i+1, j+1
		case star >= 0:
			// Let the last star take one byte more.
			mark++
			i, j = mark, star+1
		default:
			return false
		}
	}
	return strings.Trim(pattern[j:], "*") == ""
}

// isName reports whether a host pattern is a name, and no address or pattern.
func isName(name string) bool {
	if strings.ContainsAny(name, "*?!") {
		return false
	}
	host := name
	if h, _, err := net.SplitHostPort(name); err == nil {
		host = h
	}
	return net.ParseIP(strings.Trim(host, "[]")) == nil
}

// current returns the index, made anew where a file changed.
func (f *Files) current() *index {
	now := make([]state, len(f.paths))
	for i, path := range f.paths {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil {
			now[i] = state{uint64(st.Dev), st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.Equal(now, f.loaded) {
		return f.now
	}
	x := &index{keys: map[string][]entry{}, cas: map[string][]entry{}, bad: map[string]bool{}}
	for _, path := range f.paths {
		if data, err := read(path); err == nil {
			x.add(data)
		}
	}
	f.now, f.loaded = x, now
	return x
}

// read reads a file that may be anything.
func read(path string) ([]byte, error) {
	// A pipe must not make us wait.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a file")
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// add takes up the lines of a file. Those that make no sense are left out, as
// ssh does.
func (x *index) add(data []byte) {
	for line := range bytes.Lines(data) {
		fields := bytes.Fields(line)
		if len(fields) == 0 || fields[0][0] == '#' {
			continue
		}
		marker := ""
		if fields[0][0] == '@' {
			marker, fields = string(fields[0]), fields[1:]
		}
		if len(fields) < 3 {
			continue
		}
		blob, err := base64.StdEncoding.DecodeString(string(fields[2]))
		if err != nil || len(blob) == 0 {
			continue
		}
		switch marker {
		case "":
			x.keys[string(blob)] = append(x.keys[string(blob)], hosts(fields[0]))
		case "@cert-authority":
			x.cas[string(blob)] = append(x.cas[string(blob)], hosts(fields[0]))
		case "@revoked":
			x.bad[string(blob)] = true
		}
	}
}

// hosts takes the first field of a line apart.
func hosts(field []byte) (e entry) {
	for name := range strings.SplitSeq(string(field), ",") {
		rest, ok := strings.CutPrefix(name, "|1|")
		if !ok {
			if name != "" {
				e.names = append(e.names, name)
			}
			continue
		}
		salt, sum, _ := strings.Cut(rest, "|")
		h := hashed{}
		var err1, err2 error
		h.salt, err1 = base64.StdEncoding.DecodeString(salt)
		h.sum, err2 = base64.StdEncoding.DecodeString(sum)
		if err1 == nil && err2 == nil && len(h.sum) == sha1.Size {
			e.hashed = append(e.hashed, h)
		}
	}
	return e
}
