// Package store keeps collections on disk: encrypted, authenticated and safe
// from crashes.
//
// A [Store] is one database file, keyrings.db, in a folder of its own. It holds
// collections, each with a random collection key; a collection key is wrapped
// once in each of its slots, which a passphrase, the TPM or a recovery code
// opens. An item is one record of two boxes, what it says of itself and its
// secret, each encrypted with XChaCha20-Poly1305 and bound to the collection,
// the item and the revision that it was written in. An index key, which lives
// outside of the database and is bound to the TPM where there is one, makes
// labels readable and items findable while a collection is locked; whoever has
// the database alone can guess neither.
//
// # On disk
//
//	keyrings.db              the database (bbolt)
//	keyrings.db.1 .2 .3      copies of it, the newest first
//	keyrings.db.corrupt-TIME a database in which damage was found, as it was
//	keyrings.lock            held by the daemon that has the store open
//	index.key                the index key
//
// In the database, "keyringd" holds the format and the directory of
// collections and aliases. Each collection is a bucket "c.ID" with
//
//	items    number → record
//	index    keyed hash of an attribute, number → nothing
//	slots    number → what opens it, and the collection key wrapped with that
//	xkey     the collection's index key, wrapped with the store's
//	header   the state of the collection, sealed with its index key
//	meta     the same and the index key, sealed with the collection key
//	salvage  names of damaged files that may have more of its items
//
// The state counts the items and has a keyed sum over all records and one over
// the index, renewed in the same transaction as every change. A record that is
// taken away, put back to an older revision, or swapped, and an index that says
// too little, are noticed by adding up again.
//
// # Faults
//
// Everything is on disk before a method returns. When a write fails, the
// transaction is undone in memory as well. When a sync fails, nobody knows what
// is on the disk: the file is not written to again, but its last acknowledged
// state is copied to a new one, and if that cannot be done either, to memory,
// from which it is served until a copy on disk succeeds.
//
// A database is checked page by page before the engine, which trusts it, may
// open it. Damage is repaired from the copies, as far as the sums prove that a
// copy is the very record that is missing; what is less sure is repaired and
// reported, and what cannot be repaired is an error of that item alone. An
// unreadable store is never an empty one.
//
// # What it does not do
//
// It does not ask, judge or tell anybody: keyring.Secrets does. It does not
// hide how many collections and items there are, how large they are to 64
// bytes, or which items share an attribute. Whoever can put back all files as
// they were can undo what was done since; that would take a counter in the TPM.
// A slot that was removed still opens the copies that were made before. Keys in
// use are in Go's memory, too, where they cannot be overwritten: Lock wipes what
// it can and has the rest collected.
package store
