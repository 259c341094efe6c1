package dbus

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"

	godbus "github.com/godbus/dbus/v5"
)

func TestSubjects(t *testing.T) {
	for text, want := range map[string]string{
		"":                             "",
		"CN=mail.example.org":          "CN=mail.example.org",
		"cn = mail , O=Example":        "CN=mail,O=Example",
		`CN=a\,b\+c\ ,O=\C3\BC\20`:     `CN=a\,b\+c\ ,O=ü\ `,
		"CN=a+OU=b,C=DE":               "CN=a+OU=b,C=DE",
		"2.5.4.3=by its number":        "CN=by its number",
		`CN=\#1 \"x\" \<y\>\; a\\b\=c`: `CN=\#1 \"x\" \<y\>\; a\\b=c`,
	} {
		raw, err := parseSubject(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		var name pkix.RDNSequence
		if rest, err := asn1.Unmarshal(raw, &name); err != nil || len(rest) > 0 {
			t.Errorf("%q: %v", text, err)
		}
		if got := name.String(); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
	for _, text := range []string{
		"mail", "CN", "CN=", "CN= ", "=x", "CN=a,", ",CN=a", "XX=a", "1=a", "1.2.x=a", "9.1.2=a", `CN=a\`, `CN=\zz`, `CN=\f`,
		"CN=#0403", `CN="a"`, "CN=a;O=b", "CN=a<b", `CN=\FF`, "DC=bücher", "CN=a\x00",
	} {
		if raw, err := parseSubject(text); err == nil {
			t.Errorf("%q is taken: %x", text, raw)
		}
	}
	// RFC 4519 §2.4 wants IA5String.
	raw, err := parseSubject("DC=example")
	if err != nil || !strings.Contains(string(raw), "\x16\x07example") {
		t.Errorf("DC: %x, %v", raw, err)
	}
}

func TestCertificateRequestOptions(t *testing.T) {
	o := readOptions(options("alternative-names", []string{"a.example.org", "192.0.2.1", "2001:db8::1", "mia@example.org", "https://example.org/x"}))
	r := o.certificateRequest()
	if err := o.end(); err != nil || len(r.DNSNames) != 1 || len(r.IPAddresses) != 2 || len(r.EmailAddresses) != 1 || len(r.URIs) != 1 {
		t.Errorf("%+v: %v", r, err)
	}
	if r := readOptions(nil).certificateRequest(); r != nil {
		t.Errorf("a request that nobody asked for: %+v", r)
	}
}

func FuzzSubject(f *testing.F) {
	f.Add(`CN=a\,b+OU=c,DC=example,2.5.4.3=x`)
	f.Add(`CN=\C3\BC`)
	f.Fuzz(func(t *testing.T, text string) {
		raw, err := parseSubject(text)
		if err != nil {
			return
		}
		var name pkix.RDNSequence
		if rest, err := asn1.Unmarshal(raw, &name); err != nil || len(rest) > 0 {
			t.Fatalf("%q: %x: %v", text, raw, err)
		}
		o := readOptions(map[string]godbus.Variant{"subject": godbus.MakeVariant(text)})
		if r := o.certificateRequest(); (r == nil) != (text == "") || o.end() != nil {
			t.Fatalf("%q: as an option it is %+v", text, r)
		}
	})
}
