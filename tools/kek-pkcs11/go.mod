module github.com/rootvouch/rootvouch/tools/kek-pkcs11

go 1.26.0

require (
	github.com/miekg/pkcs11 v1.1.2
	github.com/rootvouch/rootvouch v0.0.0
)

require golang.org/x/sys v0.49.0 // indirect

replace github.com/rootvouch/rootvouch => ../..
