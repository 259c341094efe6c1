package agent

import (
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"
)

// Constraint numbers of RFC 9987 §5.2.
const (
	constrainLifetime  = 1
	constrainConfirm   = 2
	constrainExtension = 255
)

// The constraints that OpenSSH has named (OpenSSH, PROTOCOL.agent).
const (
	constraintProvider     = "sk-provider@openssh.com"
	constraintDestination  = "restrict-destination-v00@openssh.com"
	constraintCertificates = "associated-certs-v00@openssh.com"
)

// OpenSSH's limits. Each bounds what one request makes us keep or compare.
const (
	maxDestinations = 1024
	maxAssociated   = 1024
	maxUserPattern  = 256
)

// constraints are what a client asked for when it added a key. Whatever is in
// here is kept to; a request with anything else is refused whole.
type constraints struct {
	limited      bool // lifetime is set, and may be 0: the key is gone at once
	lifetime     time.Duration
	confirm      bool
	destinations []destination // nil: anywhere
	skProvider   string
	associated   []*ssh.Certificate // of a smart card's keys
	certsOnly    bool               // offer no smart card key without its certificate
	hasCerts     bool
}

// any reports whether a constraint limits how the key may be used.
func (c *constraints) any() bool { return c.limited || c.confirm || c.destinations != nil }

// A keyOrigin is what sort of request carries the constraints.
type keyOrigin int

const (
	ofPrivateKey keyOrigin = iota
	ofCard
)

// parseConstraints takes all that is left of a request. A constraint that is
// unknown, given twice, or makes no sense for the origin spoils the request:
// it is what keeps a key from being used as its owner does not want.
func parseConstraints(d *decoder, origin keyOrigin) (constraints, error) {
	var c constraints
	for len(d.rest) > 0 {
		switch kind := d.byte(); kind {
		case constrainLifetime:
			if c.limited {
				return c, fmt.Errorf("lifetime given twice: %w", errMalformed)
			}
			c.limited, c.lifetime = true, time.Duration(d.uint32())*time.Second
		case constrainConfirm:
			if c.confirm {
				return c, fmt.Errorf("confirmation given twice: %w", errMalformed)
			}
			c.confirm = true
		case constrainExtension:
			if err := c.extension(d, origin); err != nil {
				return c, err
			}
		default:
			return c, fmt.Errorf("constraint %d: %w", kind, errNotServed)
		}
		if d.bad {
			return c, fmt.Errorf("constraints: %w", errMalformed)
		}
	}
	if d.bad {
		return c, fmt.Errorf("constraints: %w", errMalformed)
	}
	return c, nil
}

func (c *constraints) extension(d *decoder, origin keyOrigin) (err error) {
	name := d.text()
	twice := false
	switch {
	case name == constraintProvider && origin == ofPrivateKey:
		twice = c.skProvider != ""
		if c.skProvider = d.text(); c.skProvider == "" && !d.bad {
			return fmt.Errorf("empty provider: %w", errMalformed)
		}
	case name == constraintDestination:
		twice = c.destinations != nil
		c.destinations, err = parseDestinations(d.string())
	case name == constraintCertificates && origin == ofCard:
		twice, c.hasCerts = c.hasCerts, true
		c.certsOnly = d.byte() != 0
		c.associated, err = parseAssociated(d.string())
	default:
		return fmt.Errorf("constraint %s: %w", quote([]byte(name)), errNotServed)
	}
	switch {
	case d.bad:
		return fmt.Errorf("constraint %s: %w", quote([]byte(name)), errMalformed)
	case twice:
		return fmt.Errorf("constraint %s given twice: %w", quote([]byte(name)), errMalformed)
	}
	return err
}

// parseAssociated parses the certificates that belong to a smart card's keys.
func parseAssociated(list []byte) ([]*ssh.Certificate, error) {
	var certs []*ssh.Certificate
	for d := (decoder{rest: list}); len(d.rest) > 0; {
		if len(certs) == maxAssociated {
			return nil, fmt.Errorf("more than %d certificates: %w", maxAssociated, errMalformed)
		}
		cert, err := parseCertificate(d.string())
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	return certs, nil
}
