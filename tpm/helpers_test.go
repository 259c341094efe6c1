package tpm

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/tpm/keyfile"
)

func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// filePEM makes a key file of what tpm2_create writes.
func filePEM(t testing.TB, public, private string, parent uint32) []byte {
	t.Helper()
	f := &keyfile.File{Type: keyfile.Loadable, Parent: parent, Public: readFile(t, public), Private: readFile(t, private)}
	b, err := f.PEM()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// eventually waits for something that another goroutine brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("still not: %s", what)
		}
	}
}

// waiting returns how many have or want a turn.
func waiting(d *Device) int { return int(d.wanted.Load()) }

// answer is a ParentAuth that knows the answer.
func answer(s string) func(context.Context, uint32, bool) (secret.Bytes, error) {
	return func(context.Context, uint32, bool) (secret.Bytes, error) { return newPIN(s), nil }
}

func tryKey(d *Device, file []byte) error {
	f, err := keyfile.Parse(file)
	if err != nil {
		return err
	}
	_, err = d.Key(f)
	return err
}
