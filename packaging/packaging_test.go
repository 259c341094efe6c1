// Package packaging tests what is installed, with the programs that
// distributions check it with.
package packaging

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/keyringd/keyringd/internal/bustest"
)

// built is where TestMain builds the programs, and installs them.
var built string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kr")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	built = dir
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", filepath.Join(dir, "bin")+"/",
		"github.com/keyringd/keyringd/cmd/keyringd", "github.com/keyringd/keyringd/cmd/keyringctl")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building keyringd: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// run runs a program in the module's root and returns what it printed; a
// failure ends the test.
func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// module builds the PKCS #11 module beside the programs.
var module = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("make", "-s", "-C", "../pkcs11/module", "OUT="+filepath.Join(built, "bin/keyringd-pkcs11.so")).CombinedOutput()
	return string(out), err
})

// programs is a folder with the programs as `make core` leaves them.
func programs(t *testing.T) string {
	t.Helper()
	bustest.Need(t, "cc")
	if out, err := module(); err != nil {
		t.Fatalf("pkcs11/module: %v\n%s", err, out)
	}
	return filepath.Join(built, "bin")
}

// allPrograms has the window, too, which takes minutes to build: that of the
// checkout, which `make build` has left there.
func allPrograms(t *testing.T) string {
	t.Helper()
	ui, err := os.ReadFile("../bin/keyring-ui")
	if err != nil {
		bustest.Missing(t, "the window, which make build builds: "+err.Error())
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(programs(t))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "keyring-ui"), ui, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

var installed = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("scripts/install.sh")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "BIN="+filepath.Join(built, "bin"), "PREFIX="+filepath.Join(built, "p"), "DESTDIR=")
	out, err := cmd.CombinedOutput()
	return string(out), err
})

// install installs below a folder of its own, and returns the prefix.
func install(t *testing.T) string {
	t.Helper()
	programs(t)
	if out, err := installed(); err != nil {
		t.Fatalf("scripts/install.sh: %v\n%s", err, out)
	}
	return filepath.Join(built, "p")
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		t.Fatalf("%s: nothing there (%v)", pattern, err)
	}
	return found
}

func TestUnits(t *testing.T) {
	bustest.Need(t, "systemd-analyze")
	bustest.Need(t, "man")
	prefix := install(t)
	units := glob(t, prefix+"/lib/systemd/user/keyringd*")
	if len(units) != 4 {
		t.Errorf("%d units", len(units))
	}
	// The manual is looked for, too.
	env := []string{"XDG_RUNTIME_DIR=" + t.TempDir(), "MANPATH=" + prefix + "/share/man"}
	if out := run(t, env, "systemd-analyze", append([]string{"--user", "--man=yes", "verify"}, units...)...); out != "" {
		t.Errorf("systemd-analyze verify:\n%s", out)
	}
	for _, socket := range []string{"ssh", "pkcs11", "control"} {
		text, err := os.ReadFile(prefix + "/lib/systemd/user/keyringd-" + socket + ".socket")
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"FileDescriptorName=" + socket, "SocketMode=0600", "DirectoryMode=0700", "Backlog=128", "Service=keyringd.service"} {
			if !strings.Contains(string(text), want+"\n") {
				t.Errorf("keyringd-%s.socket has no %s", socket, want)
			}
		}
	}
	service, err := os.ReadFile(prefix + "/lib/systemd/user/keyringd.service")
	if err != nil {
		t.Fatal(err)
	}
	// It ends its own children, and is not given up at once with its sockets; and
	// see docs/decisions/0024.
	if !strings.Contains(string(service), "KillMode=mixed\n") || !strings.Contains(string(service), "StartLimitBurst=20\n") || strings.Contains(string(service), "FileDescriptorStore") {
		t.Errorf("keyringd.service:\n%s", service)
	}
	// What would hide the TPM, or take the group that may use it.
	if bad := regexp.MustCompile(`(?m)^(PrivateDevices|PrivateUsers|Protect\w+|PrivateTmp|MemoryDenyWriteExecute)=`).FindAll(service, -1); bad != nil {
		t.Errorf("keyringd.service has %q", bad)
	}
}

func TestDesktopFiles(t *testing.T) {
	bustest.Need(t, "desktop-file-validate")
	for _, file := range append(glob(t, "desktop/*.desktop"), glob(t, "autostart/*.desktop")...) {
		run(t, nil, "desktop-file-validate", filepath.Join("packaging", file))
	}
}

func TestMetainfo(t *testing.T) {
	bustest.Need(t, "appstreamcli")
	run(t, nil, "appstreamcli", "validate", "--no-net", "--pedantic", "packaging/desktop/io.github.keyringd.metainfo.xml")
}

// TestManual formats every page, those of each keyringctl command included.
func TestManual(t *testing.T) {
	bustest.Need(t, "man")
	prefix := install(t)
	pages := glob(t, prefix+"/share/man/man?/*.gz")
	if len(pages) < 20 {
		t.Errorf("only %d pages", len(pages))
	}
	pages = append(pages, "docs/man/keyring-ui.1")
	for _, page := range pages {
		if !filepath.IsAbs(page) {
			page = filepath.Join("..", page)
		}
		cmd := exec.CommandContext(t.Context(), "man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANROFFSEQ=", "MANWIDTH=80")
		var said strings.Builder
		cmd.Stderr = &said
		if err := cmd.Run(); err != nil || said.Len() > 0 {
			t.Errorf("%s: %v\n%s", filepath.Base(page), err, said.String())
		}
	}
}

// TestCompletions has each shell parse its own.
func TestCompletions(t *testing.T) {
	prefix := install(t)
	for shell, file := range map[string]string{
		"bash": "bash-completion/completions/keyringctl", "zsh": "zsh/vendor-completions/_keyringctl", "fish": "fish/vendor_completions.d/keyringctl.fish",
	} {
		t.Run(shell, func(t *testing.T) {
			path := filepath.Join(prefix, "share", file)
			if st, err := os.Stat(path); err != nil || st.Size() < 1000 {
				t.Fatalf("%s: %v", path, err)
			}
			bustest.Need(t, shell)
			run(t, nil, shell, "-n", path)
		})
	}
}

// TestPrefix looks for files that name a folder which they were not installed
// to.
func TestPrefix(t *testing.T) {
	prefix := install(t)
	for _, name := range []string{"lib/systemd/user/keyringd.service", "share/dbus-1/services/io.github.keyringd.service", "share/keyringd/autostart/keyringd.desktop"} {
		text, err := os.ReadFile(filepath.Join(prefix, name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "/usr/bin") || !strings.Contains(string(text), prefix+"/bin/keyringd") {
			t.Errorf("%s:\n%s", name, text)
		}
	}
	module, err := os.ReadFile(prefix + "/share/p11-kit/modules/keyringd.module")
	if err != nil || !strings.Contains(string(module), "module: "+prefix+"/lib/pkcs11/keyringd-pkcs11.so\n") {
		t.Errorf("keyringd.module: %v\n%s", err, module)
	}
}

// TestDebian makes the packages, asks lintian, and puts them into an empty root
// in which a user has keys: they come, are upgraded and go, and the keys stay.
func TestDebian(t *testing.T) {
	bustest.Need(t, "dpkg")
	bustest.Need(t, "lintian")
	dist := t.TempDir()
	env := []string{"BIN=" + allPrograms(t), "DIST=" + dist}
	// Of a tree without tags, a day apart, whose hashes sort the other way round.
	run(t, append(env, "VERSION=fff1234", "SOURCE_DATE_EPOCH=1700000000"), "scripts/package.sh", "deb")
	older, oldVersion := t.TempDir(), debVersion(t, glob(t, dist+"/keyringd_*.deb")[0])
	if err := os.CopyFS(older, os.DirFS(dist)); err != nil {
		t.Fatal(err)
	}
	run(t, append(env, "VERSION=0001234", "SOURCE_DATE_EPOCH=1700086400"), "scripts/package.sh", "deb")
	debs := glob(t, dist+"/*.deb")
	if len(debs) != 3 {
		t.Errorf("packages, with those of before: %q", debs)
	}
	run(t, nil, "dpkg", "--compare-versions", oldVersion, "lt", debVersion(t, glob(t, dist+"/keyringd_*.deb")[0]))
	run(t, nil, "dpkg", "--compare-versions", debVersion(t, glob(t, dist+"/keyringd_*.deb")[0]), "lt", "0.1.0")
	// What it recommends is installed with it: another keyring must not be.
	if list := run(t, nil, "dpkg-deb", "-f", glob(t, dist+"/keyringd_*.deb")[0], "Depends", "Recommends"); strings.Contains(list, "gnome-keyring") || !strings.Contains(list, "libkeyringd-pkcs11") {
		t.Errorf("keyringd brings along: %s", list)
	}
	cmd := exec.CommandContext(t.Context(), "lintian", append([]string{"--fail-on", "error", "--allow-root"}, debs...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("lintian: %v\n%s", err, out)
	}
	root := t.TempDir()
	if os.Getuid() != 0 { // dpkg gives files to root
		for _, deb := range debs {
			run(t, nil, "dpkg-deb", "-x", deb, root)
		}
		wantInstalled(t, root)
		return
	}
	for _, dir := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates", "home/mia/.local/share/keyringd", "home/mia/.config/keyringd"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"var/lib/dpkg/status", "home/mia/.local/share/keyringd/keyrings.db", "home/mia/.config/keyringd/config.toml"} {
		if err := os.WriteFile(filepath.Join(root, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	home := files(t, filepath.Join(root, "home"))
	dpkg := func(args ...string) {
		t.Helper()
		run(t, nil, "dpkg", append([]string{"--root=" + root, "--force-depends", "--force-script-chrootless", "--log=/dev/null"}, args...)...)
	}
	dpkg(append([]string{"-i"}, glob(t, older+"/*.deb")...)...)
	wantInstalled(t, root)
	dpkg(append([]string{"-i"}, debs...)...)
	dpkg("--purge", "keyringd", "keyringd-ui", "libkeyringd-pkcs11")
	if left := files(t, filepath.Join(root, "usr")); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
	if now := files(t, filepath.Join(root, "home")); now != home {
		t.Errorf("the user had\n%s\nand has\n%s", home, now)
	}
}

func debVersion(t *testing.T, deb string) string {
	t.Helper()
	return strings.TrimSpace(run(t, nil, "dpkg-deb", "-f", deb, "Version"))
}

// TestMakeByANewcomer reads what make would do on a machine with nothing but Go:
// packages are built once their libraries are there, and root only copies.
func TestMakeByANewcomer(t *testing.T) {
	mine := []string{"MAKEFLAGS=", "MAKELEVEL="} // not of a make that runs the tests
	for _, target := range []string{"deb", "rpm", "archlinux", "package"} {
		if plan := run(t, mine, "make", "-n", target); !strings.HasPrefix(plan, "scripts/deps.sh build\n") {
			t.Errorf("make %s begins with\n%s", target, plan)
		}
	}
	if plan := run(t, mine, "make", "-n", "install"); strings.Contains(plan, "go build") || !strings.Contains(plan, "scripts/install.sh") {
		t.Errorf("make install would do\n%s", plan)
	}
	cmd := exec.CommandContext(t.Context(), "scripts/install.sh")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "BIN="+t.TempDir(), "PREFIX="+t.TempDir(), "DESTDIR=")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "make build") {
		t.Errorf("install without a build: %v\n%s", err, out)
	}
}

func wantInstalled(t *testing.T, root string) {
	t.Helper()
	for _, file := range []string{
		"usr/bin/keyringd", "usr/bin/keyringctl", "usr/bin/keyring-ui", "usr/share/p11-kit/modules/keyringd.module",
		"usr/lib/systemd/user/keyringd.service", "usr/share/dbus-1/services/io.github.keyringd.service",
		"usr/share/icons/hicolor/scalable/apps/io.github.keyringd.svg", "usr/share/doc/keyringd/copyright",
	} {
		if _, err := os.Stat(filepath.Join(root, file)); err != nil {
			t.Error(err)
		}
	}
	// Another keyring's file of that name is not overwritten by ours.
	if _, err := os.Stat(filepath.Join(root, "usr/share/dbus-1/services/org.freedesktop.secrets.service")); err == nil {
		t.Error("the package takes org.freedesktop.secrets without being asked")
	}
}

// files lists every file below a folder with its mode and size.
func files(t *testing.T, root string) string {
	t.Helper()
	var list strings.Builder
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			fmt.Fprintln(&list, path, info.Mode(), info.Size())
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return list.String()
}

// TestOtherPackages makes those for other systems, one kind twice: the same tree
// makes the same bytes.
func TestOtherPackages(t *testing.T) {
	bin := allPrograms(t)
	read := func(formats ...string) map[string]string {
		dist := t.TempDir()
		run(t, []string{"BIN=" + bin, "DIST=" + dist, "VERSION=v1.2.3", "SOURCE_DATE_EPOCH=1700000000"}, "scripts/package.sh", formats...)
		made := map[string]string{}
		for _, path := range glob(t, dist+"/*.*.*") {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			made[filepath.Base(path)] = string(data)
		}
		return made
	}
	first, second := read("rpm", "archlinux"), read("archlinux")
	if len(first) != 6 || len(second) != 3 {
		t.Errorf("%d and %d packages, want 6 and 3", len(first), len(second))
	}
	for name, data := range second {
		if first[name] != data {
			t.Errorf("%s is not the same the second time", name)
		}
	}
}
