package outside_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keyringd/keyringd/internal/atomicfile"
	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/internal/confine"
	"github.com/keyringd/keyringd/internal/outside"
	"github.com/keyringd/keyringd/internal/spawn"
)

const outsideArgument = "outside-for-tests"

// TestMain makes this program all three: the test, the daemon in its sandbox,
// and the process outside.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 2 && os.Args[1] == outsideArgument:
		err := outside.Serve(os.NewFile(3, "inside"), os.Stdin, map[string]outside.Filter{"small": small}, map[string]outside.Check{
			"x": {Is: onlyX}, "harmless": {Is: onlyX, Was: anything, Suffix: ".h", Hidden: true},
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case len(os.Args) == 3 && os.Args[1] == "inside":
		inside(os.Args[2])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func small(to io.Writer, from io.Reader, allow string) error {
	b := make([]byte, 1)
	for {
		if _, err := from.Read(b); err != nil {
			return nil
		}
		if !strings.Contains(allow, string(b)) {
			return errors.New("no")
		}
		if _, err := to.Write(b); err != nil {
			return nil
		}
	}
}

func anything([]byte) error { return nil }

func onlyX(data []byte) error {
	if strings.Trim(string(data), "x") != "" {
		return errors.New("something else")
	}
	return nil
}

func program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func rules(t testing.TB) []outside.Rule {
	sh, cat := program(t, "sh"), program(t, "cat")
	return []outside.Rule{
		{Kind: "shell", Paths: []string{sh}, Args: [][]string{{"-c", "echo $A $B; exit 3"}, {"-c", "sleep 1000 & sleep 1000"}}, Env: []string{"A=1"}, Extra: []string{"B=[0-9]"}, Files: 3},
		{Kind: "bytes", Paths: []string{sh}, Args: [][]string{{"-c", `printf %s "$A$1"`, "sh", "ö\xff\xf6"}}, Env: []string{"A=\xe9"}, Files: 3},
		{Kind: "asks", Paths: []string{sh}, Text: true, Files: 3},
		{Kind: "cat", Paths: []string{cat}, Args: [][]string{{}}, Files: 3},
		{Kind: "filtered", Paths: []string{cat}, Args: [][]string{{}}, Filter: "small", Allow: "ab", Files: 3},
	}
}

func start(t *testing.T) *outside.Process { return startIn(t, "") }

// startIn has a home, and folders in which files may be put down.
func startIn(t *testing.T, home string, folders ...string) *outside.Process {
	t.Helper()
	o, err := outside.Start(outside.Orders{Rules: rules(t), Folders: folders, Home: home}, outsideArgument, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

// run runs a program to its end with that input.
func run(t *testing.T, o *outside.Process, c spawn.Command, input string) (string, error) {
	t.Helper()
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer outR.Close()
	c.Files = []*os.File{inR, outW}
	p, err := o.Start(c)
	inR.Close()
	outW.Close()
	if err != nil {
		inW.Close()
		return "", err
	}
	_, _ = io.WriteString(inW, input)
	inW.Close()
	b, err := io.ReadAll(outR)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), p.Err()
}

func TestProgramsOfTheRules(t *testing.T) {
	t.Parallel()
	o := start(t)
	sh, cat := program(t, "sh"), program(t, "cat")
	say := []string{"-c", "echo $A $B; exit 3"}
	for _, test := range []struct {
		name  string
		c     spawn.Command
		input string
		want  string
		err   string
	}{
		{"as told", spawn.Command{Kind: "shell", Path: sh, Args: say, Env: []string{"A=1", "B=2"}}, "", "1 2\n", "exit status 3"},
		{"the environment is the rule's", spawn.Command{Kind: "shell", Path: sh, Args: say}, "", "1\n", "exit status 3"},
		{"what is not UTF-8", spawn.Command{Kind: "bytes", Path: sh, Args: []string{"-c", `printf %s "$A$1"`, "sh", "ö\xff\xf6"}}, "", "\xe9ö\xff\xf6", ""},
		{"input", spawn.Command{Kind: "cat", Path: cat}, "hello", "hello", ""},
		{"another program", spawn.Command{Kind: "cat", Path: "/bin/false"}, "", "", "was not among"},
		{"another's kind", spawn.Command{Kind: "cat", Path: sh, Args: say}, "", "", "was not among"},
		{"other arguments", spawn.Command{Kind: "shell", Path: sh, Args: []string{"-c", "id"}}, "", "", "arguments"},
		{"an option as text", spawn.Command{Kind: "asks", Path: sh, Args: []string{"-c"}}, "", "", "arguments"},
		{"two texts", spawn.Command{Kind: "asks", Path: sh, Args: []string{"a", "b"}}, "", "", "arguments"},
		{"another variable", spawn.Command{Kind: "shell", Path: sh, Args: say, Env: []string{"LD_PRELOAD=/x"}}, "", "", "environment"},
		{"a variable's other value", spawn.Command{Kind: "shell", Path: sh, Args: say, Env: []string{"B=x"}}, "", "", "environment"},
		{"filtered", spawn.Command{Kind: "filtered", Path: cat}, "abba", "abba", ""},
		{"stopped by the filter", spawn.Command{Kind: "filtered", Path: cat}, "abXba", "ab", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := run(t, o, test.c, test.input)
			if test.name == "stopped by the filter" {
				// Whether it is killed before it has passed on what came first is open.
				if strings.ContainsAny(got, "X") || len(got) > 2 {
					t.Errorf("got %q", got)
				}
				return
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("error %v, want %q", err, test.err)
			}
		})
	}
}

func TestEndOfAProgram(t *testing.T) {
	t.Parallel()
	o := start(t)
	c := spawn.Command{Kind: "shell", Path: program(t, "sh"), Args: []string{"-c", "sleep 1000 & sleep 1000"}}
	for name, end := range map[string]func(spawn.Process){
		"end": spawn.Process.End, "kill": spawn.Process.Kill,
	} {
		p, err := o.Start(c)
		if err != nil {
			t.Fatal(err)
		}
		end(p)
		var exit *spawn.ExitError
		if err := p.Err(); !errors.As(err, &exit) || !exit.Status.Signaled() {
			t.Errorf("%s: %v", name, err)
		}
		end(p) // does nothing
	}
	p, err := o.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(o.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.Err(); !errors.Is(err, outside.ErrGone) {
		t.Errorf("after the end of the process outside: %v", err)
	}
	<-o.Done()
	if _, err := o.Start(c); !errors.Is(err, outside.ErrGone) {
		t.Errorf("started afterwards: %v", err)
	}
	if _, ok := o.Look(os.Getpid()); ok {
		t.Error("looked afterwards")
	}
}

func TestLook(t *testing.T) {
	t.Parallel()
	o := start(t)
	want, ok := caller.Look(os.Getpid())
	if !ok || want.Program == "" {
		t.Fatalf("this process looks like %+v", want)
	}
	if got, ok := o.Look(os.Getpid()); !ok || got != want {
		t.Errorf("seen as %+v, want %+v", got, want)
	}
	if got, ok := o.Look(1 << 30); ok {
		t.Errorf("nobody is seen as %+v", got)
	}
}

func TestPut(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	hidden, keys := filepath.Join(dir, ".hidden"), filepath.Join(dir, ".keys")
	for _, d := range []string{hidden, keys} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"same": "xx", "other": "abc", "others.h": "by others"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(hidden, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	o := startIn(t, dir, keys)
	for _, test := range []struct {
		name, kind, path, data string
		replace                bool
		err                    error
	}{
		{"new", "x", "new", "xxx", false, nil},
		{"in a key folder", "x", ".keys/.new", "x", false, nil},
		{"there already", "x", "same", "x", false, fs.ErrExist},
		{"replaced by its like", "x", "same", "x", true, nil},
		{"replaces another", "x", "other", "x", true, fs.ErrPermission},
		{"hidden", "x", ".profile", "x", false, fs.ErrPermission},
		{"in a hidden folder", "x", ".hidden/file", "x", false, fs.ErrPermission},
		{"in a hidden folder by another name", "x", "link/file", "x", false, fs.ErrPermission},
		{"out of a key folder", "x", ".keys/../.profile", "x", false, fs.ErrPermission},
		{"by a name that is not UTF-8", "x", "h\xf6me \xff", "x", false, nil},
		{"harmless anywhere", "harmless", ".hidden/file.h", "x", false, nil},
		{"harmless with another name", "harmless", ".hidden/file", "x", false, fs.ErrPermission},
		{"harmless, and written by others", "harmless", "others.h", "x", true, nil},
		{"of no kind", "y", "y", "x", false, fs.ErrPermission},
		{"no folder", "x", "none/x", "x", false, fs.ErrNotExist},
	} {
		path := dir + "/" + test.path
		err := o.Put([]string{test.kind}, atomicfile.File{Path: path, Data: []byte(test.data), Perm: 0o600, Replace: test.replace})
		if !errors.Is(err, test.err) {
			t.Errorf("%s: error %v, want %v", test.name, err, test.err)
		}
		got, err := os.ReadFile(path)
		if test.err == nil && string(got) != test.data {
			t.Errorf("%s: %q was written: %v", test.name, got, err)
		}
	}
	// Where nobody's programs look, a folder may be called what it likes.
	away := startIn(t, keys)
	for path, want := range map[string]error{hidden + "/y": nil, hidden + "/.y": fs.ErrPermission} {
		if err := away.Put([]string{"x"}, atomicfile.File{Path: path, Data: []byte("x"), Perm: 0o600}); !errors.Is(err, want) {
			t.Errorf("%s out of the home: %v", path, err)
		}
	}
	err = o.Put([]string{"x"}, atomicfile.File{Path: dir + "/bad", Data: []byte("evil"), Perm: 0o777})
	if err == nil || !strings.Contains(err.Error(), "something else") {
		t.Errorf("what it is not: %v", err)
	}
	if got, err := os.ReadFile(dir + "/other"); string(got) != "abc" {
		t.Errorf("the other file is %q now: %v", got, err)
	}
}

// TestInside has a process that is in a domain try what it may and may not, with
// a process outside beside it.
func TestInside(t *testing.T) {
	t.Parallel()
	if _, err := confine.Version(); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	for _, d := range []string{"mine", "other"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Skip(err)
	}
	defer l.Close()
	// An abstract socket of a process outside of the domain.
	name := fmt.Sprintf("@keyringd-test-%d", os.Getpid())
	a, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "inside", dir)
	cmd.Env = append(os.Environ(), "TCP="+l.Addr().String(), "ABSTRACT="+name)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	want := `read: ok
write mine: ok
rename mine: ok
write other: denied
exec: denied
outside: ok
look here: unknown
look outside: known
signal: denied
`
	version, _ := confine.Version()
	if version >= 6 {
		want += "abstract: denied\n"
	}
	if version >= 4 {
		want += "tcp: denied\n"
	}
	if version < 6 {
		want = strings.Replace(want, "signal: denied\n", "", 1)
	}
	if got := out.String(); got != want {
		t.Errorf("inside:\n%s\nwant:\n%s", got, want)
	}
}

func inside(dir string) {
	say := func(what string, err error) {
		switch {
		case err == nil:
			fmt.Println(what + ": ok")
		case errors.Is(err, fs.ErrPermission):
			fmt.Println(what + ": denied")
		default:
			fmt.Println(what+":", err)
		}
	}
	cat, err := exec.LookPath("cat")
	if err != nil {
		panic(err)
	}
	o, err := outside.Start(outside.Orders{Rules: []outside.Rule{{Kind: "cat", Paths: []string{cat}, Args: [][]string{{}}, Files: 3}}}, outsideArgument, nil)
	if err != nil {
		panic(err)
	}
	defer o.Close()
	top, err := confine.TopBut("dev")
	if err != nil {
		panic(err)
	}
	d := confine.Domain{Read: top, Write: []string{filepath.Join(dir, "mine"), filepath.Join(dir, "missing")}, Files: []string{"/dev/null"}}
	if err := d.Enter(); err != nil {
		panic(err)
	}
	_, err = os.ReadFile("/etc/passwd")
	say("read", err)
	mine := filepath.Join(dir, "mine", "a")
	say("write mine", os.WriteFile(mine, []byte("x"), 0o600))
	say("rename mine", os.Rename(mine, mine+"b"))
	say("write other", os.WriteFile(filepath.Join(dir, "other", "a"), []byte("x"), 0o600))
	say("exec", exec.Command(cat, "/dev/null").Run())
	p, err := o.Start(spawn.Command{Kind: "cat", Path: cat})
	if err == nil {
		err = p.Err()
	}
	say("outside", err)
	known := map[bool]string{true: "known", false: "unknown"}
	s, _ := caller.Look(os.Getppid())
	fmt.Println("look here:", known[s.Program != ""])
	s, _ = o.Look(os.Getppid())
	fmt.Println("look outside:", known[s.Program != ""])
	version, _ := confine.Version()
	if version >= 6 {
		say("signal", syscall.Kill(os.Getppid(), 0))
		_, err = net.Dial("unix", os.Getenv("ABSTRACT"))
		say("abstract", err)
	}
	if version >= 4 {
		_, err = net.Dial("tcp", os.Getenv("TCP"))
		say("tcp", err)
	}
}
