package secret

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const canary = "canary-4711-secret"

func text(b Bytes) string {
	s := ""
	b.Use(func(p []byte) { s = string(p) })
	return s
}

func TestFromMovesAndCopyCopies(t *testing.T) {
	src := []byte(canary)
	c := Copy(src)
	if text(c) != canary || string(src) != canary {
		t.Fatalf("Copy: %q, source %q", text(c), src)
	}
	m := From(src)
	if text(m) != canary {
		t.Fatalf("From holds %q", text(m))
	}
	if !bytes.Equal(src, make([]byte, len(src))) {
		t.Fatalf("From left %q in its source", src)
	}
	c.Wipe()
	m.Wipe()
}

func TestWipe(t *testing.T) {
	b := Copy([]byte(canary))
	var held []byte // what nobody should do, to see what becomes of it
	b.Use(func(p []byte) { held = p })
	other := b
	clone := b.Clone()
	b.Wipe()
	if !bytes.Equal(held, make([]byte, len(held))) {
		t.Errorf("after Wipe the memory holds %q", held)
	}
	if b.Len() != 0 || other.Len() != 0 || text(other) != "" {
		t.Errorf("after Wipe a copy of the handle holds %d bytes", other.Len())
	}
	if text(clone) != canary {
		t.Errorf("Wipe reached a clone: %q", text(clone))
	}
	b.Wipe()
	clone.Wipe()
	Bytes{}.Wipe()
}

func TestZeroValueIsEmpty(t *testing.T) {
	var b Bytes
	b.Use(func(p []byte) {
		if p != nil {
			t.Errorf("empty secret holds %v", p)
		}
	})
	if b.Len() != 0 || New(0).Len() != 0 || b.Clone().Len() != 0 || !b.Equal(New(0)) {
		t.Error("the zero value is not the empty secret")
	}
}

func TestEqual(t *testing.T) {
	a, b, c := Copy([]byte("1234")), Copy([]byte("1234")), Copy([]byte("1235"))
	if !a.Equal(a) || !a.Equal(b) || a.Equal(c) || a.Equal(Bytes{}) || a.Equal(Copy([]byte("12345"))) {
		t.Error("Equal is wrong")
	}
}

func TestNothingShowsASecret(t *testing.T) {
	b := Copy([]byte(canary))
	defer b.Wipe()
	type holder struct {
		Exported Bytes
		hidden   Bytes
		deep     []map[string]Bytes
	}
	h := holder{b, b, []map[string]Bytes{{"k": b}}}
	for _, verb := range "vdsxXqTtbcoOUeEfFgGp!w" {
		for _, flag := range []string{"", "+", "#", " ", "-20", "020", ".3"} {
			f := "%" + flag + string(verb)
			got := fmt.Sprintf(f, b)
			// %w outside Errorf, as %T and %p, does not reach Format.
			if !strings.ContainsRune("Tpw", verb) && got != "[secret]" {
				t.Errorf("%s prints %q", f, got)
			}
			for _, v := range []any{b, &b, h, &h, []Bytes{b}, error(wrapped{b})} {
				got := fmt.Sprintf(f, v)
				if leaks(got) {
					t.Errorf("%s of %T prints %q", f, v, got)
				}
			}
		}
	}
	if b.String() != "[secret]" || b.GoString() != "[secret]" {
		t.Error("String")
	}

	var log bytes.Buffer
	for _, hd := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		l := slog.New(hd)
		l.InfoContext(context.Background(), "x", "a", b, "h", h, "p", &b)
	}
	if leaks(log.String()) || !strings.Contains(log.String(), "[secret]") {
		t.Errorf("logged: %s", log.String())
	}
}

type wrapped struct{ b Bytes }

func (w wrapped) Error() string { return fmt.Sprint("wrapped ", w.b) }

// leaks reports whether s shows the canary as text, hex, or decimal bytes.
func leaks(s string) bool {
	for _, form := range []string{
		canary, canary[:4], fmt.Sprintf("%x", canary[:4]), fmt.Sprintf("%X", canary[:4]),
		strings.Trim(fmt.Sprint([]byte(canary[:4])), "[]"), "0x63, 0x61",
	} {
		if strings.Contains(s, form) {
			return true
		}
	}
	return false
}

func TestNoEncoding(t *testing.T) {
	b := Copy([]byte(canary))
	defer b.Wipe()
	var out bytes.Buffer
	if _, err := json.Marshal(b); err == nil {
		t.Error("JSON encodes a secret")
	}
	if _, err := json.Marshal(struct{ B Bytes }{b}); err == nil {
		t.Error("JSON encodes a struct with a secret")
	}
	if _, err := json.Marshal(map[string]any{"b": &b}); err == nil {
		t.Error("JSON encodes a map with a secret")
	}
	if err := xml.NewEncoder(&out).Encode(struct{ B Bytes }{b}); err == nil {
		t.Error("XML encodes a secret")
	}
	if err := gob.NewEncoder(&out).Encode(struct{ B Bytes }{b}); err == nil {
		t.Error("gob encodes a secret")
	}
	if _, err := b.MarshalText(); err == nil {
		t.Error("text encodes a secret")
	}
	if leaks(out.String()) {
		t.Errorf("written before the error: %q", out.String())
	}
}

func TestWipeWaitsForUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Copy([]byte(canary))
		inside, finish := make(chan struct{}), make(chan struct{})
		done := make(chan string, 1)
		go b.Use(func(p []byte) {
			close(inside)
			<-finish
			done <- string(p)
		})
		<-inside
		var wipers sync.WaitGroup
		wiped := make(chan struct{})
		for range 3 {
			wipers.Go(b.Wipe)
		}
		go func() { wipers.Wait(); close(wiped) }()
		synctest.Wait()
		select {
		case <-wiped:
			t.Fatal("Wipe did not wait for a running Use")
		default:
		}
		if b.Len() != 0 {
			t.Error("a secret that is being wiped can still be read")
		}
		close(finish)
		if got := <-done; got != canary {
			t.Errorf("Use saw %q while Wipe waited", got)
		}
		<-wiped
	})
}

// A read lock that is taken twice deadlocks when a writer waits in between.
func TestNestedUseWhileWiping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Copy([]byte("1234")), Copy([]byte("1234"))
		a.Use(func([]byte) {
			b.Use(func([]byte) {
				go a.Wipe()
				go b.Wipe()
				synctest.Wait()
				a.Equal(b)
				b.Equal(a)
				a.Clone().Wipe()
			})
		})
		synctest.Wait()
		if a.Len()+b.Len() != 0 {
			t.Error("not wiped")
		}
	})
}

func TestUseSurvivesPanic(t *testing.T) {
	b := Copy([]byte(canary))
	func() {
		defer func() { _ = recover() }()
		b.Use(func([]byte) { panic("x") })
	}()
	done := make(chan struct{})
	go func() { b.Wipe(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("a panic in Use keeps Wipe from ending")
	}
}

func TestForgottenHandlesAreWiped(t *testing.T) {
	var held []byte
	func() {
		b := Copy([]byte(canary))
		b.Use(func(p []byte) { held = p })
	}()
	deadline := time.Now().Add(10 * time.Second)
	for !bytes.Equal(held, make([]byte, len(held))) {
		if time.Now().After(deadline) {
			t.Fatal("a forgotten secret is still in memory after garbage collection")
		}
		runtime.GC()
		runtime.Gosched()
	}
}

func TestConcurrentUse(t *testing.T) {
	var wg sync.WaitGroup
	for range 8 {
		b := Copy([]byte(canary))
		for range 4 {
			wg.Go(func() {
				for range 200 {
					c := b.Clone()
					if s := text(c); s != "" && s != canary {
						t.Errorf("saw %q", s)
					}
					c.Wipe()
					_ = b.Equal(c)
				}
			})
		}
		wg.Go(func() {
			for b.Len() > 0 {
				runtime.Gosched()
				b.Wipe()
			}
		})
	}
	wg.Wait()
}

func TestNegativeSizePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("New(-1) does not panic")
		}
	}()
	New(-1)
}
