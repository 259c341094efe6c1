// Package moving moves secrets: in, from other keyrings' files and from
// archives, and out, into archives.
//
// A [Mover] reads what store/foreign and store/archive read, and puts it into a
// keyring.Secrets, or the other way round. It never replaces a secret that is
// there: one that came from elsewhere is put beside it, unless it is the same,
// so that doing it twice does no harm. The files that it reads stay as they are.
//
// It deliberately knows no format, no store and no front end.
package moving
