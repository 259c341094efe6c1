package caller

// FromPID returns who the process pid of the user uid is, where somebody else
// knows the connection, such as a message bus. It never waits: what cannot be
// read at once stays unknown.
//
// alive is asked after reading. It reports whether the process must still be
// there, such as by its connection: if not, what was read may be of another
// process with the same number, and is dropped.
func FromPID(pid int, uid uint32, alive func() bool) Peer {
	return (*Witness)(nil).FromPID(pid, uid, alive)
}
