// Package keyringd_test holds the rules that the whole tree keeps: who may
// import whom (this file), and how the house is kept (house_test.go). The
// reasons are in docs/design.md.
package keyringd_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/keyringd/keyringd"

// own says, for each folder with Go code that is not only tests, which packages
// of this module it may import, and why no others. A folder without a row is a
// fault: whoever adds a package says here what it may know.
var own = []struct {
	folder  string
	imports []string
	because string
}{
	{"keyring", []string{"prompt", "internal/secret"},
		"the core knows no protocol, no device and no window; they know it"},
	{"prompt", []string{"internal/secret"},
		"asking has a vocabulary of its own, so that who asks knows no key and who answers knows no protocol"},
	{"prompt/pinentry", []string{"prompt", "internal/assuan", "internal/secret", "internal/spawn"},
		"it sees a question and returns an answer; it cannot reach keys"},
	{"cmd/keyring-ui", []string{"cmd/keyring-ui/ask", "cmd/keyring-ui/manager", "cmd/keyring-ui/promptui", "dbus/client", "prompt", "internal/secret"},
		"one window knows only how to ask, and cannot reach keys; the other, the manager, is a D-Bus client like any other"},
	{"cmd/keyring-ui/manager", []string{"cmd/keyring-ui/manager/config", "cmd/keyring-ui/promptui", "dbus/client", "internal/atomicfile", "internal/secret"},
		"the manager is a D-Bus client like any other, and looks like the window that asks; it opens no window itself"},
	{"cmd/keyring-ui/manager/config", []string{"internal/atomicfile"}, "a file is changed without knowing who reads it"},
	{"cmd/keyring-ui/ask", []string{"prompt", "internal/assuan", "internal/secret"},
		"it takes questions from a pipe and knows neither windows nor keys"},
	{"cmd/keyring-ui/promptui", []string{"cmd/keyring-ui/ask", "prompt", "internal/secret"},
		"the view is tested without a display: it opens no window and speaks no protocol"},
	{"tpm", []string{"tpm/attest", "tpm/keyfile", "tpm/link", "internal/emsa", "internal/secret"},
		"it is a library about TPMs; tpmkeys is where TPM and keyring meet"},
	{"tpm/attest", nil, "a statement is checked where there is no TPM"},
	{"tpm/keyfile", nil, "reading a key file needs no device and no user"},
	{"tpm/link", nil, "a channel carries bytes and knows nothing of what they mean"},
	{"tpm/swtpm", []string{"internal/spawn", "tpm/link"}, "running a software TPM needs no more than a channel to it"},
	{"tpmkeys", []string{"keyring", "sshkeys", "tpm", "tpm/attest", "tpm/keyfile", "internal/atomicfile", "internal/caller", "internal/folder", "internal/folder/pubfile", "internal/secret"},
		"it is where key files, TPM and keyring meet, and it speaks no protocol"},
	{"sshkeys", []string{"keyring", "internal/caller", "internal/emsa", "internal/folder", "internal/folder/pubfile", "internal/secret"},
		"ordinary keys need no TPM, and speak no protocol"},
	{"agent", []string{"keyring", "agent/knownhosts", "internal/caller", "internal/folder", "internal/folder/pubfile", "internal/listen", "internal/panicsite", "internal/secret"},
		"a front end knows the core only: never another front end, a device, a source of keys or a prompter; OpenSSH certificates are files beside keys, and only the agent shows them"},
	{"agent/knownhosts", nil, "who a host key belongs to is read without knowing what it is for"},
	{"agent/sshhelper", []string{"agent", "keyring", "internal/secret", "internal/spawn"},
		"it is one way to the keys in other hardware, and the agent knows only that there is one"},
	{"dbus", []string{"internal/panicsite", "keyring", "dbus/internal/transfer", "dbus/internal/wire", "internal/caller", "internal/secret"},
		"a front end knows the core only: never another front end, a device, a source of keys or a prompter"},
	{"dbus/client", []string{"dbus/internal/transfer", "dbus/internal/wire", "internal/secret"}, "who calls the daemon needs its language, and what secrets travel in, and nothing else of it"},
	{"dbus/internal/transfer", []string{"internal/secret"}, "how secrets are encrypted on their way is known without a bus"},
	{"dbus/internal/wire", nil, "a codec knows no domain"},
	{"pkcs11", []string{"internal/panicsite", "keyring", "pkcs11/p11rpc", "internal/atomicfile", "internal/caller", "internal/folder", "internal/listen", "internal/p11uri", "internal/secret"},
		"a front end knows the core only; certificates are files beside keys, and only PKCS #11 shows them and adds to them"},
	{"internal/p11uri", nil, "what a token is called is known to all who tell people what to type"},
	{"pkcs11/p11rpc", nil, "a codec knows no domain"},
	{"store", []string{"keyring", "internal/atomicfile", "internal/secret"},
		"collections at rest know no protocol; what binds them to a TPM is a keyring.Sealer"},
	{"store/foreign", []string{"internal/secret"}, "other keyrings' files are read without knowing what becomes of them"},
	{"store/archive", []string{"internal/secret"}, "an archive is a file format, and knows no store"},
	{"moving", []string{"keyring", "store/archive", "store/foreign", "internal/atomicfile", "internal/secret"},
		"it is where files of secrets and the keyring meet, and it knows neither stores nor front ends"},
	{"control", []string{"internal/panicsite", "keyring", "internal/caller", "internal/listen", "internal/secret"},
		"a front end knows the core only: never another front end, a device, a source of keys or a prompter"},
	{"dbus/loginsession", []string{"dbus/internal/wire"}, "what the login session is at is the desktop's to say; what follows from it is not decided here"},
	{"dbus/notify", []string{"dbus/internal/wire"}, "a text is shown without knowing what it is about"},
	{"dbus/systemprompter", []string{"dbus/internal/wire", "prompt", "internal/secret"}, "it sees a question and returns an answer; it cannot reach keys"},
	{"cmd/keyringctl", []string{"dbus/client", "internal/atomicfile", "internal/caller", "internal/folder/pubfile", "tpm/attest"},
		"the command line is a D-Bus client like any other; a statement of a TPM's is checked where there is neither daemon nor TPM"},
	{"internal/assuan", []string{"internal/secret"}, "a line protocol knows no domain"},
	{"internal/atomicfile", nil, "it puts files on disk and does not know what is in them"},
	{"internal/emsa", nil, "padding is arithmetic on what is public"},
	{"internal/caller", nil, "who is on the other end of a socket is a question to the kernel alone"},
	{"internal/confine", nil, "what a process gives up is known without knowing what it does"},
	{"internal/folder", []string{"internal/secret"}, "it hands over files and does not know what is in them"},
	{"internal/folder/pubfile", []string{"internal/caller"}, "it reads public halves and makes their comments fit to show: nothing of a key's use"},
	{"internal/listen", []string{"internal/panicsite"}, "sockets know no protocol"},
	{"internal/outside", []string{"internal/atomicfile", "internal/caller", "internal/spawn"},
		"it does as it was told, and knows neither keys nor what the programs are that it starts"},
	{"internal/panicsite", nil, "where a panic was raised is a question to the runtime alone"},
	{"internal/spawn", nil, "starting a program knows no protocol"},
	{"internal/secret", nil, "everyone may use it, so it uses nobody"},
}

// wiring are the folders that may import everything: they put the parts
// together.
var wiring = []string{"cmd/keyringd"}

// testSupport are the folders that only tests may import. They may import what
// they like, as tests may: real peers and real devices are what tests are for.
var testSupport = []string{
	"cmd/keyring-ui/uitest", "keyring/keyringtest", "tpm/tpmtest", "internal/bustest", "internal/daemontest", "internal/logindtest", "internal/logtest", "internal/pamtest", "internal/secretstest", "internal/sshdtest", "bench", "e2e", "e2e/window",
}

// homes says which folders may import a library, so that it can be exchanged
// in one place. A home is a folder with all that is in it. The longest matching
// path counts; a library without a row is a fault.
var homes = []struct {
	library string
	folders []string
	because string
}{
	{"golang.org/x/sync", []string{"."}, "it is as good as the standard library"},
	{"golang.org/x/sys/unix", []string{"agent", "cmd", "dbus/loginsession", "internal", "prompt/pinentry", "store", "tpm"},
		"system calls belong to what meets the system; the core has no need of them"},
	{"github.com/google/go-tpm", []string{"tpm"}, "only tpm/ speaks to a TPM"},
	{"golang.org/x/crypto/ssh", []string{"agent", "sshkeys"}, "SSH's formats end at the agent and at OpenSSH's key files"},
	{"golang.org/x/crypto/cryptobyte", []string{"sshkeys", "tpm"}, "DER is read where key files are"},
	{"golang.org/x/crypto/pbkdf2", []string{"sshkeys"}, "only encrypted PKCS #8 files derive keys so"},
	{"golang.org/x/crypto/scrypt", []string{"sshkeys"}, "only encrypted PKCS #8 files derive keys so"},
	{"software.sslmate.com/src/go-pkcs12", []string{"sshkeys"}, "PKCS #12 is one more file that holds a software key"},
	{"filippo.io/bigmod", []string{"sshkeys"}, "it is the arithmetic of crypto/rsa, for what that does not give away"},
	{"github.com/fsnotify/fsnotify", []string{"internal/folder"}, "one package watches folders for all"},
	{"github.com/google/renameio/v2", []string{"tpm"}, "only the pinned parents are written to disk"},
	{"github.com/coreos/go-systemd/v22/activation", []string{"internal/listen"}, "sockets come from one place, inherited or made"},
	{"github.com/coreos/go-systemd/v22/daemon", []string{"cmd"}, "only a program reports to the service manager"},
	{"github.com/spf13", []string{"cmd"}, "only programs have flags"},
	{"github.com/landlock-lsm/go-landlock", []string{"internal/confine"}, "one package gives up what the process may do"},
	{"github.com/pelletier/go-toml/v2", []string{"cmd"}, "only programs read configuration"},
	{"github.com/godbus/dbus/v5", []string{"dbus"}, "only the D-Bus front end and its client speak D-Bus"},
	{"fyne.io/fyne/v2", []string{"cmd/keyring-ui"}, "only the window has a toolkit"},
	{"fyne.io/fyne/v2/app", []string{"cmd/keyring-ui"}, "only the program opens a window; the view is tested without cgo"},
	{"github.com/go-gl/glfw", []string{"cmd/keyring-ui"}, "the keyboard is grabbed on the toolkit's own connection"},
	{"github.com/rymdport/portal", []string{"cmd/keyring-ui"}, "whether the desktop is dark, it says on the portal"},
	{"github.com/google/go-cmp", nil, "it is for tests"},
	{"go.etcd.io/bbolt", []string{"store"}, "only the store has a database"},
	{"golang.org/x/crypto/argon2", []string{"agent", "store"}, "only slots, archives and a locked agent are opened by passphrases of the user's own"},
	{"golang.org/x/crypto/chacha20poly1305", []string{"store"}, "only what is at rest is encrypted so"},

	{"flag", []string{"cmd"}, "only programs have flags"},
	{"log", nil, "what is logged is logged through the slog.Logger one was given"},
	{"log/slog", []string{"."}, "it is how things are logged"},
	{"net/http", nil, "keyringd speaks to no network"},
	{"os/exec", []string{"cmd/keyringctl", "tpm/swtpm"}, "keyringd starts a prompter, OpenSSH's helpers or a software TPM by internal/spawn alone, so that its sandbox knows them; the software TPM is looked for on PATH; `keyringctl setup` runs the commands that it shows"},
	{"plugin", nil, "no code is loaded into the daemon"},
	{"testing", nil, "it is for tests"},
	{"unsafe", []string{"internal/secret", "cmd/keyring-ui"}, "one package looks after memory that is not Go's; the window has an X display"},
	{"C", []string{"cmd/keyring-ui"}, "the daemon is built without cgo, so that one file runs everywhere; the window cannot be"},
}

// A source is one Go file as the rules see it.
type source struct {
	path string // slash-separated, from the module's root
	file *ast.File
}

func (s source) folder() string {
	if i := strings.LastIndexByte(s.path, '/'); i >= 0 {
		return s.path[:i]
	}
	return "."
}

// forTests reports whether the file is a test, or only serves tests.
func (s source) forTests() bool {
	return strings.HasSuffix(s.path, "_test.go") || slices.Contains(testSupport, s.folder())
}

// within reports whether path is dir or lies under it.
func within(path, dir string) bool {
	return dir == "." || path == dir || strings.HasPrefix(path, dir+"/")
}

// importFaults returns a sentence for each import that breaks a rule.
func importFaults(sources []source) []string {
	var faults []string
	for _, s := range sources {
		for _, spec := range s.file.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				faults = append(faults, fmt.Sprintf("%s: import %s cannot be read", s.path, spec.Path.Value))
				continue
			}
			if fault := importFault(s, path); fault != "" {
				faults = append(faults, fault)
			}
		}
	}
	return faults
}

func importFault(s source, path string) string {
	if s.forTests() {
		return ""
	}
	if mine, ok := strings.CutPrefix(path, module+"/"); ok {
		return ownFault(s, mine)
	}
	return libraryFault(s, path)
}

func ownFault(s source, path string) string {
	if slices.Contains(testSupport, path) {
		return fmt.Sprintf("%s imports %s: that package is for tests", s.path, path)
	}
	if slices.Contains(wiring, s.folder()) {
		return ""
	}
	for _, rule := range own {
		if rule.folder != s.folder() || slices.Contains(rule.imports, path) {
			continue
		}
		may := "nothing of this module"
		if len(rule.imports) > 0 {
			may = "only " + strings.Join(rule.imports, ", ")
		}
		return fmt.Sprintf("%s imports %s: %s may import %s, because %s", s.path, path, rule.folder, may, rule.because)
	}
	return ""
}

func libraryFault(s source, path string) string {
	found := -1
	for i, home := range homes {
		if within(path, home.library) && (found < 0 || len(home.library) > len(homes[found].library)) {
			found = i
		}
	}
	if found < 0 {
		if first, _, _ := strings.Cut(path, "/"); !strings.Contains(first, ".") {
			return "" // the standard library
		}
		return fmt.Sprintf("%s imports %s: no rule names that library; give it one home in arch_test.go, and say why it is needed", s.path, path)
	}
	home := homes[found]
	for _, folder := range home.folders {
		if within(s.folder(), folder) {
			return ""
		}
	}
	where := "in tests only"
	if len(home.folders) > 0 {
		where = "in " + strings.Join(home.folders, ", ") + " only"
	}
	return fmt.Sprintf("%s imports %s: %s belongs %s, because %s", s.path, path, home.library, where, home.because)
}

// folderFaults returns a sentence for each folder that no rule knows, and for
// each rule whose folder is gone.
func folderFaults(sources []source) []string {
	var faults []string
	known := slices.Concat(wiring, testSupport)
	for _, rule := range own {
		known = append(known, rule.folder)
	}
	seen := map[string]bool{}
	for _, s := range sources {
		folder := s.folder()
		if seen[folder] || strings.HasSuffix(s.path, "_test.go") {
			continue
		}
		seen[folder] = true
		if !slices.Contains(known, folder) {
			faults = append(faults, fmt.Sprintf("%s: no rule says what this package may import; add a row to arch_test.go", folder))
		}
	}
	for _, s := range sources { // a folder of nothing but tests is there, too
		seen[s.folder()] = true
	}
	for _, folder := range known {
		if !seen[folder] {
			faults = append(faults, fmt.Sprintf("%s: arch_test.go has a rule for it, but there is no such package", folder))
		}
	}
	return faults
}

// tree parses every Go file of the module.
func tree(t *testing.T) (*token.FileSet, []source) {
	t.Helper()
	fset := token.NewFileSet()
	var sources []source
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			hidden := path != "." && strings.ContainsAny(d.Name()[:1], "._")
			if hidden || d.Name() == "testdata" || (path != "." && isModule(path)) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution|parser.ParseComments)
		if err != nil {
			return err
		}
		sources = append(sources, source{filepath.ToSlash(path), file})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(sources) < 50 {
		t.Fatalf("only %d Go files found: the rules would be kept by looking away", len(sources))
	}
	return fset, sources
}

func isModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

// TestImports holds the tree to the tables above.
func TestImports(t *testing.T) {
	_, sources := tree(t)
	for _, fault := range slices.Concat(importFaults(sources), folderFaults(sources)) {
		t.Error(fault)
	}
}

// TestImportRulesBite breaks each kind of rule in a tree of a few lines, and
// wants a sentence that names the file, the import and the rule.
func TestImportRulesBite(t *testing.T) {
	for _, c := range []struct {
		name, path, imports string
		want                []string // empty: allowed
	}{
		{"a front end reaches for the TPM", "agent/sign.go", module + "/tpm",
			[]string{"agent/sign.go imports tpm", "agent may import only keyring", "never another front end"}},
		{"the core learns of the TPM", "keyring/gate.go", module + "/tpm/keyfile",
			[]string{"keyring/gate.go imports tpm/keyfile", "keyring may import only prompt, internal/secret"}},
		{"the TPM learns of the core", "tpm/sign.go", module + "/keyring",
			[]string{"tpm/sign.go imports keyring", "a library about TPMs"}},
		{"a leaf imports its user", "internal/secret/bytes.go", module + "/internal/listen",
			[]string{"internal/secret may import nothing of this module"}},
		{"a program imports what is for tests", "cmd/keyringd/main.go", module + "/tpm/tpmtest",
			[]string{"cmd/keyringd/main.go imports tpm/tpmtest", "for tests"}},
		{"a library away from home", "tpmkeys/key.go", "github.com/google/go-tpm/tpm2",
			[]string{"tpmkeys/key.go imports github.com/google/go-tpm/tpm2", "belongs in tpm only", "only tpm/ speaks to a TPM"}},
		{"a library that nobody decided on", "tpm/sign.go", "example.org/leftpad",
			[]string{"tpm/sign.go imports example.org/leftpad", "no rule names that library"}},
		{"a longer path has a home of its own", "cmd/keyringd/main.go", "github.com/coreos/go-systemd/v22/activation",
			[]string{"belongs in internal/listen only"}},
		{"a library for tests", "keyring/keys.go", "github.com/google/go-cmp/cmp",
			[]string{"belongs in tests only"}},
		{"a program started from the core", "keyring/keys.go", "os/exec",
			[]string{"keyring/keys.go imports os/exec", "starts a prompter"}},
		{"a network", "agent/server.go", "net/http", []string{"keyringd speaks to no network"}},

		{"a folder whose name only begins like a home", "tpmkeys/x.go", "golang.org/x/crypto/cryptobyte",
			[]string{"belongs in sshkeys, tpm only"}},
		{"a front end and its core", "agent/sign.go", module + "/keyring", nil},
		{"a library at home", "tpm/link/link.go", "github.com/google/go-tpm/tpm2", nil},
		{"the standard library", "keyring/keys.go", "crypto/sha256", nil},
		{"the program that wires all", "cmd/keyringd/main.go", module + "/agent", nil},
		{"a test", "agent/sign_test.go", module + "/tpm", nil},
		{"test support", "tpm/tpmtest/tools.go", "os/exec", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			faults := importFaults([]source{example(t, c.path, "package x\nimport _ \""+c.imports+"\"\n")})
			wantFault(t, faults, c.want)
		})
	}
	t.Run("a package that no rule knows", func(t *testing.T) {
		faults := folderFaults([]source{example(t, "helpers/all.go", "package helpers\n")})
		wantFault(t, faults[:1], []string{"helpers: no rule says what this package may import"})
		if len(faults) == 1 {
			t.Error("rules without a package went unnoticed")
		}
	})
}

// example parses a file that is not there.
func example(t *testing.T, path, text string) source {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return source{path, file}
}

// wantFault wants one sentence that holds every part, or none at all.
func wantFault(t *testing.T, faults, parts []string) {
	t.Helper()
	if len(parts) == 0 {
		if len(faults) > 0 {
			t.Errorf("refused: %q", faults)
		}
		return
	}
	if len(faults) != 1 {
		t.Fatalf("%d faults, want 1: %q", len(faults), faults)
	}
	for _, part := range parts {
		if !strings.Contains(faults[0], part) {
			t.Errorf("%q does not say %q", faults[0], part)
		}
	}
}
