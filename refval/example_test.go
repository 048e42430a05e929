package refval_test

import (
	"fmt"

	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
)

// Reference values for one measurement on Genoa. They are decoded strictly: what
// Decode takes has every field.
func ExampleNew() {
	values := refval.New(refval.AMD(),
		[]refval.Measurement{{Digest: snp.Measurement{0x4d}, VCPUs: 2, CPUType: "EPYC-v4", HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured, Provenance: refval.Provenance{KernelSHA256: [32]byte{1}}, Gate: "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a"}},
		refval.Product{Name: snp.Genoa, MinimumTCB: refval.Any[snp.TCB]()})
	text, err := values.Encode()
	if err != nil {
		panic(err)
	}
	_, err = refval.Decode(text)
	fmt.Println(err)
	_, err = refval.Decode([]byte("{}"))
	fmt.Println(err != nil)
	// Output:
	// <nil>
	// true
}
