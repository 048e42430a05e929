package collateral

import (
	"crypto/x509"
	"sync"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// useFallbackRoots has TLS take Mozilla's roots, as of the build, where the system has
// none, such as in a container image of one program. What is fetched is verified from
// AMD's roots, or those of --roots, in any case.
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
