package sshkeys

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/internal/folder/pubfile"
	"github.com/keyringd/keyringd/keyring"
)

func edPEM(t testing.TB, comment string) []byte {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	block, err := ssh.MarshalPrivateKey(k, comment)
	must(t, err)
	return pem.EncodeToMemory(block)
}

func pkcs8PEM(t testing.TB, k any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(k)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func wireString(parts ...string) (b []byte) {
	for _, p := range parts {
		b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	return b
}

// opensshPEM makes a file of OpenSSH's format with these parts.
func opensshPEM(cipher, kdf string, options []byte, count uint32, public, private []byte) []byte {
	b := append([]byte(opensshMagic), wireString(cipher, kdf, string(options))...)
	b = binary.BigEndian.AppendUint32(b, count)
	b = append(b, wireString(string(public), string(private))...)
	return pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: b})
}

type hostileFile struct {
	data []byte
	why  string
}

// hostileFiles are contents that must be left out, and a word of the reason;
// "" is for those that are no private keys at all.
func hostileFiles(t testing.TB) map[string]hostileFile {
	good := edPEM(t, "")
	edWire := wireString("ssh-ed25519", strings.Repeat("p", 32))
	bcrypt := func(rounds uint32) []byte { return binary.BigEndian.AppendUint32(wireString("salt"), rounds) }
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	must(t, err)
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	must(t, err)
	weak := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 767, 1), E: 65537}
	weakSSH := wireString("ssh-rsa", "\x01\x00\x01", "\x00"+string(weak.N.Bytes()))
	return map[string]hostileFile{
		"empty":        {nil, ""},
		"junk":         {bytes.Repeat([]byte{0, 0xff, '\n', 'x'}, 1000), ""},
		"known_hosts":  {[]byte("example.org ssh-ed25519 AAAA\n"), ""},
		"huge-line":    {bytes.Repeat([]byte("A"), 60<<10), ""},
		"many-begins":  {bytes.Repeat([]byte("-----BEGIN "), 5000), ""},
		"certificate":  {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: make([]byte, 100)}), ""},
		"tpm":          {pem.EncodeToMemory(&pem.Block{Type: "TSS2 PRIVATE KEY", Bytes: make([]byte, 100)}), ""},
		"tpm-cut":      {[]byte("-----BEGIN TSS2 PRIVATE KEY-----\nAAAA\n"), ""},
		"truncated":    {good[:len(good)-40], "incomplete"},
		"half-written": {good[:80], "incomplete"},
		"begin-only":   {[]byte("-----BEGIN RSA PRIVATE KEY-----"), "incomplete"},
		"huge-body":    {append([]byte("-----BEGIN PRIVATE KEY-----\n"), bytes.Repeat([]byte("A"), 60<<10)...), "incomplete"},
		"bad-der":      {pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff}}), "damaged"},
		"bad-rsa":      {pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: []byte{0x30, 0}}), "damaged"},
		"bad-openssh":  {pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: []byte(opensshMagic + "\xff\xff\xff\xff")}), "damaged"},
		"bad-pbes2":    {pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte{0x30, 0}}), "damaged"},
		"unknown-dek":  {pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "ROT13,00"}, Bytes: []byte{1}}), "ROT13"},
		"dsa":          {pem.EncodeToMemory(&pem.Block{Type: "DSA PRIVATE KEY", Bytes: []byte{0x30, 0}}), "DSA"},
		"dsa-openssh":  {opensshPEM("none", "none", nil, 1, wireString("ssh-dss"), nil), "DSA"},
		"sk":           {opensshPEM("none", "none", nil, 1, wireString("sk-ssh-ed25519@openssh.com"), nil), "security key"},
		"two-keys":     {opensshPEM("none", "none", nil, 2, edWire, nil), "2 keys"},
		"no-section":   {opensshPEM("none", "none", nil, 1, edWire, nil), "damaged"},
		"weak":         {opensshPEM("none", "none", nil, 1, weakSSH, append(make([]byte, 8), wireString("ssh-rsa", "", "", "", "", "", "", "")...)), "768 bits"},
		"rounds":       {opensshPEM("aes256-ctr", "bcrypt", bcrypt(1<<31), 1, edWire, make([]byte, 64)), "rounds"},
		"cipher":       {opensshPEM("chacha20-poly1305@openssh.com", "bcrypt", bcrypt(16), 1, edWire, make([]byte, 64)), "ssh-keygen -p"},
		"kdf":          {opensshPEM("aes256-ctr", "argon2", nil, 1, edWire, make([]byte, 64)), "argon2"},
		"curve":        {pkcs8PEM(t, p224), "P-224"},
		"x25519":       {pkcs8PEM(t, x25519), "cannot sign"},
		"unknown":      {pem.EncodeToMemory(&pem.Block{Type: "\x1b[31mNEW PRIVATE KEY", Bytes: []byte{1}}), "unknown kind"},
		"pbes1":        {pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: pbes1()}), "old method"},
		"putty.ppk":    {[]byte("PuTTY-User-Key-File-3: ssh-ed25519\n"), "puttygen"},
	}
}

// pbes1 is an EncryptedPrivateKeyInfo with pbeWithMD5AndDES-CBC.
func pbes1() []byte {
	alg := append([]byte{0x06, 9}, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 3)
	body := append([]byte{0x30, byte(len(alg))}, alg...)
	body = append(body, 0x04, 8, 1, 2, 3, 4, 5, 6, 7, 8)
	return append([]byte{0x30, byte(len(body))}, body...)
}

func TestHostileFolder(t *testing.T) {
	d := dir(t)
	at := func(name string) string { return filepath.Join(d, name) }
	files := hostileFiles(t)
	for name, f := range files {
		write(t, at(name), f.data)
	}
	must(t, unix.Mkfifo(at("fifo"), 0o600))
	must(t, os.Symlink("/dev/zero", at("zero")))
	must(t, os.Symlink("loop", at("loop")))
	write(t, at("sparse"), nil)
	must(t, os.Truncate(at("sparse"), 1<<30))
	must(t, os.Mkdir(at("id_rsa"), 0o700))
	write(t, at("readable"), edPEM(t, ""))
	must(t, os.Chmod(at("readable"), 0o644))
	write(t, at("writable"), edPEM(t, ""))
	must(t, os.Chmod(at("writable"), 0o620))
	var hostile = map[string]string{
		"fifo": "named pipe", "zero": "device", "loop": "loop", "sparse": "too large",
		"readable": "mode 0644 lets others read it; chmod 600", "writable": "mode 0620 lets others write it",
	}
	if os.Geteuid() == 0 {
		write(t, at("foreign"), edPEM(t, ""))
		must(t, os.Chown(at("foreign"), 12345, 12345))
		hostile["foreign"] = "another user"
	}
	for name, f := range files {
		hostile[name] = f.why
	}
	good := []string{at("id_ed25519"), at("no\xffutf8"), at("sub/dir.pub/key"), at("x.pub")}
	must(t, os.MkdirAll(at("sub/dir.pub"), 0o700))
	for _, path := range good {
		write(t, path, edPEM(t, "c"))
	}
	// Junk around a key does not hide it.
	write(t, at("noted"), slices.Concat([]byte("my key:\n"), pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 0}}), edPEM(t, ""), []byte("\njunk")))
	good = append(good, at("noted"))
	slices.Sort(good)

	start := time.Now()
	s := serve(t, d)
	if took := time.Since(start); took > time.Minute {
		t.Errorf("took %v", took)
	}
	if got := s.paths(); !slices.Equal(got, good) {
		t.Errorf("served %q\nwant   %q", got, good)
	}
	for _, path := range good {
		if err := sign(t.Context(), s.key(t, path), bytesOf(t, "")); err != nil {
			t.Error(err)
		}
	}
	for name, why := range hostile {
		for _, skip := range s.folders.Skipped() {
			if skip.Path == at(name) && (why == "") != skip.Ordinary {
				t.Errorf("%s: %+v", name, skip)
			}
		}
		if got := s.reason(at(name)); !strings.Contains(got, why) || got == "" {
			t.Errorf("%s: skipped because %q, want %q", name, got, why)
		}
		if strings.Contains(s.reason(at(name)), "\x1b") {
			t.Errorf("%s: the reason has control characters", name)
		}
	}
	t.Logf("%d hostile entries skipped by name, %d keys served", len(hostile), len(good))
}

func TestFilesComeAndGo(t *testing.T) {
	d := dir(t)
	a, b := filepath.Join(d, "a"), filepath.Join(d, "b")
	s := serve(t, d)
	write(t, a, edPEM(t, ""))
	eventually(t, "added", func() bool { return slices.Equal(s.paths(), []string{a}) })
	first := s.List()[0].ID
	// Half a file is no key; the rest of it makes one.
	whole := edPEM(t, "")
	write(t, b, whole[:len(whole)/2])
	eventually(t, "half", func() bool { return strings.Contains(s.reason(b), "incomplete") })
	write(t, b, whole)
	eventually(t, "whole", func() bool { return slices.Equal(s.paths(), []string{a, b}) && s.reason(b) == "" })
	must(t, os.Rename(b, a))
	eventually(t, "replaced", func() bool {
		return slices.Equal(s.paths(), []string{a}) && s.List()[0].ID != first
	})
	must(t, os.Chmod(a, 0o640))
	eventually(t, "opened to others", func() bool { return len(s.paths()) == 0 })
	must(t, os.Chmod(a, 0o600))
	eventually(t, "closed again", func() bool { return len(s.paths()) == 1 })
	must(t, os.Remove(a))
	eventually(t, "removed", func() bool { return len(s.paths()) == 0 })
}

// Files that are renamed, cut short, appended to and replaced under its eyes
// end in a set that equals the disk.
func TestRaces(t *testing.T) {
	d := dir(t)
	s := serve(t, d)
	var contents [][]byte
	for range 20 {
		contents = append(contents, edPEM(t, "c"))
	}
	rnd := mathrand.New(mathrand.NewPCG(3, 4))
	name := func() string { return filepath.Join(d, fmt.Sprintf("k%02d", rnd.IntN(20))) }
	for range 1000 {
		p := name()
		switch rnd.IntN(6) {
		case 0:
			_ = os.Rename(p, name())
		case 1:
			_ = os.Truncate(p, int64(rnd.IntN(500)))
		case 2:
			if f, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0o600); err == nil {
				_, _ = f.WriteString("\n# noted\n")
				_ = f.Close()
			}
		case 3:
			_ = os.Remove(p)
		default:
			write(t, p, contents[rnd.IntN(len(contents))])
		}
	}
	list, err := os.ReadDir(d)
	must(t, err)
	want := map[string]keyring.KeyID{}
	for _, e := range list {
		path := filepath.Join(d, e.Name())
		if sk, err := inspect(read(t, path)); err == nil {
			want[path], err = keyring.NewKeyID(sk.public)
			must(t, err)
		}
	}
	eventually(t, "the set equals the disk", func() bool {
		got := map[string]keyring.KeyID{}
		for _, info := range s.List() {
			for _, path := range info.Paths {
				got[path] = info.ID
			}
		}
		return maps.Equal(got, want)
	})
	t.Logf("%d files, %d keys at the end", len(list), len(want))
}

func TestSameKeyInTwoFiles(t *testing.T) {
	d := dir(t)
	a, b := filepath.Join(d, "a"), filepath.Join(d, "b")
	data := edPEM(t, "")
	write(t, a, data)
	write(t, b, data)
	s := serve(t, d)
	if list := s.List(); len(list) != 1 || !slices.Equal(list[0].Paths, []string{a, b}) {
		t.Fatalf("listed %+v", list)
	}
	must(t, os.Remove(a))
	s.rescan(t)
	if list := s.List(); len(list) != 1 || !slices.Equal(list[0].Paths, []string{b}) {
		t.Errorf("listed %+v", list)
	}
}

func TestLabels(t *testing.T) {
	d := dir(t)
	path := filepath.Join(d, "id\x1b[2J")
	data := edPEM(t, "")
	write(t, path, data)
	s := serve(t, d)
	k := s.key(t, path)
	pub, err := ssh.NewPublicKey(k.Info().Public)
	must(t, err)
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub)))
	if got := s.List()[0].Label; got != "id\ufffd[2J" {
		t.Errorf("label %q", got)
	}
	for comment, want := range map[string]string{
		"mia@laptop":                  "mia@laptop",
		"evil\u202egnp\x07":           "evil\ufffdgnp\ufffd",
		strings.Repeat("long ", 1000): "long long",
		"":                            "id\ufffd[2J",
	} {
		write(t, path+".pub", []byte(line+" "+comment+"\n"))
		must(t, os.Chmod(path+".pub", 0o644))
		s.rescan(t)
		if got := s.List()[0].Label; !strings.HasPrefix(got, want) || len([]rune(got)) > pubfile.MaxLabel {
			t.Errorf("label %q, want %q", got, want)
		}
		if s.key(t, path) != k {
			t.Error("another comment made another key")
		}
	}
	other, err := inspect(edPEM(t, ""))
	must(t, err)
	pub, err = ssh.NewPublicKey(other.public)
	must(t, err)
	write(t, path+".pub", append(bytes.TrimSpace(ssh.MarshalAuthorizedKey(pub)), " not mine"...))
	s.rescan(t)
	if got := s.List()[0].Label; strings.Contains(got, "not mine") {
		t.Errorf("label %q is another key's", got)
	}
	write(t, path, edPEM(t, "in the file"))
	s.rescan(t)
	if got := s.List()[0].Label; got != "in the file" {
		t.Errorf("label %q", got)
	}
}

func TestPublicKeyFileComesLater(t *testing.T) {
	d := dir(t)
	path := filepath.Join(d, "k")
	keygen(t, path, passphrase, "-t", "ecdsa", "-m", "PKCS8")
	pub := read(t, path+".pub")
	must(t, os.Remove(path+".pub"))
	s := serve(t, d)
	if len(s.paths()) != 0 {
		t.Fatal("listed without a public half")
	}
	write(t, path+".pub", pub)
	s.rescan(t)
	if !slices.Equal(s.paths(), []string{path}) || s.reason(path) != "" || s.List()[0].Label != "mia@laptop" {
		t.Errorf("listed %v, skipped because %q", s.List(), s.reason(path))
	}
	k := s.key(t, path)
	must(t, os.Remove(path+".pub"))
	s.rescan(t)
	s.rescan(t)
	if len(s.paths()) != 0 || s.reason(path) == "" {
		t.Errorf("listed %v, skipped because %q", s.List(), s.reason(path))
	}
	write(t, path+".pub", []byte("ssh-dss AAAAB3NzaC1kc3M= x\n"))
	s.rescan(t)
	if got := s.reason(path); !strings.Contains(got, "DSA") {
		t.Errorf("skipped because %q", got)
	}
	if keeps(k) {
		t.Error("the key is still decrypted")
	}
}

func TestUnchangedFileKeepsItsKey(t *testing.T) {
	s, path, k := edKey(t, passphrase)
	must(t, sign(t.Context(), k, bytesOf(t, passphrase)))
	gen := s.Generation()
	must(t, os.Chtimes(path, time.Time{}, time.Now().Add(-time.Hour)))
	write(t, filepath.Join(filepath.Dir(path), "config"), []byte("Host *"))
	s.rescan(t)
	if s.key(t, path) != k || s.Generation() != gen {
		t.Error("it became another key")
	}
	must(t, os.Remove(path))
	s.rescan(t)
	if keeps(k) {
		t.Error("a removed key is still decrypted")
	}
}

// FuzzInspect: whatever is in a file, looking at it neither panics nor takes
// long, and what it says is what opening the file gives.
func FuzzInspect(f *testing.F) {
	for _, h := range hostileFiles(f) {
		f.Add(h.data)
	}
	f.Add(edPEM(f, "c"))
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f.Add(pkcs8PEM(f, p256))
	r, _ := rsa.GenerateKey(rand.Reader, 1024)
	f.Add(pkcs8PEM(f, r))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(r)}))
	block, _ := ssh.MarshalPrivateKey(r, "c")
	f.Add(pem.EncodeToMemory(block))
	sec1, _ := x509.MarshalECPrivateKey(p256)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := inspect(data)
		if err != nil {
			if s.public != nil || err.Error() == "" {
				t.Errorf("both a key and the error %v", err)
			}
			return
		}
		if s.encrypted {
			return // opening it may cost seconds by design
		}
		if s.public == nil {
			t.Fatal("not encrypted, and no public key")
		}
		k, err := open(data, nil)
		if err != nil {
			return
		}
		if want := fmt.Sprintf("%T", s.public); fmt.Sprintf("%T", k.Public()) != want {
			t.Errorf("opened as %T, looked like %s", k.Public(), want)
		}
		if s.form != formOpenSSH && !samePublic(s.public, k.Public()) {
			t.Error("opened as another key")
		}
	})
}

func BenchmarkFirstScan1000(b *testing.B) {
	d := dir(b)
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	r, _ := rsa.GenerateKey(rand.Reader, 2048)
	rsaBlock, _ := ssh.MarshalPrivateKey(r, "c")
	for i := range 1000 {
		path := filepath.Join(d, fmt.Sprintf("k%04d", i))
		switch i % 4 {
		case 0:
			write(b, path, pkcs8PEM(b, p256))
		case 1:
			write(b, path, pkcs8PEM(b, r))
		case 2:
			write(b, path, pem.EncodeToMemory(rsaBlock))
		default:
			write(b, path, edPEM(b, "c"))
		}
	}
	for b.Loop() {
		if s := serve(b, d); len(s.paths()) != 1000 {
			b.Fatalf("%d keys", len(s.paths()))
		}
	}
}
