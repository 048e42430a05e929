package collateral

import (
	"crypto/x509"
	"sync"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// useFallbackRoots lets TLS use Mozilla's roots, as of the build, on a system without roots of
// its own, such as a container image with one program. The fetched files are verified from
// AMD's roots, or from those of --roots, in any case.
var useFallbackRoots = sync.OnceFunc(func() {
	pool := x509.NewCertPool()
	for root := range bundle.Roots() {
		c, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			panic("collateral: internal error: parsing a root of the bundle: " + err.Error())
		}
		if root.Constraint == nil {
			pool.AddCert(c)
		} else {
			pool.AddCertWithConstraint(c, root.Constraint)
		}
	}
	x509.SetFallbackRoots(pool)
})
