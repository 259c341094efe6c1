//go:build bench

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/daemontest"
	"github.com/keyringd/keyringd/internal/secretstest"
)

// sizes are how many items there are while it is measured. gnome-keyring writes
// all of them for each change, and is given up on earlier.
var sizes = []int{100, 1000, 10000}

const gnomeMost = 1000

// vaultPassphrase unlocks the collections that are measured.
const vaultPassphrase = "open sesame"

// A vault is a daemon that keeps secrets, with its files on disk.
type vault struct {
	name  string
	bus   *bustest.Bus
	most  int // items
	start func() (pid int, stop func())
}

// onDisk is a folder on a disk, if the machine has one, and not in memory.
func onDisk(tb testing.TB) string {
	tb.Helper()
	base := ""
	for _, dir := range []string{os.TempDir(), "/var/tmp"} {
		out, err := exec.Command("stat", "-f", "-c", "%T", dir).Output()
		if err == nil && !strings.Contains(string(out), "tmpfs") && !strings.Contains(string(out), "ramfs") {
			base = dir
			break
		}
	}
	dir, err := os.MkdirTemp(base, "kr")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func vaults(tb testing.TB) []*vault {
	s, data := daemontest.New(tb), onDisk(tb)
	ours := &vault{name: "keyringd", bus: bustest.Start(tb), most: sizes[len(sizes)-1]}
	ours.start = func() (int, func()) {
		s.Start("none", "--bus", ours.bus.Address, "--data-dir", data, "--prompter", "none")
		return s.PID(), func() {
			if err := s.Stop(); err != nil {
				tb.Fatal(err)
			}
		}
	}
	bustest.Need(tb, "gnome-keyring-daemon")
	home := onDisk(tb)
	peer := &vault{name: "gnome-keyring", bus: bustest.Start(tb), most: gnomeMost}
	peer.start = func() (int, func()) {
		cmd := exec.Command("gnome-keyring-daemon", "--foreground", "--components=secrets", "--control-directory="+filepath.Join(home, "control"))
		cmd.Env = append(os.Environ(), "HOME="+home, "XDG_DATA_HOME="+home, "XDG_RUNTIME_DIR="+home, "DBUS_SESSION_BUS_ADDRESS="+peer.bus.Address)
		if err := cmd.Start(); err != nil {
			tb.Fatal(err)
		}
		stop := func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
		tb.Cleanup(stop)
		return cmd.Process.Pid, stop
	}
	return []*vault{ours, peer}
}

// serve starts the daemon, and returns a client, how long it took until the
// client had its answer, and how to stop it.
func (v *vault) serve(tb testing.TB) (client *secretstest.Client, pid int, took time.Duration, stop func()) {
	tb.Helper()
	watch, err := godbus.Connect(v.bus.Address)
	if err != nil {
		tb.Fatal(err)
	}
	defer watch.Close()
	signals := make(chan *godbus.Signal, 10)
	watch.Signal(signals)
	err = watch.AddMatchSignal(godbus.WithMatchMember("NameOwnerChanged"), godbus.WithMatchArg(0, "org.freedesktop.secrets"))
	if err != nil {
		tb.Fatal(err)
	}
	begin := time.Now()
	pid, stop = v.start()
	for s := range signals {
		if s.Name == "org.freedesktop.DBus.NameOwnerChanged" && s.Body[2] != "" {
			break
		}
	}
	took = time.Since(begin)
	if client, err = secretstest.Dial(v.bus.Address); err != nil {
		tb.Fatal(err)
	}
	return client, pid, took, stop
}

// times is p50 and p99, in milliseconds.
func times(took []time.Duration) string {
	return fmt.Sprintf("%.2f/%.2f", float64(quantile(took, 0.5))/1e6, float64(quantile(took, 0.99))/1e6)
}

func whole(d time.Duration) string { return fmt.Sprint(d.Round(time.Millisecond).Milliseconds()) }

// repeat measures n runs of do.
func repeat(tb testing.TB, n int, do func(i int) error) []time.Duration {
	tb.Helper()
	took := make([]time.Duration, n)
	for i := range n {
		start := time.Now()
		if err := do(i); err != nil {
			tb.Fatal(err)
		}
		took[i] = time.Since(start)
	}
	return took
}

// TestSecrets compares the daemons that keep secrets: each change is on disk, and
// synced, when it is acknowledged. Values have 32 bytes.
func TestSecrets(t *testing.T) {
	columns := []string{"daemon", "items", "CreateItem", "replace", "SetSecret", "Delete", "search", "GetSecret", "start", "unlock", "RSS MB"}
	row := table("Secrets: p50/p99 in ms; start and unlock in ms, by the clock and of the processor", columns...)
	for _, v := range vaults(t) {
		client, _, _, stop := v.serve(t)
		collection, err := client.Make("bench", vaultPassphrase)
		if err != nil {
			t.Fatal(err)
		}
		have := 0
		value := []byte(strings.Repeat("v", 32))
		attributes := func(i int) map[string]string {
			return map[string]string{"service": "example.org", "user": fmt.Sprint("user", i), "xdg:schema": "org.example.Bench"}
		}
		// fill adds items until there are that many, from several sides at once.
		fill := func(size int) {
			var group sync.WaitGroup
			for side := range 8 {
				group.Go(func() {
					for i := have + side; i < size; i += 8 {
						if _, err := client.Store(collection, fmt.Sprint("Password of user ", i), attributes(i), value, false); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			group.Wait()
			have = size
		}
		for _, size := range sizes {
			if size > v.most {
				continue
			}
			if fill(size); t.Failed() {
				return
			}
			_ = client.Close()
			stop()
			var pid int
			var started time.Duration
			client, pid, started, stop = v.serve(t)
			starting := cpu(t, pid)
			unlocked := repeat(t, 1, func(int) error { return client.UnlockWith(collection, vaultPassphrase) })[0]
			unlocking := cpu(t, pid) - starting

			n := 300
			if v.most < sizes[len(sizes)-1] {
				n = 40
			}
			some := func(i int) int { return i * 7919 % size }
			paths := map[int]godbus.ObjectPath{}
			search := repeat(t, n, func(i int) error {
				found, _, err := client.Search(attributes(some(i)))
				if err == nil && len(found) != 1 {
					err = fmt.Errorf("%d found", len(found))
				}
				if err == nil {
					paths[i] = found[0]
				}
				return err
			})
			get := repeat(t, n, func(i int) error { _, err := client.Secret(paths[i]); return err })
			set := repeat(t, n, func(i int) error { return client.SetSecret(paths[i], value) })
			replace := repeat(t, n, func(i int) error {
				_, err := client.Store(collection, "replaced", attributes(some(i)), value, true)
				return err
			})
			made := map[int]godbus.ObjectPath{}
			create := repeat(t, n, func(i int) (err error) {
				made[i], err = client.Store(collection, "new", attributes(1_000_000+i), value, false)
				return err
			})
			drop := repeat(t, n, func(i int) error { return client.Delete(made[i]) })
			row(v.name, size, times(create), times(replace), times(set), times(drop), times(search), times(get),
				whole(started)+"/"+whole(starting), whole(unlocked)+"/"+whole(unlocking), fmt.Sprintf("%.1f", rss(t, pid)))
		}
		_ = client.Close()
		stop()
	}
}
