package folder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestHostileFolder(t *testing.T) {
	d := dir(t)
	at := func(name string) string { return filepath.Join(d, name) }
	want := map[string]error{}

	must(t, unix.Mkfifo(at("fifo"), 0o600))
	want["fifo"] = ErrPipe
	must(t, os.Symlink("/dev/zero", at("zero")))
	want["zero"] = ErrDevice
	must(t, os.Symlink("loop2", at("loop1")))
	must(t, os.Symlink("loop1", at("loop2")))
	want["loop1"], want["loop2"] = ErrLinkLoop, ErrLinkLoop
	must(t, os.Symlink("nowhere", at("dangling")))
	want["dangling"] = ErrLinkNowhere
	write(t, at("huge"), "")
	must(t, os.Truncate(at("huge"), 1<<30))
	want["huge"] = ErrTooLarge
	must(t, os.Symlink(at("fifo"), at("to-fifo")))
	want["to-fifo"] = ErrPipe
	must(t, os.Symlink(t.TempDir(), at("linked-dir")))
	want["linked-dir"] = ErrLinkedDir
	must(t, os.Symlink(d, at("linked-self")))
	want["linked-self"] = ErrLinkedDir
	short, err := os.MkdirTemp("", "kr")
	must(t, err)
	defer os.RemoveAll(short)
	l, err := net.Listen("unix", filepath.Join(short, "s"))
	must(t, err)
	defer l.Close()
	must(t, os.Symlink(filepath.Join(short, "s"), at("socket")))
	want["socket"] = ErrSocket
	must(t, os.Mkdir(at("open-dir"), 0o700))
	write(t, at("open-dir/inside"), "x")
	must(t, os.Chmod(at("open-dir"), 0o777))
	want["open-dir"] = errors.New("mode 0777 lets others")
	if os.Geteuid() == 0 {
		write(t, at("foreign"), "x")
		must(t, os.Chown(at("foreign"), 12345, 12345))
		want["foreign"] = ErrForeign
		must(t, os.Mkdir(at("foreign-dir"), 0o700))
		write(t, at("foreign-dir/inside"), "x")
		must(t, os.Chown(at("foreign-dir"), 12345, 12345))
		want["foreign-dir"] = ErrForeign
	} else {
		write(t, at("locked"), "x")
		must(t, os.Chmod(at("locked"), 0))
		want["locked"] = ErrUnreadable
		must(t, os.Symlink("/etc/passwd", at("roots"))) // root's are welcome
	}
	deep := strings.Repeat("deep/", DefaultMaxDepth+1)
	must(t, os.MkdirAll(at(deep), 0o700))
	write(t, at(deep+"inside"), "x")
	want[strings.TrimSuffix(deep, "/")] = errors.New("directories deep")

	good := []string{"key", "no\xff\xfeutf8", "new\nline", "id_dir.pub/key", "a/b/c/d/key", "-rf", strings.Repeat("n", 255)}
	for _, name := range good {
		must(t, os.MkdirAll(filepath.Dir(at(name)), 0o700))
		write(t, at(name), "good "+name)
	}
	elsewhere := filepath.Join(t.TempDir(), "dotfile")
	write(t, elsewhere, "good linked")
	must(t, os.Symlink(elsewhere, at("linked")))
	good = append(good, "linked")

	start := time.Now()
	r := newRecorder()
	f := watch(t, Options{Dirs: []string{d}}, r)
	if took := time.Since(start); took > time.Minute {
		t.Errorf("the scan took %v", took)
	}
	for _, name := range good {
		if !r.has(at(name), "good "+name) {
			t.Errorf("%q is not there: %v", name, reason(f, at(name)))
		}
	}
	for name, why := range want {
		got := reason(f, at(name))
		if got == nil || !errors.Is(got, why) && !strings.Contains(got.Error(), why.Error()) {
			t.Errorf("%q is skipped because %v; want %v", name, got, why)
		}
		if !r.lacks(at(name)) {
			t.Errorf("%q was handed out", name)
		}
	}
	for path := range r.there {
		if strings.HasSuffix(path, "inside") {
			t.Errorf("%q was reached", path)
		}
	}
	t.Logf("%d kinds of hostile entries skipped, %d good files found", len(want), len(good))
}

func TestTopDirectory(t *testing.T) {
	d := dir(t)
	write(t, filepath.Join(d, "key"), "x")
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(d, link))
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "x")
	bad := dir(t)
	write(t, filepath.Join(bad, "key"), "x")
	must(t, os.Chmod(bad, 0o770))

	r := newRecorder()
	f := watch(t, Options{Dirs: []string{link, link + "/.", file, bad}}, r)
	if got := slices.Collect(maps.Keys(r.there)); !slices.Equal(got, []string{filepath.Join(link, "key")}) {
		t.Errorf("found %q, want the linked directory's file once", got)
	}
	for path, want := range map[string]string{file: "not a directory", bad: "chmod 700"} {
		if got := reason(f, path); got == nil || !strings.Contains(got.Error(), want) {
			t.Errorf("%s: skipped because %v, want %q", path, got, want)
		}
	}
}

func TestUnchangedFilesAreNotShownAgain(t *testing.T) {
	d := dir(t)
	key := filepath.Join(d, "key")
	write(t, key, "1")
	r := newRecorder()
	f := watch(t, Options{Dirs: []string{d}}, r)
	must(t, os.Chtimes(key, time.Time{}, time.Now().Add(-time.Hour)))
	write(t, filepath.Join(d, "tmp"), "1")
	must(t, os.Rename(filepath.Join(d, "tmp"), key)) // another file, the same contents
	must(t, f.Rescan(t.Context()))
	must(t, f.Rescan(t.Context()))
	if n := r.count(key); n != 1 {
		t.Errorf("shown %d times", n)
	}
	for _, data := range r.lent {
		if !bytes.Equal(data, make([]byte, len(data))) {
			t.Errorf("what was lent still reads %q", data)
		}
	}
}

// A second write within the clock's tick leaves size and times as they were.
func TestWriteWithinOneTick(t *testing.T) {
	d := dir(t)
	key := filepath.Join(d, "key")
	r := newRecorder()
	f := watch(t, Options{Dirs: []string{d}}, r)
	for i := range 300 {
		text := fmt.Sprintf("%04d", i)
		write(t, key, text)
		must(t, f.Rescan(t.Context()))
		if !r.has(key, text) {
			t.Fatalf("write %d was missed", i)
		}
	}
}

func TestReasonsAreLoggedOnce(t *testing.T) {
	d := dir(t)
	for i := range maxSkipLines + 5 {
		must(t, unix.Mkfifo(filepath.Join(d, fmt.Sprintf("a_fifo%02d", i)), 0o600))
		write(t, filepath.Join(d, fmt.Sprintf("bad%02d", i)), "x")
	}
	write(t, filepath.Join(d, "known_hosts"), "x")
	var log bytes.Buffer
	r := newRecorder()
	r.load = func(f File, _ []byte) error {
		if strings.Contains(f.Path, "bad") {
			return errors.New("bad: " + f.Path)
		}
		return ErrNotMine
	}
	f := watch(t, Options{Dirs: []string{d}, Log: slog.New(slog.NewTextHandler(&log, nil))}, r)
	must(t, f.Rescan(t.Context()))
	if n := strings.Count(log.String(), "\n"); n != maxSkipLines+1 || !strings.Contains(log.String(), "files=25") || strings.Contains(log.String(), "known_hosts") {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
	for _, s := range f.Skipped() {
		if s.Ordinary != (filepath.Base(s.Path) == "known_hosts") {
			t.Errorf("%+v", s)
		}
	}
}

func TestCapOnFiles(t *testing.T) {
	d := dir(t)
	for i := range 50 {
		write(t, filepath.Join(d, fmt.Sprint(i)), "x")
	}
	r := newRecorder()
	f := watch(t, Options{Dirs: []string{d}, MaxFiles: 20}, r)
	if len(r.there) != 20 || reason(f, d) == nil {
		t.Errorf("%d files, %v", len(r.there), reason(f, d))
	}
}

func TestConsumersDoNotDisturbEachOther(t *testing.T) {
	d := dir(t)
	write(t, filepath.Join(d, "bad"), "bad")
	write(t, filepath.Join(d, "good"), "good")
	panics, r := newRecorder(), newRecorder()
	panics.load = func(_ File, data []byte) error { return fmt.Errorf("%c", data[9]) }
	r.load = func(f File, _ []byte) error {
		if filepath.Base(f.Path) == "bad" {
			return ErrNotMine
		}
		return nil
	}
	f := watch(t, Options{Dirs: []string{d}}, panics, r)
	if !r.has(filepath.Join(d, "good"), "good") || reason(f, filepath.Join(d, "good")) != nil {
		t.Errorf("the good file: %v", reason(f, filepath.Join(d, "good")))
	}
	if got := reason(f, filepath.Join(d, "bad")); got == nil || !strings.Contains(got.Error(), "cannot be understood") {
		t.Errorf("the bad file: %v", got)
	}
}

func TestRead(t *testing.T) {
	d := dir(t)
	key := filepath.Join(d, "key")
	write(t, key, "secret")
	var lent []byte
	err := Read(key, 0, func(f File, data []byte) error {
		if string(data) != "secret" || f.Path != key || f.Mode != 0o600 || f.ID.Size != 6 {
			t.Errorf("read %q, %+v", data, f)
		}
		st, err := Stat(key)
		if err != nil || st != f {
			t.Errorf("Stat says %+v, %v", st, err)
		}
		lent = data
		return ErrBusy // the function's own: not a reason to read again
	})
	if !errors.Is(err, ErrBusy) || lent == nil {
		t.Errorf("error %v", err)
	}
	must(t, unix.Mkfifo(filepath.Join(d, "fifo"), 0o600))
	for path, want := range map[string]error{
		filepath.Join(d, "none"): ErrGone, filepath.Join(d, "fifo"): ErrPipe, d: ErrDirectory, "/dev/zero": ErrDevice,
	} {
		if err := Read(path, 0, func(File, []byte) error { return nil }); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	if err := Read(key, 5, func(File, []byte) error { return nil }); !errors.Is(err, ErrTooLarge) {
		t.Errorf("over the limit: %v", err)
	}
}

func BenchmarkFirstScan1000(b *testing.B) {
	d := b.TempDir()
	if err := os.Chmod(d, 0o700); err != nil {
		b.Fatal(err)
	}
	for i := range 1000 {
		if err := os.WriteFile(filepath.Join(d, fmt.Sprintf("key%04d", i)), make([]byte, 500), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		ctx, cancel := context.WithCancel(context.Background())
		f, err := Watch(ctx, Options{Dirs: []string{d}, Log: quiet()}, newRecorder())
		if err != nil {
			b.Fatal(err)
		}
		cancel()
		<-f.Done()
	}
}
