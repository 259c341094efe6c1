//go:build bench

package bench

import (
	"fmt"
	"os"
	"testing"

	"github.com/keyringd/keyringd/internal/daemontest"
)

func TestMain(m *testing.M) { os.Exit(daemontest.Main(m)) }

// table prints a heading, and returns what prints its rows.
func table(title string, columns ...string) (row func(cells ...any)) {
	fmt.Printf("\n%s\n", title)
	line := func(cells ...any) {
		for i, c := range cells {
			if i == 0 {
				fmt.Printf("  %-46v", c)
			} else {
				fmt.Printf(" %18v", c)
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
