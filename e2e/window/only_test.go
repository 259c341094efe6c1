package window

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A second start of the manager shows the first one's window: before others,
// from the panel, minimised, and never a second one.
func TestManagerIsOne(t *testing.T) {
	s := newScreen(t)
	shown := func() string { return s.ask("search", "--onlyvisible", "--name", managerTitle) }
	again := func(args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, binary, append([]string{"manager"}, args...)...)
		cmd.Env = s.env
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Fatalf("a second start: %v\n%s", err, out)
		}
	}
	before := func(what string) {
		t.Helper()
		await(t, what, func() bool {
			id := shown()
			return id != "" && !strings.Contains(id, "\n") && id == s.ask("getactivewindow")
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first := exec.CommandContext(ctx, binary, "manager", "--tray")
	first.Env = s.env
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- first.Wait() }()

	await(t, "the first one", func() bool { return s.ask("search", "--name", "^SystrayMonitor$") != "" })
	again("--tray")
	if id := shown(); id != "" {
		t.Errorf("a start as an icon showed the window %s", id)
	}
	again()
	before("the window from the panel")
	window := shown()

	s.keys("alt+F4")
	await(t, "the window's way back to the panel", func() bool { return shown() == "" })
	again()
	before("the window from the panel again")

	if err := s.tool("xdotool", "windowminimize", window); err != nil {
		t.Fatal(err)
	}
	await(t, "the minimised window", func() bool { return shown() == "" })
	again()
	before("the window that was minimised")

	cancel()
	var exit *exec.ExitError
	if err := <-ended; !errors.As(err, &exit) {
		t.Errorf("killed, it ended with %v", err)
	}
	// Nothing of one that was killed is in the way of the next.
	run(t, s.env, nil, binary, "manager")
	before("the next one")
}
