// Package images runs the container images that scripts/oci writes.
package images
