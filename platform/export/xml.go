package export

import (
	"encoding/xml"
	"fmt"
	"strings"
)

// element is an XML element: attributes in pairs, then text or children.
type element struct {
	name       string
	attributes []string
	text       string
	children   []element
}

// e makes an element. Strings in parts are attributes, in pairs. Elements in parts
// are children.
func e(name string, parts ...any) element {
	made := element{name: name}
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			made.attributes = append(made.attributes, p)
		case element:
			made.children = append(made.children, p)
		case []element:
			made.children = append(made.children, p...)
		default:
			panic(fmt.Sprintf("export: internal error: an element with a %T", p))
		}
	}
	return made
}

// say makes an element with text.
func say(name, text string, attributes ...string) element {
	return element{name: name, attributes: attributes, text: text}
}

func (x element) write(b *strings.Builder, indent string) {
	b.WriteString(indent + "<" + x.name)
	for i := 0; i < len(x.attributes); i += 2 {
		b.WriteString(" " + x.attributes[i] + `="` + escapeXML(x.attributes[i+1]) + `"`)
	}
	switch {
	case len(x.children) > 0:
		b.WriteString(">\n")
		for _, child := range x.children {
			child.write(b, indent+"  ")
		}
		b.WriteString(indent + "</" + x.name + ">\n")
	case x.text != "":
		b.WriteString(">" + escapeXML(x.text) + "</" + x.name + ">\n")
	default:
		b.WriteString("/>\n")
	}
}

func escapeXML(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder does not fail
	return b.String()
}
