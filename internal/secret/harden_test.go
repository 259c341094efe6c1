package secret

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// childEnv makes the test binary play another process: "victim", "victim-soft"
// or "reader PID" or "limit".
const childEnv = "KEYRINGD_SECRET_TEST_CHILD"

func TestMain(m *testing.M) {
	role, arg, _ := strings.Cut(os.Getenv(childEnv), " ")
	switch role {
	case "":
		os.Exit(m.Run())
	case "victim", "victim-soft":
		b := Copy([]byte(canary))
		if role == "victim" {
			if err := Harden(); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
		}
		var core unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_CORE, &core)
		dumpable, _ := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		fmt.Println("ready", core.Max == 0 && core.Cur == 0, dumpable)
		_, _ = io.Copy(io.Discard, os.Stdin)
		b.Wipe()
	case "reader":
		readVictim(arg)
	case "limit":
		exhaustLocked()
	}
	os.Exit(0)
}

// readVictim prints what another process of the same user can get at.
func readVictim(arg string) {
	pid, _ := strconv.Atoi(arg)
	for _, f := range []string{"mem", "environ", "maps"} {
		h, err := os.Open(filepath.Join("/proc", arg, f))
		if err == nil && f != "mem" {
			_, err = io.ReadAll(h)
		}
		fmt.Println(f, err == nil)
	}
	_, err := os.ReadDir(filepath.Join("/proc", arg, "fd"))
	fmt.Println("fd", err == nil)
	buf := make([]byte, 1)
	_, err = unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &buf[0], Len: 1}}, []unix.RemoteIovec{{Base: 0x400000, Len: 1}}, 0)
	fmt.Println("process_vm_readv", !errors.Is(err, unix.EPERM))
	err = unix.PtraceSeize(pid)
	fmt.Println("ptrace", err == nil)
}

// exhaustLocked allocates more than may be locked.
func exhaustLocked() {
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 2 * uint64(pageSize), Max: 2 * uint64(pageSize)}); err != nil {
		fmt.Println(err)
		return
	}
	first := Locked()
	var all []Bytes
	for range 64 {
		all = append(all, Copy([]byte(strings.Repeat(canary, 100))))
	}
	same := true
	for _, b := range all {
		same = same && b.Equal(all[0])
		b.Use(func(p []byte) { same = same && strings.HasPrefix(string(p), canary) })
	}
	fmt.Println(first, Locked(), same)
}

// child starts the test binary in a role, as nobody when the test runs as root:
// root may read everything.
func child(t *testing.T, role string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	if os.Getuid() == 0 {
		// The test binary lies where only root can go.
		dir, err := os.MkdirTemp("", "kr")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		b, err := os.ReadFile(exe)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "child"), b, 0o755)
		}
		if err == nil {
			err = os.Chmod(dir, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		cmd = exec.Command(filepath.Join(dir, "child"))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	cmd.Dir = "/"
	cmd.Env = []string{childEnv + "=" + role, "CANARY=" + canary}
	return cmd
}

func TestHardenHidesMemory(t *testing.T) {
	for _, role := range []string{"victim-soft", "victim"} {
		t.Run(role, func(t *testing.T) {
			v := child(t, role)
			in, _ := v.StdinPipe()
			out, _ := v.StdoutPipe()
			if err := v.Start(); err != nil {
				t.Fatal(err)
			}
			defer v.Wait()
			defer in.Close()
			line, err := bufio.NewReader(out).ReadString('\n')
			if err != nil || !strings.HasPrefix(line, "ready") {
				t.Fatalf("victim: %q %v", line, err)
			}
			if role == "victim" && line != "ready true 0\n" {
				t.Errorf("core files or dumping are not off: %q", line)
			}
			got, err := child(t, fmt.Sprint("reader ", v.Process.Pid)).CombinedOutput()
			if err != nil {
				t.Fatalf("reader: %v %s", err, got)
			}
			lines := strings.Split(strings.TrimSpace(string(got)), "\n")
			if len(lines) != 6 {
				t.Fatalf("reader says %q", got)
			}
			open := strings.Count(string(got), " true")
			switch {
			case role == "victim" && open > 0:
				t.Errorf("another process of the user can read:\n%s", got)
			case role == "victim-soft" && open == 0:
				// Where the system itself forbids tracing, the test shows nothing.
				t.Log("without Harden nothing can be read either")
			}
		})
	}
}

func TestLimitOfLockedMemory(t *testing.T) {
	got, err := child(t, "limit").CombinedOutput()
	if err != nil || string(got) != "true false true\n" {
		t.Errorf("first locked, then locked, all readable: %q %v", got, err)
	}
}
