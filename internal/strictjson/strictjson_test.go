package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type inner struct {
	Count int `json:"count"`
}

type named []byte

// level is a byte that is written as a word.
type level uint8

func (l *level) UnmarshalText(text []byte) error {
	if string(text) != "one" {
		return errors.New("unknown level")
	}
	*l = 1
	return nil
}

type document struct {
	Name   string           `json:"name"`
	List   []inner          `json:"list"`
	Maybe  *inner           `json:"maybe,omitempty"`
	Map    map[string]inner `json:"map"`
	Pair   [2]int           `json:"pair"`
	Opaque json.RawMessage  `json:"opaque"`
	Small  uint8            `json:"small"`
	Flag   bool             `json:"flag"`
	Bytes  named            `json:"bytes"`
	Levels []level          `json:"levels"`
	inner
}

const good = `{"name":"n","list":[{"count":1}],"map":{"k":{"count":2}},"pair":[1,2],"opaque":{"x":1},"small":3,"flag":true,"bytes":"AA==","levels":["one"],"count":7}`

func TestAccepts(t *testing.T) {
	var got document
	if err := Unmarshal([]byte(good), &got); err != nil {
		t.Fatal(err)
	}
	want := document{Name: "n", List: []inner{{1}}, Map: map[string]inner{"k": {2}},
		Pair: [2]int{1, 2}, Opaque: json.RawMessage(`{"x":1}`), Small: 3, Flag: true, Bytes: named{0}, Levels: []level{1}, inner: inner{7}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(document{})); diff != "" {
		t.Error(diff)
	}
	withOptional := strings.Replace(good, `"name"`, `"maybe":{"count":3},"name"`, 1)
	if err := Unmarshal([]byte(withOptional), &got); err != nil || got.Maybe == nil || got.Maybe.Count != 3 {
		t.Errorf("optional member: got %v, %v", got.Maybe, err)
	}
}

func TestRefuses(t *testing.T) {
	replace := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for _, c := range []struct{ name, data, want string }{
		{"unknown", replace(`"name":`, `"nom":1,"name":`), `"nom": unknown`},
		{"other case", replace(`"name"`, `"Name"`), `"Name": unknown`},
		{"both cases", replace(`"name":`, `"NAME":"m","name":`), `"NAME": unknown`},
		{"twice", replace(`"name":`, `"name":"m","name":`), `"name": got it twice`},
		{"twice by escape", replace(`"name":`, `"n\u0061me":"m","name":`), `"name": got it twice`},
		{"twice in a list", replace(`{"count":1}`, `{"count":1,"count":2}`), `"list[0].count": got it twice`},
		{"twice in a map", replace(`{"k":`, `{"k":{"count":1},"k":`), `"map.k": got it twice`},
		{"twice in an opaque value", replace(`{"x":1}`, `{"x":1,"x":2}`), `"opaque.x": got it twice`},
		{"missing", replace(`"name":"n",`, ``), `"name": missing`},
		{"missing in a list", replace(`{"count":1}`, `{}`), `"list[0].count": missing`},
		{"missing embedded", replace(`,"count":7`, ``), `"count": missing`},
		{"null", replace(`"n"`, `null`), `"name": got null`},
		{"null optional", replace(`"name"`, `"maybe":null,"name"`), `"maybe": got null`},
		{"null list", replace(`[{"count":1}]`, `null`), `"list": got null`},
		{"short array", replace(`[1,2]`, `[1]`), `"pair": got 1 elements, want 2`},
		{"long array", replace(`[1,2]`, `[1,2,3]`), `"pair": got 3 elements, want 2`},
		{"trailing value", good + `{}`, "after the JSON value"},
		{"trailing bracket", good + `]`, "after the JSON value"},
		{"number for a string", replace(`"n"`, `1.5`), `"name": got 1.5, want a string`},
		{"object for a string", replace(`"n"`, `{}`), `"name": got an object, want a string`},
		{"string for a number", replace(`{"count":1}`, `{"count":"1"}`), `"list[0].count": got a string, want a whole number of 64 bits`},
		{"fraction", replace(`{"count":1}`, `{"count":1.0}`), `"list[0].count": got 1.0, want a whole number`},
		{"too large", replace(`"pair":[1,2]`, `"pair":[1,9223372036854775808]`), `"pair[1]": got 9223372036854775808, want`},
		{"below 0", replace(`"small":3`, `"small":-3`), `"small": got -3, want a whole number from 0 to 255`},
		{"large for its type", replace(`"small":3`, `"small":256`), `"small": got 256, want a whole number from 0 to 255`},
		{"array for an object", replace(`{"k":{"count":2}}`, `[]`), `"map": got an array, want an object`},
		{"true for an array", replace(`[{"count":1}]`, `true`), `"list": got true, want an array`},
		{"string for true", replace(`"flag":true`, `"flag":"true"`), `"flag": got a string, want true or false`},
		{"array for bytes", replace(`"bytes":"AA=="`, `"bytes":[0]`), `"bytes": got an array, want a string`},
		{"no JSON", replace(`"n"`, `x`), "at byte 8: invalid character"},
		{"truncated", good[:len(good)-1], "unexpected EOF"},
		{"empty", "", "unexpected EOF"},
		{"invalid UTF-8", replace(`"n"`, "\"\xff\""), "UTF-8"},
		{"deep", strings.Repeat("[", 100), "levels deep"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var v document
			var err error
			if c.name == "deep" {
				var raw json.RawMessage
				err = Unmarshal([]byte(c.data), &raw)
			} else {
				err = Unmarshal([]byte(c.data), &v)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestTrailingWhitespaceIsFine(t *testing.T) {
	var v inner
	if err := Unmarshal([]byte(" {\"count\":1}\n"), &v); err != nil {
		t.Error(err)
	}
}

// TestLinear: what a peer sends takes time and memory in proportion to its size,
// also inside a type that decodes itself, and at the end of a long name.
func TestLinear(t *testing.T) {
	name := strings.Repeat("a", 48<<10)
	list := "[1" + strings.Repeat(",1", 24<<10) + "]"
	var v struct {
		Nonce selfish `json:"nonce"`
		Text  texted  `json:"text,omitempty"`
	}
	document := []byte(`{"nonce":{"` + name + `":` + list + `}}`)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_ = Unmarshal(document, &v)
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 100*uint64(len(document)) {
		t.Errorf("a document of %d bytes takes %d", len(document), got)
	}
	if err := Unmarshal([]byte(`{"nonce":1,"text":{"a":1}}`), &v); err == nil || !strings.Contains(err.Error(), `"text": got an object, want a string`) {
		t.Errorf("object for a text: got %v", err)
	}
	if err := Unmarshal([]byte(`{"nonce":{"`+name+`":1,"`+name+`":1}}`), &v); err == nil || len(err.Error()) > 1000 {
		t.Errorf("a name twice: got an error of %d bytes", len(fmt.Sprint(err)))
	}
}

type selfish struct{}

func (*selfish) UnmarshalJSON([]byte) error { return nil }

type texted struct{}

func (*texted) UnmarshalText([]byte) error { return nil }

// canon has one of each kind of member.
type canon struct {
	Version int      `json:"version"`
	Name    string   `json:"name"`
	Data    []byte   `json:"data"`
	List    []string `json:"list"`
	Maybe   string   `json:"maybe,omitempty"`
	Inner   struct {
		On bool `json:"on"`
	} `json:"inner"`
}

// FuzzCanonical holds the quick way against the strict one: they take the same documents,
// and see the same in them.
func FuzzCanonical(f *testing.F) {
	good := canon{Version: 1, Name: "a,null", Data: []byte{1, 2}, List: []string{"x", "y"}}
	data, err := json.Marshal(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	for _, change := range [][2]string{
		{`"data":"AQI="`, `"data":null`}, {`["x","y"]`, `null`}, {`"version":1`, `"Version":1`}, {`"version":1`, `"version":1,"version":1`},
		{`"version":1`, `"version":1.0`}, {`"version":1`, `"version":1e0`}, {`"on":false`, ``}, {`"on":false`, `"on":false,"off":1`},
		{`"AQI="`, `"AQI=\n"`}, {`"AQI="`, `"AQJ="`}, {`"x"`, `"\u0078"`}, {`"x"`, "\"\xff\""}, {`{"on":false}`, `null`}, {`"x"`, `null`}, {`}}`, `}} `}, {`}}`, `}}1`},
		{`"AQI="`, `[1,2]`}, {`a,null`, `<`}, {`"inner"`, `"maybe":"x","inner"`}, {`"inner"`, `"maybe":"","inner"`},
	} {
		f.Add([]byte(strings.Replace(string(data), change[0], change[1], 1)))
	}
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var quick, slow canon
		quickErr := UnmarshalCanonical(data, &quick, func() ([]byte, error) { return json.Marshal(quick) })
		slowErr := Unmarshal(data, &slow)
		if slowErr == nil {
			if again, err := json.Marshal(slow); err != nil || !bytes.Equal(again, data) {
				slowErr = errors.New("form is not canonical")
			}
		}
		if (quickErr == nil) != (slowErr == nil) || quickErr != nil && quickErr.Error() != slowErr.Error() {
			t.Fatalf("%q: the quick way says %v, the strict one %v", data, quickErr, slowErr)
		}
		if quickErr == nil && !reflect.DeepEqual(quick, slow) {
			t.Errorf("%q: the quick way sees %+v, the strict one %+v", data, quick, slow)
		}
	})
}
