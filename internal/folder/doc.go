// Package folder watches directories and hands the small private files in them
// to consumers, such as the ones that look for keys.
//
// [Watch] reads every directory once, then reads it again whenever something in
// it changes; a [Consumer] is shown each file whose contents changed, and told
// after each scan which files there are; a [Skip] says why a file or directory
// was left out. [Read] opens one file under the same rules.
//
// What is in a directory is taken to be hostile: a pipe, a device, a loop of
// symbolic links, a file of a gigabyte or of another user is left out by name
// and never waited for. The package deliberately knows nothing of keys: whether
// a file is one, and who may be able to read it, is the consumer's business. It
// keeps no file's contents.
package folder
