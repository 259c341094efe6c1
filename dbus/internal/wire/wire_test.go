package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	godbus "github.com/godbus/dbus/v5"
)

// everything has a value of each type that there is.
func everything() []any {
	return []any{
		byte(200), true, false, int16(-2), uint16(65535), int32(-3), uint32(1 << 31), int64(math.MinInt64), uint64(math.MaxUint64), 1.5,
		"text ü", "", godbus.ObjectPath("/a/b"), godbus.ParseSignatureMust("a{sv}"), []byte{1, 2, 3}, []byte{},
		[]string{"a", ""}, [][]byte{{1}, {}}, []godbus.ObjectPath{"/"}, map[string]string{"k": "v", "a": "b"},
		map[string]godbus.Variant{"x": godbus.MakeVariant([]string{"y"}), "n": godbus.MakeVariant(uint64(7))},
		godbus.MakeVariant(godbus.MakeVariant(int16(-5))),
		[]struct {
			A byte
			B uint64
			C []string
		}{{1, 2, []string{"x"}}, {3, 4, []string{}}},
		map[godbus.ObjectPath]map[string]map[string]godbus.Variant{"/o": {"i": {"p": godbus.MakeVariant(true)}}},
		map[uint32]int64{7: -7},
	}
}

// TestSameBytesAsGodbus: what we write godbus reads, and the other way round.
func TestSameBytesAsGodbus(t *testing.T) {
	values := everything()
	body, err := Append(nil, values...)
	if err != nil {
		t.Fatal(err)
	}
	h := Header{Type: godbus.TypeMethodCall, Flags: godbus.FlagNoAutoStart, Serial: 7, Path: "/p/q", Interface: "a.b", Member: "M",
		Destination: ":1.2", Signature: Signature(values...)}
	m, err := godbus.DecodeMessage(bytes.NewReader(AppendMessage(nil, h, body)))
	if err != nil {
		t.Fatal(err)
	}
	if m.Serial() != 7 || m.Headers[godbus.FieldPath].Value() != godbus.ObjectPath("/p/q") || m.Headers[godbus.FieldDestination].Value() != ":1.2" {
		t.Errorf("headers %v", m.Headers)
	}
	if want := godbus.SignatureOf(values...); m.Headers[godbus.FieldSignature].Value() != want {
		t.Errorf("signature %v, want %v", m.Headers[godbus.FieldSignature], want)
	}
	for i, v := range values {
		into := reflect.New(reflect.TypeOf(v))
		if err := godbus.Store(m.Body[i:i+1], into.Interface()); err != nil || !reflect.DeepEqual(into.Elem().Interface(), v) {
			t.Errorf("godbus read %v for %v: %v", into.Elem(), v, err)
		}
	}

	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		m := &godbus.Message{Type: godbus.TypeMethodCall, Body: values, Headers: map[godbus.HeaderField]godbus.Variant{
			godbus.FieldPath: godbus.MakeVariant(godbus.ObjectPath("/x")), godbus.FieldMember: godbus.MakeVariant("M"),
			godbus.FieldSignature: godbus.MakeVariant(godbus.SignatureOf(values...)), godbus.FieldSender: godbus.MakeVariant(":1.9"),
		}}
		var out bytes.Buffer
		if err := m.EncodeTo(&out, order); err != nil {
			t.Fatal(err)
		}
		b := out.Bytes()
		h, fields, err := parseFixed(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.parseFields(b[:fixedSize+fields]); err != nil {
			t.Fatal(err)
		}
		if h.Path != "/x" || h.Member != "M" || h.Sender != ":1.9" || h.Signature != Signature(values...) || h.BodySize != len(b)-fixedSize-fields {
			t.Errorf("header %+v", h)
		}
		var into []any
		for _, v := range values {
			into = append(into, reflect.New(reflect.TypeOf(v)).Interface())
		}
		if err := Unmarshal(h.Order, b[fixedSize+fields:], into...); err != nil {
			t.Fatal(err)
		}
		for i, v := range values {
			if got := reflect.ValueOf(into[i]).Elem().Interface(); !reflect.DeepEqual(got, v) {
				t.Errorf("%v: read %v, want %v", order, got, v)
			}
		}
	}
}

func TestTextsAreMadeFit(t *testing.T) {
	body, err := Append(nil, "a\x00b\xff")
	if err != nil {
		t.Fatal(err)
	}
	var s string
	if err := Unmarshal(binary.LittleEndian, body, &s); err != nil || s != "a\uFFFDb\uFFFD" {
		t.Errorf("%q, %v", s, err)
	}
	for _, bad := range []any{godbus.ObjectPath("relative"), make(chan int), nil} {
		if _, err := Append(nil, bad); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%T: %v", bad, err)
		}
	}
}

func TestMalformedBodiesAreRefused(t *testing.T) {
	u32 := func(n ...uint32) (b []byte) {
		for _, v := range n {
			b = binary.LittleEndian.AppendUint32(b, v)
		}
		return b
	}
	deep := bytes.Repeat([]byte{1, 'v', 0}, 200)
	for _, c := range []struct {
		name string
		body []byte
		into any
	}{
		{"nothing", nil, new(uint32)},
		{"a rest", u32(1, 2), new(uint32)},
		{"boolean 2", u32(2), new(bool)},
		{"a text beyond the end", append(u32(100), "abc\x00"...), new(string)},
		{"a text of 4 GiB", append(u32(math.MaxUint32), "abc\x00"...), new(string)},
		{"a text without an end", append(u32(3), "abcd"...), new(string)},
		{"a text with a zero", append(u32(3), "a\x00c\x00"...), new(string)},
		{"a text that is not UTF-8", append(u32(1), "\xff\x00"...), new(string)},
		{"a relative path", append(u32(1), "a\x00"...), new(godbus.ObjectPath)},
		{"an array beyond the end", u32(1000), new([]byte)},
		{"an array whose length lies", append(u32(5), u32(1, 2)...), new([]uint32)},
		{"padding that is not zero", append(u32(8), 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0), new([]uint64)},
		{"a bad signature", []byte{1, '!', 0}, new(godbus.Signature)},
		{"a variant of nothing", []byte{0, 0}, new(godbus.Variant)},
		{"a variant of two", []byte{2, 'y', 'y', 0, 1, 1}, new(godbus.Variant)},
		{"variants nested deeply", deep, new(godbus.Variant)},
		{"a key twice", append(u32(0x1c, 0), append(append(append(u32(1), "k\x00\x00\x00"...), u32(1)...), append(append([]byte("v\x00\x00\x00\x00\x00\x00\x00"), append(u32(1), "k\x00\x00\x00"...)...), append(u32(1), "w\x00"...)...)...)...), new(map[string]string)},
	} {
		if err := Unmarshal(binary.LittleEndian, c.body, c.into); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestStrangeVariantsArePassedOver: they are checked, and what follows is found.
func TestStrangeVariantsArePassedOver(t *testing.T) {
	strange := godbus.MakeVariantWithSignature([]struct {
		A bool
		B map[byte][]godbus.Variant
		C godbus.Signature
		D godbus.ObjectPath
		E int64
	}{{true, map[byte][]godbus.Variant{1: {godbus.MakeVariant("x")}}, godbus.ParseSignatureMust("s"), "/", 1}}, godbus.ParseSignatureMust("a(ba{yav}gox)"))
	body, err := Append(nil, strange, "after")
	if err != nil {
		t.Fatal(err)
	}
	var v godbus.Variant
	var s string
	if err := Unmarshal(binary.LittleEndian, body, &v, &s); err != nil || s != "after" || v.Value() != (Opaque{}) || v.Signature().String() != "a(ba{yav}gox)" {
		t.Errorf("%v, %q, %v", v, s, err)
	}
	if err := Unmarshal(binary.LittleEndian, body[:len(body)-20], &v, &s); !errors.Is(err, ErrMalformed) {
		t.Errorf("cut short: %v", err)
	}
}

// TestTapShowsPassesAndSkips: a message is passed to godbus, read by the
// receiver or skipped, whatever its size, and the next one is found.
func TestTapShowsPassesAndSkips(t *testing.T) {
	ours, theirs := net.Pipe()
	var seen []string
	tap := NewTap(ours, func(f *Frame) bool {
		seen = append(seen, f.Member)
		switch f.Member {
		case "Read":
			if b, err := f.Body(); err != nil || len(b) != f.BodySize {
				t.Errorf("body of %d bytes: %v", len(b), err)
			}
		case "Pass", "PassBig":
			return true
		}
		return false
	})
	defer tap.Close()
	tap.begun.Store(true)
	go func() {
		defer theirs.Close()
		for _, m := range []struct {
			member string
			size   int
		}{{"Skip", 3 << 20}, {"Read", 100}, {"PassBig", maxPassed + 1}, {strings.Repeat("x", maxFields), 10}, {"Pass", 8}, {"Read", 0}} {
			_, _ = theirs.Write(AppendMessage(nil, Header{Type: godbus.TypeMethodCall, Serial: 1, Path: "/", Member: m.member, Signature: "ay"}, make([]byte, m.size)))
		}
	}()
	m, err := godbus.DecodeMessage(readOnly{tap})
	if err != nil || m.Headers[godbus.FieldMember].Value() != "Pass" {
		t.Errorf("passed %v: %v", m, err)
	}
	if _, err := tap.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	tap.Wait()
	if want := []string{"Skip", "Read", "PassBig", "Pass", "Read"}; !reflect.DeepEqual(seen, want) {
		t.Errorf("saw %q, want %q", seen, want)
	}
}

type readOnly struct{ io.Reader }

func TestTapGivesUpWithoutABoundary(t *testing.T) {
	for name, first := range map[string][]byte{
		"byte order":      append([]byte("x\x01\x00\x01"), make([]byte, 12)...),
		"version":         append([]byte("l\x01\x00\x02"), make([]byte, 12)...),
		"128 MiB":         []byte("l\x01\x00\x01\x00\x00\x00\x08\x01\x00\x00\x00\x00\x00\x00\x00"),
		"4 GiB of fields": []byte("l\x01\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00\xff\xff\xff\xff"),
	} {
		ours, theirs := net.Pipe()
		tap := NewTap(ours, func(*Frame) bool { return true })
		tap.begun.Store(true)
		go func() { _, _ = theirs.Write(first) }()
		if _, err := tap.Read(make([]byte, 1)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
		tap.Close()
		theirs.Close()
	}
}

func TestSessionAddress(t *testing.T) {
	env := map[string]string{}
	get := func(name string) string { return env[name] }
	for _, c := range []struct{ bus, runtime, want string }{
		{"", "", "unix:path=/run/user/7/bus"},
		{"autolaunch:", "/run/x y", "unix:path=/run/x%20y/bus"},
		{"unix:path=/b", "/run/x", "unix:path=/b"},
		{"", "relative", "unix:path=/run/user/7/bus"},
	} {
		env["DBUS_SESSION_BUS_ADDRESS"], env["XDG_RUNTIME_DIR"] = c.bus, c.runtime
		if got := SessionAddress(get, 7); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
	paths, err := sockets("tcp:host=x;unix:abstract=a%20b,guid=1;unix:guid=2,path=/c")
	if err != nil || !reflect.DeepEqual(paths, []string{"@a b", "/c"}) {
		t.Errorf("%q, %v", paths, err)
	}
}

// TestDialTriesAll: the first socket that answers is used.
func TestDialTriesAll(t *testing.T) {
	dir, err := os.MkdirTemp("", "kr")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "b"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := Dial(context.Background(), "unix:path="+dir+"/a;unix:path="+dir+"/b")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := Dial(context.Background(), "unix:path="+dir+"/a"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
}

// FuzzUnmarshal: what decodes, encodes and decodes again to the same; memory
// stays in proportion to the input.
func FuzzUnmarshal(f *testing.F) {
	for i, v := range everything() {
		body, err := Append(nil, v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(i, false, body)
		f.Add(i, true, body)
	}
	f.Fuzz(func(t *testing.T, which int, big bool, body []byte) {
		all := everything()
		kind := reflect.TypeOf(all[int(uint(which)%uint(len(all)))])
		var order binary.ByteOrder = binary.LittleEndian
		if big {
			order = binary.BigEndian
		}
		first, second := reflect.New(kind), reflect.New(kind)
		if Unmarshal(order, body, first.Interface()) != nil {
			return
		}
		again, err := Append(nil, first.Elem().Interface())
		if err != nil {
			if strings.Contains(err.Error(), "Opaque") {
				return // its bytes are gone
			}
			t.Fatal(err)
		}
		if err := Unmarshal(binary.LittleEndian, again, second.Interface()); err != nil {
			t.Fatalf("%x: %v", again, err)
		}
		third, err := Append(nil, second.Elem().Interface())
		if err != nil || !bytes.Equal(again, third) {
			t.Fatalf("%x and %x: %v", again, third, err)
		}
	})
}

// FuzzHeader: no header makes a Tap panic or read beyond it.
func FuzzHeader(f *testing.F) {
	f.Add(AppendMessage(nil, Header{Type: godbus.TypeMethodCall, Serial: 1, Path: "/a", Interface: "a.b", Member: "M", Destination: "x.y", Signature: "s"}, nil))
	f.Add(AppendMessage(nil, Header{Type: godbus.TypeError, Serial: 1, ReplySerial: 3, ErrorName: "a.b"}, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < fixedSize {
			return
		}
		h, fields, err := parseFixed(b)
		if err != nil || fields > len(b)-fixedSize {
			return
		}
		_ = h.parseFields(b[:fixedSize+fields])
	})
}

// TestOneCopyOfEachValue: what is written may be a secret, and is not left
// behind where the message had to grow.
func TestOneCopyOfEachValue(t *testing.T) {
	first := append(make([]byte, 0, 16), "a secret"...)
	body, err := Append(first, strings.Repeat("x", 100))
	if err != nil || !bytes.HasPrefix(body, []byte("a secret")) {
		t.Fatalf("%q, %v", body, err)
	}
	if !bytes.Equal(first, make([]byte, len(first))) {
		t.Errorf("%q is left behind", first)
	}
}
