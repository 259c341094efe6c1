package promptui

import (
	"math"
	"unicode"
)

// estimate rates a passphrase from 0 to 100 by how many guesses it would take
// somebody who knows what it is made of, where runs and repetitions count
// little. It is no promise, and errs on the side of "weak".
func estimate(s string) int {
	const enough = 80 // bits that make 100
	var lower, upper, digit, other, foreign bool
	seen := map[rune]int{}
	length, last := 0.0, rune(-1)
	for _, r := range s {
		switch {
		case unicode.IsDigit(r):
			digit = true
		case r > unicode.MaxASCII:
			foreign = true
		case unicode.IsLower(r):
			lower = true
		case unicode.IsUpper(r):
			upper = true
		default:
			other = true
		}
		step := r - last
		if step >= -1 && step <= 1 { // "aaa", "123", "cba"
			length += 0.2
		} else {
			length += 1 / (1 + 0.3*float64(seen[r]))
		}
		seen[r]++
		last = r
	}
	alphabet := 0.0
	for _, set := range []struct {
		there bool
		size  float64
	}{{lower, 26}, {upper, 26}, {digit, 10}, {other, 33}, {foreign, 100}} {
		if set.there {
			alphabet += set.size
		}
	}
	if alphabet == 0 {
		return 0
	}
	return min(100, int(100*length*math.Log2(alphabet)/enough))
}
