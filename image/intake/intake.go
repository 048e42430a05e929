// Package intake reads directories, tars and the layers of OCI images into a file
// tree.
//
// Nothing is extracted: the data of files stays where it is, and is read when the
// filesystem is written. What a tree cannot keep is refused by name.
package intake
