package evidence_test

import (
	"fmt"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/pins"
)

// The examples of docs/spec/evidence.md.
func Example() {
	var nonce evidence.Nonce // 00 01 02 … 1f
	for i := range nonce {
		nonce[i] = byte(i)
	}
	disk, err := pins.ParseUUID("00112233-4455-6677-8899-aabbccddeeff")
	if err != nil {
		panic(err)
	}
	fmt.Printf("%x\n", evidence.NodeAttestation(nonce))
	fmt.Printf("%x\n", evidence.KeyRelease(nonce, disk, []byte("svid"), []byte("hpke")))
	fmt.Printf("%x\n", evidence.OwnerAttestation(nonce, []byte("tls"), pins.Digest{}))
	// Output:
	// 1f1fb296a856c0c2410560698e5af6dbcd6008c9f9e78a5997bea6ff7318e9a5973d2c571141d2977ecf2772b470604715339a497a76ce1c5144b766f88a0a25
	// 15254e09b6d11decdfbf3bb38b3aadfdd71d5a9fad94d3fe37f2d13c9acca8e24c16214be3678609ab90aeed9d36b8bcf45d4a5f445bd61030f82d6960a10f30
	// a583453cde1e8119a771b04f121c411481090354028af7763b6108719f21c30760e36dfeb4b4ea12466e4c11a035f7c88738ad99c514463bbb043b7eefab8409
}
