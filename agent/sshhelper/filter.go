package sshhelper

import (
	"errors"
	"io"

	"github.com/keyringd/keyringd/agent"
)

var errNotAllowed = errors.New("not something that a helper may be told")

// FilterPKCS11 passes on what ssh-pkcs11-helper may be told, and ends with an
// error at what it may not: to load a library that is not one of allow, which is
// an agent.Server's AllowProviders. It is for a process that starts the helper
// for one that it does not trust: whoever names the library runs its code.
func FilterPKCS11(to io.Writer, from io.Reader, allow string) error {
	return filter(to, from, func(message []byte) bool {
		d := decoder{rest: message}
		switch d.byte() {
		case msgAddSmartcard:
			library := d.string()
			return !d.bad && allowed(library, allow)
		case msgRemoveSmartcard, msgSignRequest:
			return true
		}
		return false
	})
}

// FilterSK is FilterPKCS11 for ssh-sk-helper, which may be told to sign.
func FilterSK(to io.Writer, from io.Reader, allow string) error {
	return filter(to, from, func(message []byte) bool {
		d := decoder{rest: message}
		version, kind := d.byte(), d.uint32()
		d.take(1 + 4) // where to complain, and how much
		d.string()    // the key
		library := d.string()
		return !d.bad && version == skVersion && kind == skSign && (string(library) == "internal" || allowed(library, allow))
	})
}

// allowed wants the library's real path, so that what is checked is what is
// loaded.
func allowed(library []byte, list string) bool {
	real, err := agent.AllowedProvider(string(library), list)
	return err == nil && real == string(library)
}

func filter(to io.Writer, from io.Reader, may func([]byte) bool) error {
	for {
		message, err := read(from)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !may(message) {
			clear(message)
			return errNotAllowed
		}
		framed := frame(message)
		_, err = to.Write(framed)
		clear(message) // there may be a PIN in it
		clear(framed)
		if err != nil {
			return nil // it has ended
		}
	}
}
