package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// careful is a file that somebody cared for.
const careful = `# My settings
remember = "1h30m"   # as long as a meeting
key-dir = [
	"~/.ssh", # the usual "one"
	'~/work]keys',
]
confirm = ["work-*", # the office's
	"id:0123456789"]

# When what goes.
[lock]
screen = ["forget"] # and not the keyrings
`

func TestSet(t *testing.T) {
	for _, c := range []struct {
		name   string
		before string
		change Change
		want   string
	}{
		{"a value in its place", careful, Change{Remember, "5m"}, strings.Replace(careful, `"1h30m"`, `'5m'`, 1)},
		{"a list over lines", careful, Change{Confirm, []string{"*"}}, strings.Replace(careful, "[\"work-*\", # the office's\n\t\"id:0123456789\"]", `['*']`, 1)},
		{"a new one before the tables", careful, Change{Notify, true}, strings.Replace(careful, "# When", "notify = true\n# When", 1)},
		{"in a table", careful, Change{LockScreen, []string{}}, strings.Replace(careful, `["forget"] #`, `[] #`, 1)},
		{"a new one in a table", careful, Change{LockSleep, []string{"keyrings"}}, strings.Replace(careful, "[lock]\n", "[lock]\nsleep = ['keyrings']\n", 1)},
		{"no file", "", Change{Notify, true}, "notify = true\n"},
		{"no file, a table", "", Change{LockIdle, []string{"forget"}}, "[lock]\nidle = ['forget']\n"},
		{"a last line without an end", "notify = false # no", Change{Prompter, "ui"}, "notify = false # no\nprompter = 'ui'\n"},
		{"a table at the end", "notify = false", Change{LockIdle, []string{"forget"}}, "notify = false\n\n[lock]\nidle = ['forget']\n"},
		{"a dotted name", "lock.idle = []\n", Change{LockIdle, []string{"forget"}}, "lock.idle = ['forget']\n"},
		{"quoted", `"remember" = """5m"""` + "\n", Change{Remember, "1m"}, `"remember" = '1m'` + "\n"},
		{"Windows lines", "notify = false\r\nremember = '1m'\r\n", Change{Notify, true}, "notify = true\r\nremember = '1m'\r\n"},
		{"a name in another table", "[other]\nnotify = 1\n", Change{Notify, true}, "notify = true\n[other]\nnotify = 1\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Set([]byte(c.before), c.change)
			if err != nil || string(got) != c.want {
				t.Errorf("%v\n%s\nwant\n%s", err, got, c.want)
			}
		})
	}
}

// What is not understood is left to the user.
func TestByHand(t *testing.T) {
	for _, c := range []struct {
		before string
		change Change
	}{
		{"lock = {screen = []}\n", Change{LockScreen, []string{"forget"}}},
		{"remember = \n", Change{Remember, "1m"}},
		{"[[lock]]\nscreen = []\n", Change{LockScreen, []string{"forget"}}},
		{"lock = 3\n", Change{LockScreen, []string{"forget"}}},
	} {
		if got, err := Set([]byte(c.before), c.change); !errors.Is(err, ErrByHand) {
			t.Errorf("%q became %q, %v", c.before, got, err)
		}
	}
	for _, text := range []string{"remember = 'soon'", "remember = '-1s'", "notify = 3", "["} {
		if _, err := Parse([]byte(text)); !errors.Is(err, ErrByHand) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestReadAndWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyringd", "config.toml")
	v, err := Read(path)
	if err != nil || v.Remember != 10*time.Minute || v.Prompter != "auto" || v.Notify || !slices.Equal(v.LockSleep, []string{Forget}) || len(v.LockIdle) != 0 {
		t.Errorf("without a file: %+v, %v", v, err)
	}
	if err := Write(path, Change{Remember, Duration(time.Hour)}, Change{Confirm, []string{"id:01234567"}}, Change{LockScreen, []string{Forget, Keyrings}}); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	v, err = Read(path)
	if err != nil || v.Remember != time.Hour || !slices.Equal(v.Confirm, []string{"id:01234567"}) || !slices.Equal(v.LockScreen, []string{Forget, Keyrings}) {
		t.Errorf("%+v, %v", v, err)
	}
	// A link to where the user keeps such files stays one, and so does the mode.
	kept := filepath.Join(t.TempDir(), "mine.toml")
	if err := os.WriteFile(kept, []byte(careful), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(kept, path); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, Change{Remember, "5m"}); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(path); err != nil || to != kept {
		t.Errorf("link to %q, %v", to, err)
	}
	if st, err := os.Stat(kept); err != nil || st.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", st, err)
	}
	if v, err = Read(path); err != nil || v.Remember != 5*time.Minute || len(v.Confirm) != 2 {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0", 90 * time.Second: "1m30s", 10 * time.Minute: "10m", time.Hour: "1h", 90 * time.Minute: "1h30m"} {
		if got := Duration(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
}

// FuzzSet changes any file, and nothing but what it was told to.
func FuzzSet(f *testing.F) {
	f.Add([]byte(careful), "5m")
	f.Add([]byte("lock.idle = []\n[a]\nb = '''x'''''\n"), "x\"\n")
	f.Add([]byte("\ufeffremember = \"\\\"\" # x"), "1m")
	f.Fuzz(func(t *testing.T, data []byte, value string) {
		for _, c := range []Change{{Remember, value}, {LockIdle, []string{value}}} {
			got, err := Set(data, c)
			if err != nil {
				continue
			}
			again, err := Set(got, c)
			if err != nil || string(again) != string(got) {
				t.Errorf("%q twice: %q, then %q, %v", data, got, again, err)
			}
		}
	})
}
