package store_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/store"
)

// sizes are how many items there are while something is measured.
func sizes() []int { return []int{100, 1000, 10000} }

// filled makes a store with n items of the usual kind: three attributes, one of
// which they all share, and a secret of 32 bytes.
func filled(b *testing.B, n int) (string, *store.Store, keyring.Lockable) {
	b.Helper()
	dir := b.TempDir()
	s := openWith(b, options(dir))
	c := login(b, s)
	gate := make(chan int)
	done := make(chan error)
	for range 64 { // many at a time share commits
		go func() {
			for i := range gate {
				item := benchItem(i)
				_, _, err := c.Create(item, false)
				item.Secret.Wipe()
				done <- err
			}
		}()
	}
	go func() {
		for i := range n {
			gate <- i
		}
		close(gate)
	}()
	for range n {
		must(b, <-done)
	}
	return dir, s, c
}

func benchItem(i int) keyring.NewItem {
	return keyring.NewItem{
		Label: fmt.Sprint("Password for account ", i), ContentType: "text/plain; charset=utf8",
		Attributes: map[string]string{"xdg:schema": "org.example.Password", "account": fmt.Sprint("user", i), "server": fmt.Sprintf("host%d.example.org", i%50)},
		Secret:     secret.Copy([]byte(strings.Repeat("s", 32))),
	}
}

// measure runs f b.N times and reports the median and the 99th of 100.
func measure(b *testing.B, f func(i int)) {
	var times []time.Duration
	i := 0
	for b.Loop() {
		start := time.Now()
		f(i)
		times = append(times, time.Since(start))
		i++
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, "p99-ms")
}

func BenchmarkStore(b *testing.B) {
	for _, n := range sizes() {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			_, _, c := filled(b, n)
			b.Run("Create", func(b *testing.B) {
				item := benchItem(n + 1)
				measure(b, func(i int) {
					_, _, err := c.Create(item, false)
					must(b, err)
				})
			})
			b.Run("Replace", func(b *testing.B) {
				item := benchItem(n / 2)
				measure(b, func(i int) {
					_, replaced, err := c.Create(item, true)
					must(b, err)
					if !replaced {
						b.Fatal("not replaced")
					}
				})
			})
			b.Run("Change", func(b *testing.B) {
				other := secret.Copy([]byte("changed"))
				measure(b, func(i int) { must(b, c.Change(strconv.Itoa(1+i*7919%n), keyring.ItemChange{Secret: &other})) })
			})
			b.Run("Search", func(b *testing.B) {
				measure(b, func(i int) {
					ids, err := c.Search(benchItem(i * 7919 % n).Attributes)
					if must(b, err); len(ids) == 0 {
						b.Fatal("not found")
					}
				})
			})
			b.Run("SearchMiss", func(b *testing.B) {
				measure(b, func(i int) {
					ids, err := c.Search(map[string]string{"xdg:schema": "org.example.Password", "account": "nobody"})
					if must(b, err); len(ids) != 0 {
						b.Fatal("found")
					}
				})
			})
			b.Run("Secret", func(b *testing.B) {
				measure(b, func(i int) {
					got, err := c.Secret(strconv.Itoa(1 + i*7919%n))
					must(b, err)
					got.Wipe()
				})
			})
			b.Run("Item", func(b *testing.B) {
				measure(b, func(i int) {
					_, err := c.Item(strconv.Itoa(1 + i*7919%n))
					must(b, err)
				})
			})
			b.Run("Delete", func(b *testing.B) {
				b.StopTimer()
				item := benchItem(n + 2)
				var times []time.Duration
				b.StartTimer()
				for b.Loop() {
					b.StopTimer()
					id, _, err := c.Create(item, false)
					must(b, err)
					b.StartTimer()
					start := time.Now()
					must(b, c.Delete(id))
					times = append(times, time.Since(start))
				}
				slices.Sort(times)
				b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "p50-ms")
			})
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, n := range sizes() {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			dir, s, _ := filled(b, n)
			must(b, s.Close())
			measure(b, func(int) {
				s, err := store.Open(b.Context(), options(dir))
				must(b, err)
				b.StopTimer()
				must(b, s.Close())
				b.StartTimer()
			})
		})
	}
}

// BenchmarkUnlock is with the usual cost of a passphrase, which is meant to be
// all there is to it.
func BenchmarkUnlock(b *testing.B) {
	dir, s, _ := filled(b, 10000)
	must(b, s.Close())
	s = openWith(b, options(dir))
	c := collection(b, s, "login")
	b.Run("10000", func(b *testing.B) {
		measure(b, func(int) {
			must(b, c.Unlock(b.Context(), passphrase(b, "pass")))
			b.StopTimer()
			c.Lock()
			b.StartTimer()
		})
	})
}

// BenchmarkMemory says what the process holds after a store of 10,000 items was
// unlocked by a passphrase of the usual cost, and used.
func BenchmarkMemory(b *testing.B) {
	o := store.Options{Dir: b.TempDir()}.BackupWhen(never)
	s := openWith(b, o)
	c := login(b, s)
	for i := range 10000 {
		item := benchItem(i)
		_, _, err := c.Create(item, false)
		item.Secret.Wipe()
		must(b, err)
	}
	must(b, s.Close())
	s = openWith(b, o)
	c = collection(b, s, "login")
	for b.Loop() {
		c.Lock()
		must(b, c.Unlock(b.Context(), passphrase(b, "pass")))
		for i := range 1000 {
			got, err := c.Secret(strconv.Itoa(1 + i*10))
			must(b, err)
			got.Wipe()
		}
	}
	status, err := os.ReadFile("/proc/self/status")
	must(b, err)
	for line := range strings.SplitSeq(string(status), "\n") {
		for _, name := range []string{"VmRSS:", "RssAnon:", "RssFile:"} {
			if rest, ok := strings.CutPrefix(line, name); ok {
				kib, err := strconv.Atoi(strings.Fields(rest)[0])
				must(b, err)
				b.ReportMetric(float64(kib)/1024, strings.TrimSuffix(name, ":")+"-MiB")
			}
		}
	}
}
