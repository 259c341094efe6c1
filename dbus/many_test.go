package dbus

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
)

// many serves a login collection of n items.
func many(t *testing.T, n int) (*vault, []path) {
	t.Helper()
	v := serveLogin(t)
	paths := make([]path, n)
	for i := range paths {
		paths[i] = itemPath(v.add(strings.Repeat("x", 32), map[string]string{"n": fmt.Sprint(i), "xdg:schema": "org.example"}))
	}
	return v, paths
}

// TestTenThousandItems: each call that names them all is one call.
func TestTenThousandItems(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 1_000
	}
	v, paths := many(t, n)
	u := v.user()
	if all := u.get(loginPath, collectionInterface+".Items").([]path); !samePaths(all, paths...) {
		t.Errorf("%d items", len(all))
	}
	if unlocked, locked := u.search(map[string]string{}); !samePaths(unlocked, paths...) || len(locked) != 0 {
		t.Errorf("found %d, %d", len(unlocked), len(locked))
	}
	if found, _ := u.search(map[string]string{"n": "7"}); !samePaths(found, paths[7]) {
		t.Errorf("found %v", found)
	}
	var secrets map[path]passed
	u.ok(u.call(secretsPath, serviceInterface+".GetSecrets", paths, u.session), &secrets)
	if len(secrets) != n || string(secrets[paths[n-1]].Value) != strings.Repeat("x", 32) {
		t.Errorf("%d secrets", len(secrets))
	}
	v.lock()
	if unlocked, locked := u.search(map[string]string{}); !samePaths(locked, paths...) || len(unlocked) != 0 {
		t.Errorf("found %d, %d", len(unlocked), len(locked))
	}
	_, prompt := u.unlock(paths...)
	if dismissed, result := u.prompted(prompt); dismissed || !samePaths(result.Value().([]path), paths...) {
		t.Errorf("%v: %d unlocked", dismissed, len(result.Value().([]path)))
	}
	if q := len(v.prompter.Questions()); q != 1 {
		t.Errorf("%d questions", q)
	}
	var text string
	u.ok(u.call(loginPath, introspectionInterface+".Introspect"), &text)
	if strings.Count(text, "<node name=") != n {
		t.Errorf("%d children", strings.Count(text, "<node name="))
	}
}

// TestCallsStayQuickAmongManyItems: a call about one item does not look at the
// others, but for the list that is told of once in a while. What it took is
// only shown.
func TestCallsStayQuickAmongManyItems(t *testing.T) {
	v, paths := many(t, 10_000)
	u := v.user()
	for name, call := range map[string]func(i int) *godbus.Call{
		"GetSecret": func(i int) *godbus.Call { return u.call(paths[i], itemInterface+".GetSecret", u.session) },
		"GetAll":    func(i int) *godbus.Call { return u.call(paths[i], propertiesInterface+".GetAll", itemInterface) },
		"SetSecret": func(i int) *godbus.Call { return u.call(paths[i], itemInterface+".SetSecret", u.passed("x")) },
	} {
		var took []time.Duration
		before := v.listed.Load()
		for i := range 300 {
			begin := time.Now()
			if err := call(i).Err; err != nil {
				t.Fatal(err)
			}
			took = append(took, time.Since(begin))
		}
		slices.Sort(took)
		t.Logf("%s: p50 %v, p99 %v", name, took[len(took)/2], took[len(took)*99/100])
		if n := v.listed.Load() - before; n > 10 {
			t.Errorf("%s: the items were listed or searched %d times", name, n)
		}
	}
}
