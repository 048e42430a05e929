package audit

import (
	"time"

	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// exactRelease reads the leaf of a disk's key that was released on evidence: nearly all leaves of
// a log are such leaves. It reports whether data is one, in the form that Encode writes and
// without escapes in its text. decode reads any other.
func exactRelease(data []byte) (Leaf, bool) {
	e := strictjson.ReadExact(data)
	l, about, proof := Leaf{}, AboutRelease{}, Proof{Certificates: []pins.Digest{}}
	e.Text(`{"version":1,"lane":"`)
	l.Lane = e.Plain()
	e.Text(`","sequence":`)
	l.Sequence = e.Uint()
	e.Text(`,"previous":"`)
	e.Hex(l.Previous[:])
	e.Text(`","time":"`)
	l.Time = exactTime(e)
	e.Text(`","event":"release","about":{"spiffe_id":"`)
	about.SPIFFEID = e.Plain()
	e.Text(`","remote":"`)
	about.Remote = e.Plain()
	e.Text(`","disk_uuid":"`)
	about.Disk = exactUUID(e)
	e.Text(`","request_sha256":"`)
	e.Hex(about.SHA256[:])
	e.Text(`","report_id":"`)
	e.Hex(about.ReportID[:])
	e.Text(`","measurement":"`)
	about.Measurement = make([]byte, len(snp.Measurement{}))
	e.Hex(about.Measurement)
	e.Text(`","generation":`)
	about.Generation = e.Uint()
	e.Text(`,"proof":{"time":"`)
	proof.Time = exactTime(e)
	e.Text(`","nonce":"`)
	e.Hex(proof.Nonce[:])
	e.Text(`","spki":"`)
	proof.SPKI = e.Base64()
	e.Text(`","hpke_public_key":"`)
	e.Hex(proof.HPKEPublicKey[:])
	e.Text(`","report":"`)
	proof.Report = e.Base64()
	e.Text(`","certificates_sha256":[`)
	for more := e.Next(`"`); more; more = e.Next(`,"`) {
		var digest pins.Digest
		e.Hex(digest[:])
		e.Text(`"`)
		proof.Certificates = append(proof.Certificates, digest)
	}
	e.Text(`],"reference_values_sha256":"`)
	e.Hex(proof.ReferenceValues[:])
	e.Text(`","collateral_sha256":"`)
	e.Hex(proof.Collateral[:])
	e.Text(`"}}}`)
	about.Proof = &proof
	l.Entry = Entry{Release, about}
	// Encode leaves these members out if they are zero.
	zero := about.SPIFFEID == "" || about.Disk == (pins.UUID{}) || about.SHA256 == (pins.Digest{}) || about.ReportID == (snp.ReportID{})
	return l, e.End() && !zero
}

// exactTime reads a time in UTC, as time.Time's MarshalJSON writes it.
func exactTime(e *strictjson.Exact) time.Time {
	s := e.Plain()
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Format(time.RFC3339Nano) != s || t.Location() != time.UTC {
		e.Fail()
	}
	return t
}

func exactUUID(e *strictjson.Exact) pins.UUID {
	u, err := pins.ParseUUID(e.Plain())
	if err != nil {
		e.Fail()
	}
	return u
}
