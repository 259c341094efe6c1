package link

import (
	"path/filepath"
	"testing"
)

func TestParseAddress(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Address
	}{
		{"auto", Address{Kind: Auto}},
		{"none", Address{}},
		{"device:/dev/tpmrm0", Address{Device, "/dev/tpmrm0", true}},
		{"device:/dev/tpmrm1", Address{Device, "/dev/tpmrm1", true}},
		{"device:/dev/tpm0", Address{Device, "/dev/tpm0", false}},
		{"device:/dev/tpm0,rm", Address{Device, "/dev/tpm0", true}},
		{"unix:/run/tpm", Address{Unix, "/run/tpm", false}},
		{"unix:/run/tpm,rm", Address{Unix, "/run/tpm", true}},
		{"unix:/run/a:b,c", Address{Unix, "/run/a:b,c", false}},
		{"tcp:localhost:2321", Address{TCP, "localhost:2321", false}},
		{"tcp:[::1]:2321,rm", Address{TCP, "[::1]:2321", true}},
		{"swtpm", Address{Kind: Swtpm}},
		{"swtpm:/var/lib/x", Address{Swtpm, "/var/lib/x", false}},
	} {
		got, err := ParseAddress(c.in)
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", c.in, got, err, c.want)
		}
		if s := got.String(); s != c.in {
			t.Errorf("%s is printed as %s", c.in, s)
		}
	}
	if got, err := ParseAddress("device:/dev/tpmrm0,rm"); err != nil || got.String() != "device:/dev/tpmrm0" {
		t.Errorf("the suffix that says nothing new: %+v, %v", got, err)
	}
}

func TestParseAddressRefuses(t *testing.T) {
	for _, s := range []string{
		"", "device", "device:", "unix:", "unix:,rm", "unix", "tcp:", "tcp:localhost", "tcp::2321", "tcp:h:0", "tcp:h:65536",
		"tcp:h:x", "swtpm:", "swtpm:/x,rm", "auto:", "auto:x", "auto,rm", "none:", "none,rm", "/dev/tpmrm0", "Device:/x",
		"mssim:localhost:2321", "unix:/a\x00b",
	} {
		if a, err := ParseAddress(s); err == nil {
			t.Errorf("%q is taken for %+v", s, a)
		}
	}
}

func TestResolve(t *testing.T) {
	dir := t.TempDir()
	there := Address{Device, dir, true}
	if got := (Address{Kind: Auto}).resolve(dir); got != there {
		t.Errorf("auto, with the device: %+v", got)
	}
	if got := (Address{Kind: Auto}).resolve(filepath.Join(dir, "none")); got != (Address{}) {
		t.Errorf("auto, without: %+v", got)
	}
	u := Address{Unix, "/x", true}
	if got := u.Resolve(); got != u {
		t.Errorf("another one: %+v", got)
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"auto", "none", "device:/dev/tpmrm0", "device:/dev/tpm0,rm", "unix:a,rm,rm", "tcp:[::1]:1", "swtpm:x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		b, err := ParseAddress(a.String())
		if err != nil || a != b {
			t.Errorf("%q is %+v, printed %q, which is %+v, %v", s, a, a.String(), b, err)
		}
	})
}
