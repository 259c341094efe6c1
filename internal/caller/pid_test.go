package caller

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestFromPID(t *testing.T) {
	alive := func() bool { return true }
	p := FromPID(os.Getpid(), 1234, alive)
	if p.UID != 1234 || p.PID != os.Getpid() || p.Program != self(t) || !strings.HasPrefix(p.Process, "caller.test (") {
		t.Errorf("%+v", p)
	}
	// A process whose connection is gone may be another one by now.
	if p := FromPID(os.Getpid(), 1234, func() bool { return false }); p.Program != "" || p.Process != "" || p.PID != os.Getpid() {
		t.Errorf("gone: %+v", p)
	}
	cmd := exec.Command(self(t), "-test.run=^$")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{cmd.Process.Pid, 0, -1} {
		if p := FromPID(pid, 7, alive); p.UID != 7 || p.Program != "" || p.Process != "" || p.PID != max(0, pid) {
			t.Errorf("%d: %+v", pid, p)
		}
	}
}
