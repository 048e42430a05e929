// Command schemas writes the JSON schemas that kubeconform judges objects by, from the
// OpenAPI description that Kubernetes publishes with its source.
//
// usage: schemas SWAGGER-JSON DIR
//
// Each kind has a file DIR/KIND-GROUP-VERSION.json with all that it refers to. A member
// that the description does not name is an error.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const reference = "#/definitions/"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "schemas: error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("want SWAGGER-JSON DIR")
	}
	data, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var api struct {
		Definitions map[string]map[string]any `json:"definitions"`
	}
	if err := json.Unmarshal(data, &api); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	for name, d := range api.Definitions {
		seal(d)
		switch name { // types that OpenAPI 2 has no word for
		case "io.k8s.apimachinery.pkg.util.intstr.IntOrString", "io.k8s.apimachinery.pkg.api.resource.Quantity":
			d["type"] = []string{"string", "number"}
		}
	}
	written := 0
	for name, d := range api.Definitions {
		kinds, _ := d["x-kubernetes-group-version-kind"].([]any)
		if len(kinds) != 1 {
			continue // none, or one that stands for all, such as DeleteOptions
		}
		kind := kinds[0].(map[string]any)
		// The group is shortened as kubeconform does.
		group, _, _ := strings.Cut(kind["group"].(string), ".")
		parts := []string{kind["kind"].(string), group, kind["version"].(string)}
		if group == "" {
			parts = []string{parts[0], parts[2]}
		}
		used := map[string]map[string]any{}
		collect(api.Definitions, name, used)
		schema, err := json.Marshal(map[string]any{"$ref": reference + name, "definitions": used})
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(args[1], strings.ToLower(strings.Join(parts, "-"))+".json"), schema, 0o644); err != nil {
			return err
		}
		written++
	}
	if written < 100 {
		return fmt.Errorf("%s describes %d kinds, want those of Kubernetes", args[0], written)
	}
	return nil
}

// seal refuses members that are not described, in an object that has some.
func seal(d map[string]any) {
	if _, ok := d["properties"]; ok && d["additionalProperties"] == nil {
		d["additionalProperties"] = false
	}
}

// collect adds a definition and those that it refers to.
func collect(all map[string]map[string]any, name string, used map[string]map[string]any) {
	if used[name] != nil {
		return
	}
	used[name] = all[name]
	walk(all[name], func(ref string) { collect(all, strings.TrimPrefix(ref, reference), used) })
}

func walk(value any, found func(ref string)) {
	switch v := value.(type) {
	case map[string]any:
		for name, inner := range v {
			if ref, ok := inner.(string); ok && name == "$ref" {
				found(ref)
			} else {
				walk(inner, found)
			}
		}
	case []any:
		for _, inner := range v {
			walk(inner, found)
		}
	}
}
