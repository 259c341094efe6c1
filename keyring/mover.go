package keyring

import "context"

// A Mover brings secrets in from files and takes them out into files. Where a
// passphrase is needed, the user is asked for it. Files that are read stay as
// they are.
type Mover interface {
	// Import reads keyrings of other programs, or an archive that Export wrote.
	// There is a Moved for each keyring found; an error only where the whole was
	// refused or ended.
	Import(ctx context.Context, r ImportSecretsRequest) ([]Moved, error)
	// Export writes keyrings into one file, whole or not at all.
	Export(ctx context.Context, r ExportRequest) ([]Moved, error)
}

// An ImportSecretsRequest says what to read.
type ImportSecretsRequest struct {
	Caller  Caller
	Paths   []string // absolute; files, and folders of them
	Archive bool     // they are archives, and not other programs' keyrings
	Into    string   // a collection that takes all of it; "": each keyring has its own
}

// An ExportRequest says what to write, and where to.
type ExportRequest struct {
	Caller      Caller
	Path        string   // absolute
	Collections []string // IDs or aliases; none: all but the one in memory
	Plain       bool     // not encrypted: whoever reads the file has the secrets
	Force       bool     // a file that is there is replaced
}

// A Moved is what became of one keyring.
type Moved struct {
	Path       string   // the file
	Label      string   // what the keyring is called
	Collection string   // its ID here; "": it did not get that far
	Items      int      // how many were moved
	There      int      // how many were here already, the same
	Notes      []string // what the user must know, in whole sentences
	Err        error    // nil: all went well
}
