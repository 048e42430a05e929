package charts

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/rootvouch/rootvouch/internal/needs"
)

// least are the values without which the chart renders nothing.
const least = `
image: {repository: registry.example.org/rootvouch-kms, tag: "1.2.3"}
trustDomain: example.org
kek: {secret: {name: kms-kek}}
`

// helm renders the key server's chart with values. If helm fails, the error has its
// output.
func helm(t *testing.T, values ...string) (string, error) {
	t.Helper()
	needs.Boot(t)
	args := []string{"template", "kms", filepath.Join(needs.Repository(t), "deploy/charts/rootvouch-kms"), "--namespace", "rootvouch", "--kube-version", "1.37.2"}
	for _, v := range values {
		file := filepath.Join(t.TempDir(), "values.yaml")
		if err := os.WriteFile(file, []byte(v), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--values", file)
	}
	cmd := exec.CommandContext(t.Context(), needs.Part(t, "charts/helm"), args...)
	cmd.Env = []string{"HOME=" + t.TempDir()}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", errors.New(stderr.String())
	}
	return stdout.String(), nil
}

// conforms checks objects with kubeconform against Kubernetes' OpenAPI description.
// An unknown member is an error.
func conforms(t *testing.T, objects string) error {
	t.Helper()
	schemas := filepath.Join(filepath.Dir(needs.Part(t, "charts/RECIPE")), "schemas")
	cmd := exec.CommandContext(t.Context(), needs.Part(t, "charts/kubeconform"), "-strict", "-summary",
		"-schema-location", schemas+"/{{ .ResourceKind }}{{ .KindSuffix }}.json")
	cmd.Stdin = strings.NewReader(objects)
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.New(string(out))
	}
	return nil
}

// object is a Kubernetes object that the chart rendered.
type object = map[string]any

// objects returns the rendered objects :: Kind/name -> object.
func objects(t *testing.T, rendered string) map[string]object {
	t.Helper()
	all := map[string]object{}
	for in := yaml.NewDecoder(strings.NewReader(rendered)); ; {
		var o object
		err := in.Decode(&o)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if o != nil {
			all[o["kind"].(string)+"/"+at(t, o, "metadata", "name").(string)] = o
		}
	}
}

// at walks down members and items.
func at(t *testing.T, value any, path ...any) any {
	t.Helper()
	for i, step := range path {
		switch v := value.(type) {
		case map[string]any:
			value = v[step.(string)]
		case []any:
			if n := step.(int); n < len(v) {
				value = v[n]
			} else {
				value = nil
			}
		default:
			t.Fatalf("%v is nothing to look into for %v", value, path[i:])
		}
	}
	return value
}

// TestConforms: for each use, the rendered objects conform to Kubernetes'
// description.
func TestConforms(t *testing.T) {
	for _, c := range []struct{ name, values string }{
		{"least", ""},
		{"first start", `createStoreBefore: "2026-12-01T12:00:00Z"`},
		{"etcd", `{etcd: {endpoints: ["https://etcd-0:2379"], replica: kms1, secret: kms-etcd}, networkPolicy: {egress: [{to: [{podSelector: {matchLabels: {app: etcd}}}], ports: [{port: 2379}]}]}}`},
		{"transit", `{kek: {secret: {name: ""}, source: {transit: {address: "https://vault:8200", key: kms, token_file: /run/vault/token, ca_file: /run/vault/ca.crt}, per_release: true}},
  extraVolumes: [{name: vault, secret: {secretName: vault}}], extraVolumeMounts: [{name: vault, mountPath: /run/vault, readOnly: true}]}`},
		{"outside", `{service: {type: LoadBalancer, annotations: {a: b}, loadBalancerSourceRanges: [192.0.2.0/24]}, networkPolicy: {from: [{ipBlock: {cidr: 192.0.2.0/24}}], monitoringFrom: [{namespaceSelector: {matchLabels: {name: monitoring}}}]}}`},
		{"all the rest", `{image: {digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}, imagePullSecrets: [{name: r}], config: {retention: 720h, break_glass: [age1x]},
  persistence: {storageClassName: fast}, crl: {baseURL: "http://mirror"}, serviceAccount: {name: keys, annotations: {a: b}}, podAnnotations: {a: b}, podLabels: {a: b}, nodeSelector: {a: b},
  tolerations: [{key: a, operator: Exists}], affinity: {nodeAffinity: {}}, priorityClassName: high, nameOverride: keys}`},
		{"no network policy", `networkPolicy: {enabled: false}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			rendered, err := helm(t, least, c.values)
			if err != nil {
				t.Fatal(err)
			}
			if err := conforms(t, rendered); err != nil {
				t.Error(err)
			}
			for _, want := range []string{"\nkind: StatefulSet\n", "\nkind: CronJob\n", "\nkind: Service\n", "\nkind: ConfigMap\n", "\nkind: ServiceAccount\n"} {
				if strings.Count(rendered, want) != 1 {
					t.Errorf("got %d of %q, want one", strings.Count(rendered, want), strings.TrimSpace(want))
				}
			}
		})
	}
}

// TestConformsRefuses: kubeconform finds an unknown member, and a member of the
// wrong type.
func TestConformsRefuses(t *testing.T) {
	rendered, err := helm(t, least)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, from, to string }{
		{"misspelt", "readinessProbe:", "readynessProbe:"},
		{"deep", "topologyKey:", "topologyKeys:"},
		{"type", "replicas: 1", "replicas: one"},
		{"missing", "selector:", "# selector:"},
	} {
		changed := strings.Replace(rendered, c.from, c.to, 1)
		if changed == rendered {
			t.Fatalf("%s: nothing to change", c.name)
		}
		if conforms(t, changed) == nil {
			t.Errorf("%s: accepted", c.name)
		}
	}
}

// TestRefuses: senseless values render nothing, and the error says what is wanted.
func TestRefuses(t *testing.T) {
	for _, c := range []struct{ name, values, want string }{
		{"no image", `image: {repository: ""}`, "image.repository"},
		{"no tag", `image: {tag: ""}`, "image.digest or image.tag"},
		{"no trust domain", `trustDomain: ""`, "trustDomain"},
		{"no key-encryption key", `kek: {secret: {name: ""}}`, "kek: want secret.name or source"},
		{"two key-encryption keys", `kek: {source: {file: x}}`, "got both"},
		{"no name in the cluster", `etcd: {endpoints: [a], secret: s}`, "etcd.replica"},
		{"no client certificate", `etcd: {endpoints: [a], replica: r}`, "etcd.secret"},
		{"a member of the chart's", `config: {listen: ":1"}`, "config.listen"},
		{"no products", `crl: {products: []}`, "crl.products"},
		{"a misspelt value", `imagge: {}`, "imagge"},
		{"a value of another type", `crl: {products: Genoa}`, "products"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if out, err := helm(t, least, c.values); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error about %s\n%.300s", err, c.want, out)
			}
		})
	}
}
