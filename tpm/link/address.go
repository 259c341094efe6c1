package link

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// DefaultDevice is the kernel's resource manager, which [Address.Resolve]
// looks for.
const DefaultDevice = "/dev/tpmrm0"

// Kind says how a TPM is reached.
type Kind int

// The kinds of address. The zero Kind is no TPM at all.
const (
	None   Kind = iota // no TPM
	Auto               // DefaultDevice if it is there, else None
	Device             // a character device; Target is its path
	Unix               // a Unix socket speaking plain TPM commands; Target is its path
	TCP                // the same over TCP; Target is HOST:PORT
	Swtpm              // a private software TPM; Target is its state folder, or empty for the default one
)

// String returns the word that begins an address of this kind.
func (k Kind) String() string {
	switch k {
	case None:
		return "none"
	case Auto:
		return "auto"
	case Device:
		return "device"
	case Unix:
		return "unix"
	case TCP:
		return "tcp"
	case Swtpm:
		return "swtpm"
	}
	return "Kind(" + strconv.Itoa(int(k)) + ")"
}

// An Address names a TPM. The zero Address is no TPM.
type Address struct {
	Kind   Kind
	Target string // see the Kind

	// ResourceManager says that something behind the address gives every
	// connection a TPM of its own: handles are virtual, and nothing that one
	// connection loads is seen by another or outlives it.
	ResourceManager bool
}

const (
	rmSuffix = ",rm"
	rmDevice = "/dev/tpmrm" // what the kernel calls its resource managers
)

// ParseAddress reads the --tpm syntax:
//
//	auto | none | device:PATH[,rm] | unix:PATH[,rm] | tcp:HOST:PORT[,rm] | swtpm[:DIR]
//
// A device named /dev/tpmrm* always has a resource manager; ",rm" says so of
// any other.
func ParseAddress(s string) (Address, error) {
	word, target, hasTarget := strings.Cut(s, ":")
	rm := false
	if hasTarget {
		target, rm = strings.CutSuffix(target, rmSuffix)
	}
	a := Address{Target: target, ResourceManager: rm}
	switch word {
	case "none", "auto":
		if hasTarget {
			return Address{}, fmt.Errorf("TPM address %q: %s takes nothing after it", s, word)
		}
		if word == "auto" {
			a.Kind = Auto
		}
		return a, nil
	case "swtpm":
		if hasTarget && target == "" {
			return Address{}, fmt.Errorf("TPM address %q: no folder after the colon", s)
		}
		if rm {
			return Address{}, fmt.Errorf("TPM address %q: swtpm has no resource manager", s)
		}
		a.Kind = Swtpm
		return a, nil
	case "device":
		a.Kind = Device
		a.ResourceManager = rm || strings.HasPrefix(target, rmDevice)
	case "unix":
		a.Kind = Unix
	case "tcp":
		a.Kind = TCP
		if err := checkHostPort(target); err != nil {
			return Address{}, fmt.Errorf("TPM address %q: %w", s, err)
		}
	default:
		return Address{}, fmt.Errorf("TPM address %q: want auto, none, device:PATH, unix:PATH, tcp:HOST:PORT or swtpm[:DIR]", s)
	}
	if target == "" {
		return Address{}, fmt.Errorf("TPM address %q: no path after the colon", s)
	}
	if strings.ContainsRune(target, 0) {
		return Address{}, fmt.Errorf("TPM address %q: a zero byte in the path", s)
	}
	return a, nil
}

func checkHostPort(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return errors.New("want HOST:PORT")
	}
	if host == "" {
		return errors.New("no host before the port")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("port %q is not a number from 1 to 65535", port)
	}
	return nil
}

// String returns the address in the syntax of [ParseAddress], which reads it
// back unchanged.
func (a Address) String() string {
	s := a.Kind.String()
	if a.Target != "" {
		s += ":" + a.Target
	}
	if a.ResourceManager && !(a.Kind == Device && strings.HasPrefix(a.Target, rmDevice)) {
		s += rmSuffix
	}
	return s
}

// Resolve turns Auto into [DefaultDevice] if that exists and into None if it
// does not; any other address is returned as it is. A device that exists but
// may not be opened is still the answer: the user should hear of it.
func (a Address) Resolve() Address {
	return a.resolve(DefaultDevice)
}

func (a Address) resolve(device string) Address {
	if a.Kind != Auto {
		return a
	}
	if _, err := os.Stat(device); err != nil {
		return Address{}
	}
	return Address{Kind: Device, Target: device, ResourceManager: true}
}
