// Package strictjson decodes JSON that must have exactly one meaning, and writes such JSON.
//
// encoding/json accepts members whose names differ only in case, keeps the last of two members
// with one name, and leaves absent fields at zero. So two readers of such a document can read
// two meanings, and a misspelt security option is silently unset. In this package each of these
// is an error.
package strictjson

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds nesting. None of our documents comes close.
const maxDepth = 32

// MarshalIndent writes JSON for people: indented, with a final newline, and without HTML
// escapes.
func MarshalIndent(v any) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Unmarshal decodes data into the value that v points to.
//
// It refuses: members unknown to v or spelt in another case, two members with one name, absent
// members (unless the field says omitempty or omitzero), null, a value of another kind than
// v's, anything after the value, invalid UTF-8, and more than 32 levels. A type that decodes
// itself (json.Unmarshaler, encoding.TextUnmarshaler) checks its own content. The error names
// the member.
func Unmarshal(data []byte, v any) error {
	target := reflect.TypeOf(v)
	if target == nil || target.Kind() != reflect.Pointer {
		panic(fmt.Sprintf("strictjson: internal error: Unmarshal into %T, want a pointer", v))
	}
	if !utf8.Valid(data) {
		return errors.New("got invalid UTF-8")
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	w := walker{decoder: decoder}
	if err := w.value(nil, target.Elem(), 0); err != nil {
		return located(err, data)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("got data after the JSON value")
	}
	strict := json.NewDecoder(bytes.NewReader(data))
	strict.DisallowUnknownFields()
	return strict.Decode(v)
}

// UnmarshalCanonical decodes data into the value that v points to. again must encode that value
// to the same bytes. UnmarshalCanonical accepts exactly the data that Unmarshal accepts and
// that again reproduces. It costs a fraction of Unmarshal, because bytes that an encoder wrote
// have only one meaning.
func UnmarshalCanonical(data []byte, v any, again func() ([]byte, error)) error {
	if err := json.Unmarshal(data, v); err == nil && !mayHaveNull(data) {
		if encoded, err := again(); err == nil && bytes.Equal(encoded, data) {
			return nil
		}
	}
	reflect.ValueOf(v).Elem().SetZero()
	if err := Unmarshal(data, v); err != nil {
		return err
	}
	encoded, err := again()
	if err != nil {
		return err
	}
	if !bytes.Equal(encoded, data) {
		return errors.New("form is not canonical")
	}
	return nil
}

// mayHaveNull reports whether null may be a value in data. An encoder writes null for a nil
// slice, and would then reproduce it.
func mayHaveNull(data []byte) bool {
	for _, before := range []string{":null", ",null", "[null"} {
		if bytes.Contains(data, []byte(before)) {
			return true
		}
	}
	return bytes.Equal(data, []byte("null"))
}

// located adds to a syntax error its position in data.
func located(err error, data []byte) error {
	if _, ok := errors.AsType[*json.SyntaxError](err); !ok {
		return err
	}
	var whole json.RawMessage
	if syntax, ok := errors.AsType[*json.SyntaxError](json.Unmarshal(data, &whole)); ok {
		return fmt.Errorf("at byte %d: %w", syntax.Offset-1, syntax) // Offset is one past the error
	}
	return err
}

// walker compares the tokens of one document with the type of the target.
type walker struct{ decoder *json.Decoder }

// path is the path to a value. It is written out only for errors. Otherwise a document of many
// values would take time quadratic in its size.
type path struct {
	parent *path  // nil above the outermost value
	member string // or, in an array,
	index  int
	array  bool
}

func (p *path) String() string {
	var steps []string
	for ; p != nil; p = p.parent {
		switch {
		case p.array:
			steps = append(steps, fmt.Sprintf("[%d]", p.index))
		case p.parent != nil:
			steps = append(steps, "."+p.member)
		default:
			steps = append(steps, p.member)
		}
	}
	slices.Reverse(steps)
	return strings.Join(steps, "")
}

// value walks one JSON value for type t. t is nil inside a type that decodes itself; then only
// duplicates and depth are checked.
func (w walker) value(at *path, t reflect.Type, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: nested more than %d levels deep", name(at), maxDepth)
	}
	token, err := w.decoder.Token()
	if err != nil {
		return unexpectedEOF(err)
	}
	if t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if token == nil && t != nil {
		return fmt.Errorf("%s: got null", name(at))
	}
	if t != nil && decodesItself(t) {
		// encoding/json hands a TextUnmarshaler strings only.
		if _, isString := token.(string); !isString && !reflect.PointerTo(t).Implements(jsonUnmarshaler) {
			return fmt.Errorf("%s: got %s, want a string", name(at), described(token))
		}
		t = nil
	}
	if want := wanted(token, t); want != "" {
		return fmt.Errorf("%s: got %s, want %s", name(at), described(token), want)
	}
	switch token {
	case json.Delim('{'):
		return w.object(at, t, depth)
	case json.Delim('['):
		return w.array(at, t, depth)
	}
	return nil
}

// wanted describes the JSON form of type t. It returns "" if token is, or begins, that form.
func wanted(token json.Token, t reflect.Type) string {
	if t == nil {
		return ""
	}
	ok, want := true, ""
	switch kind := t.Kind(); {
	case kind == reflect.String, isBytes(t):
		_, ok = token.(string)
		want = "a string"
	case kind == reflect.Bool:
		_, ok = token.(bool)
		want = "true or false"
	case kind >= reflect.Int && kind <= reflect.Int64:
		ok = isNumber(token, func(s string) error { _, err := strconv.ParseInt(s, 10, t.Bits()); return err })
		want = fmt.Sprintf("a whole number of %d bits", t.Bits())
	case kind >= reflect.Uint && kind <= reflect.Uint64:
		ok = isNumber(token, func(s string) error { _, err := strconv.ParseUint(s, 10, t.Bits()); return err })
		want = fmt.Sprintf("a whole number from 0 to %d", uint64(1)<<t.Bits()-1)
	case kind == reflect.Float32 || kind == reflect.Float64:
		_, ok = token.(json.Number)
		want = "a number"
	case kind == reflect.Struct || kind == reflect.Map:
		ok, want = token == json.Delim('{'), "an object"
	case kind == reflect.Slice || kind == reflect.Array:
		ok, want = token == json.Delim('['), "an array"
	}
	if ok {
		return ""
	}
	return want
}

// isBytes reports whether encoding/json writes t in base64.
func isBytes(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8 && !decodesItself(t.Elem())
}

func isNumber(token json.Token, parse func(string) error) bool {
	number, ok := token.(json.Number)
	return ok && parse(number.String()) == nil
}

// described describes a token without the content of a string, which may be secret.
func described(token json.Token) string {
	switch v := token.(type) {
	case string:
		return "a string"
	case json.Number:
		return fmt.Sprintf("%.40s", v)
	case bool:
		return fmt.Sprint(v)
	}
	if token == json.Delim('[') {
		return "an array"
	}
	return "an object"
}

func (w walker) array(at *path, t reflect.Type, depth int) error {
	var element reflect.Type
	if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
		element = t.Elem()
	}
	count := 0
	for ; w.decoder.More(); count++ {
		if err := w.value(&path{parent: at, index: count, array: true}, element, depth+1); err != nil {
			return err
		}
	}
	if t != nil && t.Kind() == reflect.Array && count != t.Len() {
		return fmt.Errorf("%s: got %d elements, want %d", name(at), count, t.Len())
	}
	_, err := w.decoder.Token()
	return unexpectedEOF(err)
}

func (w walker) object(at *path, t reflect.Type, depth int) error {
	var known map[string]field // :: member name -> its field
	var element reflect.Type
	if t != nil && t.Kind() == reflect.Struct {
		known = fields(t)
	} else if t != nil && t.Kind() == reflect.Map {
		element = t.Elem()
	}
	seen := map[string]bool{}
	for w.decoder.More() {
		token, err := w.decoder.Token()
		if err != nil {
			return unexpectedEOF(err)
		}
		member := token.(string) // the decoder refuses other member names
		inside := &path{parent: at, member: member}
		if seen[member] {
			return fmt.Errorf("%s: got it twice", name(inside))
		}
		seen[member] = true
		want := element
		if known != nil {
			f, ok := known[member]
			if !ok {
				return fmt.Errorf("%s: unknown member", name(inside))
			}
			want = f.typ
		}
		if err := w.value(inside, want, depth+1); err != nil {
			return err
		}
	}
	for _, member := range slices.Sorted(maps.Keys(known)) {
		if !known[member].optional && !seen[member] {
			return fmt.Errorf("%s: missing", name(&path{parent: at, member: member}))
		}
	}
	_, err := w.decoder.Token()
	return unexpectedEOF(err)
}

type field struct {
	typ      reflect.Type
	optional bool
}

// fields lists the members of struct type t as encoding/json names them.
func fields(t reflect.Type) map[string]field {
	all := map[string]field{}
	for i := range t.NumField() {
		f := t.Field(i)
		tag, hasTag := f.Tag.Lookup("json")
		label, options, _ := strings.Cut(tag, ",")
		if f.Anonymous && label == "" && f.Type.Kind() == reflect.Struct {
			for member, inner := range fields(f.Type) {
				all[member] = inner
			}
			continue
		}
		if !f.IsExported() || hasTag && label == "-" {
			continue
		}
		if label == "" {
			label = f.Name
		}
		optional := strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
		all[label] = field{f.Type, optional}
	}
	return all
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func decodesItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(jsonUnmarshaler) || p.Implements(textUnmarshaler)
}

func name(at *path) string {
	if at == nil {
		return "the value"
	}
	return fmt.Sprintf("%.200q", at.String())
}

func unexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
