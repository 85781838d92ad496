package policy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext/policy"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(policy.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("policy.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("policy.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(t *testing.T, s *jsonschema.Schema, text string) error {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

// fields returns the paths of the members that encoding/json reads into t, and whether
// they are objects with fields of their own.
func fields(t reflect.Type, prefix string) (paths []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		paths = append(paths, prefix+name)
		if ft := f.Type; ft.Kind() == reflect.Pointer && ft.Elem().Kind() == reflect.Struct {
			paths = append(paths, fields(ft.Elem(), prefix+name+".")...)
		}
	}
	return paths
}

// properties returns the same of a schema. Objects that are no structs are left out.
func properties(t *testing.T, root, s map[string]any, prefix string) (paths []string) {
	t.Helper()
	if ref, ok := s["$ref"].(string); ok {
		s = root["$defs"].(map[string]any)[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
	}
	members, _ := s["properties"].(map[string]any)
	if members == nil {
		return nil
	}
	if s["additionalProperties"] != false {
		t.Errorf("%s allows unknown members", prefix)
	}
	for name, m := range members {
		member := m.(map[string]any)
		if _, ok := member["description"]; !ok && prefix != "tpm.pcrs." {
			t.Errorf("%s%s is not described", prefix, name)
		}
		paths = append(paths, prefix+name)
		paths = append(paths, properties(t, root, member, prefix+name+".")...)
	}
	return paths
}

func TestSchemaHasEachFieldAndNoOther(t *testing.T) {
	var root map[string]any
	if err := json.Unmarshal(policy.Schema(), &root); err != nil {
		t.Fatal(err)
	}
	isBank := func(p string) bool { return strings.HasPrefix(p, "tpm.pcrs.") } // members of a map
	got := slices.DeleteFunc(properties(t, root, root, ""), isBank)
	want := fields(reflect.TypeFor[policy.Policy](), "")
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("schema has\n%q\nPolicy has\n%q", got, want)
	}
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "POLICY.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9_.]+)` \\| [^|]+ \\| [^|]+ \\| ").FindAllStringSubmatch(string(doc), -1) {
		documented[m[1]] = true
	}
	for _, path := range want {
		if documented[path] || slices.Contains([]string{"tdx", "snp", "tpm", "eat"}, path) {
			delete(documented, path)
			continue
		}
		t.Errorf("docs/POLICY.md does not have %s", path)
	}
	if len(documented) != 0 {
		t.Errorf("docs/POLICY.md has %v, and Policy does not", slices.Collect(maps.Keys(documented)))
	}
}

func TestExamplesOfTheDocumentationAreAccepted(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "POLICY.md"))
	if err != nil {
		t.Fatal(err)
	}
	s := compiled(t)
	examples := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(string(doc), -1)
	if len(examples) < 4 {
		t.Fatalf("%d examples", len(examples))
	}
	for _, m := range append(examples, []string{"", full}, []string{"", fullSNP}) {
		if _, err := policy.Parse([]byte(m[1])); err != nil {
			t.Errorf("%v: %s", err, m[1])
		}
		if err := validate(t, s, m[1]); err != nil {
			t.Errorf("%v: %s", err, m[1])
		}
	}
}

// TestSchemaAcceptsWhatParseDoes: and it refuses what it can of what Parse refuses.
func TestSchemaAcceptsWhatParseDoes(t *testing.T) {
	s := compiled(t)
	h := func(n int) string { return strings.Repeat("ab", n) }
	valid := []string{full, fullSNP, `{"tdx":{}}`, `{"tdx":{},"snp":{},"tpm":{}}`, `{"tpm":{"reset_count":0}}`,
		`{"tdx":{},"max_quote_age":"1h30m"}`, `{"tdx":{},"max_quote_age":"0.5s","insecure_allow_unknown_quote_age":true}`,
		`{"tdx":{"xfam":{"set":"` + h(8) + `"}}}`, `{"tdx":{"mrtd":["` + strings.ToUpper(h(48)) + `"]}}`, `{"snp":{"min_tcb":{"snp":255}}}`,
		`{"eat":{"measurements":["` + h(32) + `"],"profile":["1.2.3"],"debug_status":["disabled"],"max_age":"5m","deny_ueids":["` + h(17) + `"]}}`, `{"eat":{}}`, `{"eat":{"oemid":["AABBCC","pen:0","pen:9223372036854775807"],"hwmodel":["` + h(32) + `"],"ueids":["` + h(7) + `","` + h(33) + `"]}}`,
		`{"eat":{"claims":{"-75000":["f5"],"0":["00"]}}}`, `{"eat":{"allow_submods":true,"insecure_allow_debug":true}}`}
	for _, bank := range []struct {
		name string
		size int
	}{{"sha256", 32}, {"sha384", 48}, {"sha512", 64}} {
		for _, index := range []int{0, 9, 10, 19, 20, 23} {
			valid = append(valid, fmt.Sprintf(`{"tpm":{"pcrs":{%q:{"%d":["%s"]}}}}`, bank.name, index, h(bank.size)))
		}
	}
	for _, text := range valid {
		if _, err := policy.Parse([]byte(text)); err != nil {
			t.Errorf("Parse: %v: %.100s", err, text)
		}
		if err := validate(t, s, text); err != nil {
			t.Errorf("schema: %v: %.100s", err, text)
		}
	}
	for _, text := range []string{
		`{}`, `[]`, `null`, `{"tdx":null}`, `{"tdx":[]}`, `{"max_quote_age":"1h"}`, `{"tdx":{},"sgx":{}}`, `{"TDX":{}}`, "{\"\u017fnp\":{}}", `{"tdx":{"MRTD":["` + h(48) + `"]}}`,
		`{"tdx":{"mrtd":[]}}`, `{"tdx":{"mrtd":"` + h(48) + `"}}`, `{"tdx":{"mrtd":["` + h(47) + `"]}}`, `{"tdx":{"mrtd":["` + h(49) + `"]}}`, `{"tdx":{"mrtd":["` + h(47) + `xx"]}}`,
		`{"tdx":{},"max_quote_age":""}`, `{"tdx":{},"max_quote_age":"-1h"}`, `{"tdx":{},"max_quote_age":60}`, `{"tdx":{},"max_quote_age":"1d"}`,
		`{"tdx":{"insecure_allow_debug":1}}`, `{"tdx":{"events":{}}}`, `{"tdx":{"events":{"rtmr4":["` + h(48) + `"]}}}`, `{"tdx":{"xfam":{}}}`,
		`{"tdx":{"tcb":{"allow_statuses":["Revoked"]}}}`, `{"tdx":{"tcb":{"allow_statuses":[]}}}`, `{"tdx":{"tcb":{"grace":"1h"}}}`,
		`{"snp":{"guest_policy":{}}}`, `{"snp":{"platform_info":{}}}`, `{"snp":{"guest_policy":{"set":"00"}}}`, `{"snp":{"max_vmpl":4}}`, `{"snp":{"max_vmpl":-1}}`, `{"snp":{"min_guest_svn":4294967296}}`, `{"snp":{"min_guest_svn":1.5}}`, `{"snp":{"min_tcb":{"snp":256}}}`, `{"snp":{"chip_ids":["` + h(16) + `"]}}`,
		`{"tpm":{"pcrs":{}}}`, `{"tpm":{"pcrs":{"sha1":{"0":["` + h(20) + `"]}}}}`, `{"tpm":{"pcrs":{"sha256":{"24":["` + h(32) + `"]}}}}`, `{"tpm":{"pcrs":{"sha256":{"00":["` + h(32) + `"]}}}}`,
		`{"eat":{"measurements":[]}}`, `{"eat":{"measurements":["` + h(31) + `"]}}`, `{"eat":{"profile":[""]}}`, `{"eat":{"oemid":["PEN:1"]}}`, `{"eat":{"oemid":["pen:01"]}}`, `{"eat":{"oemid":["pen:"]}}`, `{"eat":{"oemid":["` + h(4) + `"]}}`,
		`{"eat":{"hwmodel":[""]}}`, `{"eat":{"hwmodel":["` + h(33) + `"]}}`, `{"eat":{"ueids":["` + h(6) + `"]}}`, `{"eat":{"deny_ueids":["` + h(34) + `"]}}`, `{"eat":{"debug_status":["enabled"]}}`, `{"eat":{"debug_status":[]}}`,
		`{"eat":{"claims":{}}}`, `{"eat":{"claims":{"1":[]}}}`, `{"eat":{"claims":{"01":["00"]}}}`, `{"eat":{"claims":{"x":["00"]}}}`, `{"eat":{"claims":{"1":[""]}}}`, `{"eat":{"claims":{"1":["0"]}}}`, `{"eat":{"max_age":"0s x"}}`,
		`{"tpm":{"pcrs":{"sha256":{"0":["` + h(48) + `"]}}}}`, `{"tpm":{"ek_ids":["` + h(48) + `"]}}`,
	} {
		if _, err := policy.Parse([]byte(text)); err == nil {
			t.Errorf("Parse accepts %.100s", text)
		}
		if validate(t, s, text) == nil {
			t.Errorf("the schema accepts %.100s", text)
		}
	}
}
