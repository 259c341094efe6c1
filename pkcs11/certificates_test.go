package pkcs11

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/internal/folder"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

// Certificates come and go with their files.
func TestCertificatesFollowTheirFiles(t *testing.T) {
	k := testKeys()
	short, long := certificateOf(t, k["p256"], "short", 1), certificateOf(t, k["p256"], "long", 30)
	stranger := certificateOf(t, edKey(9), "stranger", 3)
	certs := NewCertificates()
	s := start(t, softKeys("p256", "rsa"), Options{Certificates: certs})
	c, session := s.open(t, fileSlot)
	names := func() string {
		var list []string
		for _, handle := range c.find(session, class(p11rpc.ClassCertificate)) {
			a, _ := c.attributes(session, handle, p11rpc.AttrValue, p11rpc.AttrID)
			id := must(keyring.NewKeyID(k["p256"].signer.Public()))
			if !bytes.Equal(a[1].Value, id[:]) {
				t.Errorf("ID %x", a[1].Value)
			}
			for _, cert := range []struct {
				name string
				raw  []byte
			}{{"short", short.Raw}, {"long", long.Raw}} {
				if bytes.Equal(cert.raw, a[0].Value) {
					list = append(list, cert.name)
				}
			}
		}
		return strings.Join(list, " ")
	}
	files := func(all map[string][]byte) (list []folder.File) {
		t.Helper()
		for path, data := range all {
			data = bytes.Clone(data)
			f := folder.File{Path: path}
			if err := certs.Load(f, data); err != nil {
				t.Fatal(err)
			}
			clear(data) // it was only borrowed
			list = append(list, f)
		}
		return list
	}
	certs.Scanned(files(map[string][]byte{
		"/keys/key.crt":  slices.Concat(pemOf(stranger), pemOf(short)), // a chain
		"/keys/more.der": long.Raw,
		"/keys/copy.pem": pemOf(long),
	}), nil)
	if got := names(); got != "long short" {
		t.Errorf("certificates: %s", got)
	}
	before := certs.generation()
	certs.Scanned([]folder.File{{Path: "/keys/key.crt"}, {Path: "/keys/copy.pem"}}, nil)
	if certs.generation() != before {
		t.Error("the same certificates are told as a change")
	}
	certs.Scanned([]folder.File{{Path: "/keys/key.crt"}}, nil)
	if got := names(); got != "short" {
		t.Errorf("after a file went: %s", got)
	}
	// Who is asked for the subject of a key says that of its certificate.
	a, _ := c.attributes(session, c.one(session, p11rpc.ClassPrivateKey, k["p256"]), p11rpc.AttrSubject)
	if !bytes.Equal(a[0].Value, short.RawSubject) {
		t.Errorf("subject %x", a[0].Value)
	}
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"a text":       {[]byte("hello"), folder.ErrNotMine},
		"empty":        {nil, folder.ErrNotMine},
		"broken":       {[]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"), nil},
		"DER and more": {append(bytes.Clone(long.Raw), 0), folder.ErrNotMine},
	} {
		err := certs.Load(folder.File{Path: "/keys/x"}, c.data)
		if err == nil || (c.want == folder.ErrNotMine) != (err == folder.ErrNotMine) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
