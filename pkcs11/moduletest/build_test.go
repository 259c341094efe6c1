package moduletest

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestShippedFile holds the module to what a host process can expect: a small
// library that needs libc only, shows three functions, and can be unloaded.
func TestShippedFile(t *testing.T) {
	path := module(t)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() >= 100<<10 {
		t.Errorf("the module has %d bytes, and must stay below 100 KiB", info.Size())
	}
	t.Logf("%d bytes", info.Size())

	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	libraries, err := f.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range libraries {
		if !strings.HasPrefix(l, "libc.") && !strings.HasPrefix(l, "libpthread.") {
			t.Errorf("it needs %s", l)
		}
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	var shown []string
	for _, s := range symbols {
		if s.Section != elf.SHN_UNDEF {
			shown = append(shown, s.Name)
		}
	}
	slices.Sort(shown)
	if want := []string{"C_GetFunctionList", "C_GetInterface", "C_GetInterfaceList"}; !slices.Equal(shown, want) {
		t.Errorf("it shows %q, want %q", shown, want)
	}
	const noDelete = 0x8 // DF_1_NODELETE
	if flags, err := f.DynValue(elf.DT_FLAGS_1); err == nil && len(flags) > 0 && flags[0]&noDelete != 0 {
		t.Error("it cannot be unloaded")
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_GNU_STACK && p.Flags&elf.PF_X != 0 {
			t.Error("its stack is executable")
		}
		if p.Type == elf.PT_LOAD && p.Flags&elf.PF_W != 0 && p.Flags&elf.PF_X != 0 {
			t.Error("memory of it is both writable and executable")
		}
	}
}

// TestC runs the module's C tests: the codec, hostile peers, forks, unloading, waiting.
func TestC(t *testing.T) {
	dir := t.TempDir()
	t.Log(makeModule(t, dir, "test"))
}

// TestCUnderSanitizers runs them again with AddressSanitizer and UBSan.
func TestCUnderSanitizers(t *testing.T) {
	dir := t.TempDir()
	t.Log(makeModule(t, dir, "asan"))
}

// TestSetuid: a program that runs with more rights than its caller goes to no
// daemon that the caller names.
func TestSetuid(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make another user's program root's")
	}
	h := newHost(t, newKeyringd(t))
	makeModule(t, h.dir, h.dir+"/bench")
	dir, err := os.MkdirTemp("", "kr")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{h.dir + "/bench", h.module} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	bench, module := filepath.Join(dir, "bench"), filepath.Join(dir, filepath.Base(h.module))
	h.run(bench, module, "1") // a signature, with the daemon of the environment
	for _, path := range []string{dir, bench} {
		if err := os.Chmod(path, 0o755|os.ModeSetuid); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(bench, module, "1")
	cmd.Env, cmd.Dir = h.env, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "found == 1") {
		t.Errorf("it signed, or did not come to look: %v\n%s", err, out)
	}
}

// measure runs the bench program and returns its numbers, in microseconds.
func (h *host) measure(bench, module string, args ...string) map[string]float64 {
	h.tb.Helper()
	numbers := map[string]float64{}
	for line := range strings.Lines(h.run(bench, append([]string{module}, args...)...)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			h.tb.Fatal(err)
		}
		numbers[name] = n
	}
	return numbers
}

// TestLoadsQuickly: every program that looks for tokens pays for this.
func TestLoadsQuickly(t *testing.T) {
	h := newHost(t, newKeyringd(t))
	makeModule(t, h.dir, h.dir+"/bench")
	n := h.measure(h.dir+"/bench", h.module)
	t.Logf("load and C_Initialize: %v µs at best, %v µs usually", n["load_best"], n["load_median"])
	if n["load_best"] > 1000 {
		t.Errorf("load and C_Initialize take %v µs, want 1000 at most", n["load_best"])
	}
}
