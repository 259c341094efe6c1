//go:build bench

package bench

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/internal/daemontest"
)

func TestMain(m *testing.M) {
	fmt.Println(machine())
	status := daemontest.Main(m)
	fmt.Println("\nThe load at the end:", load())
	os.Exit(status)
}

// machine says what the figures were taken on: they are worth nothing without.
func machine() string {
	model := "an unknown processor"
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	return fmt.Sprintf("%d processors of %s; %s; load of the last 1, 5 and 15 minutes: %s", runtime.NumCPU(), model, runtime.Version(), load())
}

func load() string {
	text, _ := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(text))
	return strings.Join(fields[:min(3, len(fields))], " ")
}

// table prints a heading, and returns what prints its rows. The first column
// says what a row is about.
func table(title string, columns ...string) (row func(cells ...any)) {
	const first, least = 44, 12
	fmt.Printf("\n%s\n", title)
	line := func(cells ...any) {
		for i, c := range cells {
			if i == 0 {
				fmt.Printf("  %-*v", first, c)
			} else {
				fmt.Printf("  %*v", max(least, len(columns[i])), c)
			}
		}
		fmt.Println()
	}
	head := make([]any, len(columns))
	for i, c := range columns {
		head[i] = c
	}
	line(head...)
	return line
}

// ratio says how many times a is of b.
func ratio(a, b float64) string {
	if b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2fx", a/b)
}
