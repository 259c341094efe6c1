package pinentry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/internal/assuan"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/prompt"
)

const within = time.Minute

// The test binary plays a prompt program when its first argument says so: the
// environment of a prompt program is filtered.
func TestMain(m *testing.M) {
	if len(os.Args) > 3 {
		switch os.Args[1] {
		case "fake-pinentry":
			fakePinentry(os.Args[2], os.Args[3])
			os.Exit(0)
		case "fake-askpass":
			os.Exit(fakeAskpass(os.Args[2], os.Args[3], os.Args[4:]))
		case "fake-tty":
			path, _ := ForegroundTTY()
			fmt.Print(path)
			os.Exit(0)
		case "fake-daemon":
			p := Program{Path: os.Args[2], Environ: os.Environ()}
			if os.Args[3] == "standby" {
				p.standby = newStandby(time.Hour)
			}
			_, err := p.Prompt(context.Background(), prompt.Question{})
			fmt.Println(err)
			if os.Args[3] == "standby" {
				hang()
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// record appends a line to the test's file.
func record(path, format string, args ...any) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		os.Exit(9)
	}
	defer f.Close()
	fmt.Fprintf(f, format+"\n", args...)
}

func fakePinentry(mode, log string) {
	// What waits for a question behaves as it is told, what is started for one
	// does as it should.
	waits := slices.Contains(os.Args, "--standby")
	if how, ok := strings.CutPrefix(mode, "standby:"); ok {
		if mode = "plain"; waits {
			mode = how
		}
	}
	if waits {
		record(log, "waits")
	}
	record(log, "pid %d", os.Getpid())
	record(log, "env %s", strings.Join(os.Environ(), " "))
	misbehave(mode)
	pins := []string{"1234"}
	if p, ok := strings.CutPrefix(mode, "pins:"); ok {
		pins = strings.Split(p, ",")
	}
	manner, term, choosy := strings.Cut(mode, ":")
	choosy = choosy && (manner == "rich" || manner == "poor")
	wish := func(r *assuan.Request) error {
		if !choosy {
			return nil
		}
		return errors.Join(r.Status("KEYRINGD_TERM", term), r.Status("KEYRINGD_AUTOMATIC", ""))
	}
	ready := func(r *assuan.Request) error {
		record(log, "%s", strings.TrimSpace(r.Name+" "+r.Arg))
		return nil
	}
	repeat := false
	handlers := map[string]assuan.Handler{
		"OPTION": func(r *assuan.Request) error {
			_ = ready(r)
			if mode == "plain" || manner != "rich" && strings.HasPrefix(r.Arg, "keyringd-") {
				return assuan.Errorf(assuan.CodeUnknownOption, "Unknown option")
			}
			return nil
		},
		"SETDESC": func(r *assuan.Request) error {
			_ = ready(r)
			switch how, early := strings.CutPrefix(mode, "early-"); {
			case mode == "no-desc":
				return errors.New("no memory")
			case early:
				mode = how
				_, _ = os.Stdout.WriteString("OK\n")
			}
			return nil
		},
		"GETPIN": func(r *assuan.Request) error {
			_ = ready(r)
			if err := answer(mode); err != nil {
				return err
			}
			if err := wish(r); err != nil {
				return err
			}
			pin := pins[0]
			pins = append(pins[1:], pin)
			if repeat && mode == "repeat" {
				repeat = false
				if err := r.Status("PIN_REPEATED", ""); err != nil {
					return err
				}
			}
			// Two lines of data are one passphrase.
			half := len(pin) / 2
			return errors.Join(r.Data(secret.From([]byte(pin[:half]))), r.Data(secret.From([]byte(pin[half:]))))
		},
		"CONFIRM": func(r *assuan.Request) error { _ = ready(r); return errors.Join(wish(r), answer(mode)) },
		"MESSAGE": func(r *assuan.Request) error { _ = ready(r); return answer(mode) },
	}
	if mode == "no-message" {
		delete(handlers, "MESSAGE")
	}
	for _, name := range []string{"SETTITLE", "SETTIMEOUT", "SETPROMPT", "SETERROR", "SETOK", "SETCANCEL", "SETREPEATERROR"} {
		handlers[name] = ready
	}
	if mode == "repeat" {
		handlers["SETREPEAT"] = func(r *assuan.Request) error { repeat = true; return ready(r) }
	}
	if mode == "plain" {
		for _, name := range []string{"SETTITLE", "SETTIMEOUT", "SETPROMPT", "SETERROR", "SETREPEATERROR"} {
			delete(handlers, name)
		}
	}
	_ = assuan.NewServer(os.Stdin, os.Stdout, handlers).Serve("Pleased to meet you")
}

// answer is how a fake ends a question: an error, a catastrophe, or nil.
func answer(mode string) error {
	switch mode {
	case "cancel":
		return assuan.Errorf(assuan.CodeCanceled, "Operation cancelled")
	case "not-confirmed":
		return assuan.Errorf(assuan.CodeNotConfirmed, "Not confirmed")
	case "timeout":
		return assuan.Errorf(assuan.CodeTimeout, "Timeout")
	case "enotty":
		return &assuan.Error{Code: 83918950, Text: "Inappropriate ioctl for device"}
	case "segv":
		die(unix.SIGSEGV)
	case "exit":
		os.Exit(3)
	case "hang":
		hang()
	case "garbage":
		_, _ = os.Stdout.WriteString("\x7fELF\x00\x01 what is this\n")
	case "flood":
		flood(os.Stdout, "S PROGRESS and so on\n")
	case "flood-data":
		flood(os.Stdout, "D "+strings.Repeat("x", 900)+"\n")
	case "flood-line":
		flood(os.Stdout, strings.Repeat("x", 1000))
	case "flood-stderr":
		flood(os.Stderr, "warning: it is raining\n")
		os.Exit(3)
	}
	return nil
}

func misbehave(mode string) {
	switch mode {
	case "start-exit":
		fmt.Fprintln(os.Stderr, "cannot open display")
		os.Exit(1)
	case "start-segv":
		die(unix.SIGSEGV)
	case "start-hang":
		hang()
	case "start-garbage":
		_, _ = os.Stdout.WriteString("hello there\n")
	case "start-flood":
		flood(os.Stdout, strings.Repeat("x", 1000))
	case "start-err":
		_, _ = os.Stdout.WriteString("ERR 83886081 no display\n")
	case "deaf": // to SIGTERM
		signal.Ignore(syscall.SIGTERM)
		_, _ = os.Stdout.WriteString("OK\n")
		hang()
	case "orphan": // leaves a grandchild that holds all pipes
		cmd := exec.Command("sleep", "1000")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		_ = cmd.Start()
		os.Exit(1)
	case "stay": // answers, and does not go
		go func() {
			fakePinentry("pins:1234", os.DevNull)
		}()
		hang()
	}
}

// die ends the process by a signal: the Go runtime would make an exit status
// of it.
func die(s unix.Signal) {
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	_ = unix.Exec("/bin/sh", []string{"sh", "-c", fmt.Sprintf("kill -%d $$", s)}, os.Environ())
	os.Exit(9)
}

// flood writes a gigabyte, if it is let.
func flood(w io.Writer, s string) {
	block := []byte(strings.Repeat(s, 1<<16/len(s)))
	for range 1 << 30 / len(block) {
		if _, err := w.Write(block); err != nil {
			os.Exit(4)
		}
	}
}

func fakeAskpass(mode, log string, args []string) int {
	record(log, "pid %d", os.Getpid())
	record(log, "args %q", args)
	record(log, "hint %q", os.Getenv("SSH_ASKPASS_PROMPT"))
	record(log, "env %s", strings.Join(os.Environ(), " "))
	switch {
	case strings.HasPrefix(mode, "say:"):
		fmt.Println(mode[4:])
	case mode == "crlf":
		fmt.Print("1234\r\nmore\n")
	case mode == "silent":
	case mode == "no-newline":
		fmt.Print("1234")
	case mode == "refuse":
		fmt.Println("ignored")
		return 1
	case strings.HasPrefix(mode, "count"): // a different answer each time
		b, _ := os.ReadFile(log)
		fmt.Println(strings.Count(string(b), "pid "))
	case mode == "segv", mode == "hang", mode == "flood", mode == "flood-line":
		_ = answer(mode)
	}
	return 0
}

// fake returns a program that plays mode, and a function that returns what it
// has recorded.
func fake(t *testing.T, kind, mode string) (path string, said func() string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path, log := filepath.Join(dir, "program"), filepath.Join(dir, "log")
	// With the race detector a program waits for a second before it ends.
	script := fmt.Sprintf("#!/bin/sh\nexport GORACE=atexit_sleep_ms=0\nexec '%s' fake-%s '%s' '%s' \"$@\"\n", exe, kind, mode, log)
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path, func() string {
		b, _ := os.ReadFile(log)
		return string(b)
	}
}

// pid returns the last process that recorded itself, once there is one.
func pid(t *testing.T, said func() string) int {
	t.Helper()
	n := 0
	until(t, "program started", func() bool {
		s := said()
		i := strings.LastIndex(s, "pid ")
		return i >= 0 && strings.Contains(s[i:], "\n") && scan(s[i:], "pid %d", &n)
	})
	return n
}

func scan(s, format string, to ...any) bool {
	_, err := fmt.Sscanf(s, format, to...)
	return err == nil
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(within)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

func alive(pid int) bool { return unix.Kill(pid, 0) == nil }

// gone waits for the end of a program, which nobody may reap in a container.
func gone(t *testing.T, pid int) {
	t.Helper()
	until(t, "program gone", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || bytes.Contains(b, []byte(") Z "))
	})
}

func text(b secret.Bytes) string {
	s := ""
	b.Use(func(p []byte) { s = string(p) })
	b.Wipe()
	return s
}

// hang never returns. With select the runtime would find that nothing can
// happen any more, and end the program.
func hang() {
	for {
		_ = unix.Pause()
	}
}
