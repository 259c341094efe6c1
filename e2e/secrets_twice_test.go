package e2e

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keyringd/keyringd/internal/secretstest"
)

// TestTwoDaemonsOneFolder has two sessions of a user with one data folder. The
// second says that it cannot read it and makes nothing in its place, and has it
// as soon as the first ends, in order or not, without a restart.
func TestTwoDaemonsOneFolder(t *testing.T) {
	t.Parallel()
	first := newCabinet(t, "none")
	if _, err := first.open().Store(secretstest.Login, "x", map[string]string{"a": "1"}, []byte("swordfish"), false); err != nil {
		t.Fatal(err)
	}
	second := newCabinet(t, "none", "--data-dir", filepath.Join(first.Dir, "data"))
	client := second.client()
	refused := func() {
		t.Helper()
		_, _, err := client.Search(map[string]string{"a": "1"})
		if err == nil || !strings.Contains(err.Error(), "another keyringd") {
			t.Errorf("a search: %v", err)
		}
		if err := client.Unlock(secretstest.Login); err == nil {
			t.Error("unlocked")
		}
	}
	await(t, "the second to notice", func() bool { return strings.Contains(second.Log.String(), "another keyringd") })
	refused()
	if out, _, status := second.ctl("status"); status != 0 || !strings.Contains(out, "another keyringd") {
		t.Errorf("status %d: %s", status, out)
	}
	finds := func(c cabinet, client *secretstest.Client) {
		t.Helper()
		await(t, "the folder to change hands", func() bool { _, _, err := client.Search(map[string]string{"a": "1"}); return err == nil })
		if err := client.Unlock(secretstest.Login); err != nil {
			t.Fatal(err)
		}
		open, _, err := client.Search(map[string]string{"a": "1"})
		if err != nil || len(open) != 1 {
			t.Fatalf("found %v, %v", open, err)
		}
		if value, err := client.Secret(open[0]); err != nil || string(value) != "swordfish" {
			t.Errorf("%q, %v", value, err)
		}
	}
	if err := syscall.Kill(first.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	finds(second, client)

	// And back, when the second ends in order.
	first.begin("none")
	client = first.client()
	await(t, "the first to notice", func() bool { return strings.Contains(first.Log.String(), "another keyringd") })
	refused()
	if err := second.Stop(); err != nil {
		t.Error(err)
	}
	finds(first, client)
}
