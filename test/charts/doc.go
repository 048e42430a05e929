// Package charts renders the charts of deploy with helm, and checks the result
// against Kubernetes' own description.
package charts
