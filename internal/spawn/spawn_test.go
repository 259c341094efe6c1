package spawn

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"testing"
)

func shell(t *testing.T, script string) (Process, *os.File) {
	t.Helper()
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	p, err := Local{}.Start(Command{Path: sh, Args: []string{"-c", script}, Env: []string{"A=1"}, Files: []*os.File{nil, w}})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return p, r
}

func TestEnds(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]string{"exit 0": "", "exit 3": "exit status 3", "kill -9 $$": "signal: killed"} {
		p, _ := shell(t, script)
		got := ""
		if err := p.Err(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
		p.Kill() // does nothing, to nobody
	}
	if _, err := (Local{}).Start(Command{Path: "/nonexistent"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no program: %v", err)
	}
}

// TestWhole: a program has its own environment, folder and input, and what it
// leaves behind ends with it.
func TestWhole(t *testing.T) {
	t.Parallel()
	p, out := shell(t, "echo $A $(pwd); cat; sleep 1000 & exit 0")
	text, err := io.ReadAll(out) // to the end of the last who has it
	if string(text) != "1 /\n" || err != nil {
		t.Errorf("it says %q: %v", text, err)
	}
	if err := p.Err(); err != nil {
		t.Error(err)
	}
}

// TestStopped: a program that is stopped hears that it is to end.
func TestStopped(t *testing.T) {
	t.Parallel()
	p, out := shell(t, "echo ready; kill -STOP $$; exec sleep 1000")
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	p.End()
	var exit *ExitError
	if err := p.Err(); !errors.As(err, &exit) || !exit.Status.Signaled() {
		t.Errorf("it ended with %v", err)
	}
}
