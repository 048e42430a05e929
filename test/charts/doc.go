// Package charts has helm render what is in deploy, and Kubernetes' own description judge it.
package charts
