package wire

import (
	"reflect"

	godbus "github.com/godbus/dbus/v5"
)

// skipType returns what follows the first complete type of a valid signature.
func skipType(sig string) (rest string, err error) {
	for i := 0; i < len(sig); i++ {
		switch sig[i] {
		case 'a':
			continue
		case '(', '{':
			depth := 0
			for j := i; j < len(sig); j++ {
				switch sig[j] {
				case '(', '{':
					depth++
				case ')', '}':
					depth--
				}
				if depth == 0 {
					return sig[j+1:], nil
				}
			}
		default:
			return sig[i+1:], nil
		}
	}
	return "", malformed("signature %.64q", sig)
}

// alignment of the first type of a signature: D-Bus Specification, "Summary of
// D-Bus marshalling".
func alignment(sig string) int {
	switch sig[0] {
	case 'n', 'q':
		return 2
	case 'b', 'i', 'u', 'h', 's', 'o', 'a':
		return 4
	case 'x', 't', 'd', '(', '{':
		return 8
	default: // y, g, v
		return 1
	}
}

func signatureOf(t reflect.Type) string { return godbus.SignatureOfType(t).String() }
