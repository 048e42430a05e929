package adminapi

import (
	"fmt"
	"net/url"
	"strconv"

	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// Encode writes q as the query of a URL.
func (q Query) Encode() string {
	v := url.Values{}
	set := func(name, value string, given bool) {
		if given {
			v.Set(name, value)
		}
	}
	set("after", q.After.String(), q.After != pins.UUID{})
	set("limit", strconv.Itoa(q.Limit), q.Limit != 0)
	set("spiffe_id", q.SPIFFEID, q.SPIFFEID != "")
	set("state", q.State, q.State != "")
	set("measurement", q.Measurement.String(), q.Measurement != snp.Measurement{})
	set("root_of_trust", q.RootOfTrust, q.RootOfTrust != "")
	return v.Encode()
}

// ParseQuery reads what Encode writes. Unknown and repeated members are errors.
func ParseQuery(v url.Values) (q Query, err error) {
	q.Limit = DefaultPage
	for name, values := range v {
		if len(values) != 1 {
			return Query{}, fmt.Errorf("%s is given %d times, want once", name, len(values))
		}
		value := values[0]
		switch name {
		case "after":
			q.After, err = pins.ParseUUID(value)
		case "limit":
			q.Limit, err = strconv.Atoi(value)
		case "spiffe_id":
			q.SPIFFEID = value
		case "state":
			q.State = value
		case "measurement":
			err = q.Measurement.UnmarshalText([]byte(value))
		case "root_of_trust":
			q.RootOfTrust = value
		default:
			err = fmt.Errorf("got %q, want a known parameter", name)
		}
		if err != nil {
			return Query{}, fmt.Errorf("reading the query: %s: %w", name, err)
		}
	}
	if q.Limit < 1 || q.Limit > MaxPage {
		return Query{}, fmt.Errorf("reading the query: limit is %d, want 1 to %d", q.Limit, MaxPage)
	}
	return q, nil
}
