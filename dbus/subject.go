package dbus

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// attributes are the types of a distinguished name that have a short name: RFC
// 4514 §3, and what else certificate authorities ask for.
var attributes = map[string]asn1.ObjectIdentifier{
	"CN": {2, 5, 4, 3}, "SN": {2, 5, 4, 4}, "SERIALNUMBER": {2, 5, 4, 5}, "C": {2, 5, 4, 6}, "L": {2, 5, 4, 7},
	"ST": {2, 5, 4, 8}, "STREET": {2, 5, 4, 9}, "O": {2, 5, 4, 10}, "OU": {2, 5, 4, 11}, "TITLE": {2, 5, 4, 12},
	"GIVENNAME": {2, 5, 4, 42}, "UID": {0, 9, 2342, 19200300, 100, 1, 1}, "DC": {0, 9, 2342, 19200300, 100, 1, 25},
	"EMAILADDRESS": {1, 2, 840, 113549, 1, 9, 1},
}

// ascii are the types whose values are IA5String: RFC 4519 §2.4, RFC 2985
// §5.2.1.
var ascii = []string{"DC", "EMAILADDRESS"}

// certificateRequest reads the options that ask for one; nil: they do not.
func (o *optionReader) certificateRequest() *x509.CertificateRequest {
	subject, names := option[string](o, "subject"), option[[]string](o, "alternative-names")
	if subject == "" && len(names) == 0 {
		return nil
	}
	raw, err := parseSubject(subject)
	if err != nil {
		o.wrong("option subject: %v", err)
	}
	r := &x509.CertificateRequest{RawSubject: raw}
	for _, name := range names {
		switch ip := net.ParseIP(name); {
		case ip != nil:
			r.IPAddresses = append(r.IPAddresses, ip)
		case strings.Contains(name, "://"):
			u, err := url.Parse(name)
			if err != nil {
				o.wrong("option alternative-names: %.200q is no URI", name)
				continue
			}
			r.URIs = append(r.URIs, u)
		case name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }):
			o.wrong("option alternative-names: %.200q is no name", name)
		case strings.Contains(name, "@"):
			r.EmailAddresses = append(r.EmailAddresses, name)
		default:
			r.DNSNames = append(r.DNSNames, name)
		}
	}
	return r
}

// parseSubject encodes a distinguished name from its text form: RFC 4514, where
// the most significant part comes last.
func parseSubject(text string) ([]byte, error) {
	var name pkix.RDNSequence
	var rdn pkix.RelativeDistinguishedNameSET
	for rest, more := text, text != ""; more; {
		part, end, after, err := cutSubject(rest)
		if err != nil {
			return nil, err
		}
		one, err := parseAttribute(part)
		if err != nil {
			return nil, err
		}
		rdn = append(rdn, one)
		if end != '+' {
			name, rdn = append(name, rdn), nil
		}
		rest, more = after, end != 0
	}
	slices.Reverse(name)
	return asn1.Marshal(name)
}

// cutSubject splits what comes before the first , or + that is not escaped from
// what comes after it; end is 0 at the end of the text.
func cutSubject(s string) (part string, end byte, rest string, err error) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"', ';', '<', '>', 0:
			return "", 0, "", fmt.Errorf("%q must be escaped with a backslash", s[i])
		case ',', '+':
			return s[:i], s[i], s[i+1:], nil
		}
	}
	return s, 0, "", nil
}

func parseAttribute(part string) (pkix.AttributeTypeAndValue, error) {
	var a pkix.AttributeTypeAndValue
	kind, text, ok := strings.Cut(part, "=")
	if !ok {
		return a, fmt.Errorf("%.100q is not of the form CN=name", part)
	}
	kind = strings.ToUpper(strings.TrimSpace(kind))
	if a.Type = attributes[kind]; a.Type == nil {
		if a.Type, ok = parseOID(kind); !ok {
			return a, fmt.Errorf("%.100q is no attribute that is known; one can be given as 2.5.4.3", kind)
		}
	}
	value, err := unescape(text)
	if err != nil {
		return a, err
	}
	a.Value = value
	if slices.Contains(ascii, kind) {
		if strings.ContainsFunc(value, func(r rune) bool { return r > 127 }) {
			return a, fmt.Errorf("%s has a character that is not ASCII", kind)
		}
		a.Value = asn1.RawValue{Tag: asn1.TagIA5String, Bytes: []byte(value)}
	}
	return a, nil
}

func parseOID(s string) (asn1.ObjectIdentifier, bool) {
	var oid asn1.ObjectIdentifier
	for arc := range strings.SplitSeq(s, ".") {
		n, err := strconv.ParseUint(arc, 10, 31)
		if err != nil {
			return nil, false
		}
		oid = append(oid, int(n))
	}
	return oid, len(oid) > 2 && (oid[0] < 2 && oid[1] < 40 || oid[0] == 2)
}

// unescape reads an attribute's value: RFC 4514 §2.4. Spaces around it are
// meant only where they are escaped.
func unescape(s string) (string, error) {
	s = strings.TrimLeft(s, " ")
	if strings.HasPrefix(s, "#") {
		return "", fmt.Errorf("a value in hex is not supported: %.100q", s)
	}
	var b strings.Builder
	kept := 0 // how long it is without spaces at its end
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			if s[i] != ' ' {
				kept = b.Len()
			}
			continue
		}
		i++
		switch {
		case i == len(s):
			return "", fmt.Errorf("a backslash at the end of %.100q", s)
		case strings.IndexByte(` "#+,;<=>\`, s[i]) >= 0:
			b.WriteByte(s[i])
		default:
			c, err := hex.DecodeString(s[i:min(i+2, len(s))])
			if err != nil || len(c) != 1 {
				return "", fmt.Errorf("a backslash before %q in %.100q", s[i], s)
			}
			b.WriteByte(c[0])
			i++
		}
		kept = b.Len()
	}
	value := b.String()[:kept]
	if value == "" || strings.ToValidUTF8(value, "") != value {
		return "", fmt.Errorf("an empty value, or one that is not UTF-8: %.100q", s)
	}
	return value, nil
}
