package strictjson

import "testing"

type doc struct {
	A  int            `json:"a"`
	B  []doc          `json:"b"`
	C  map[string]int `json:"c"`
	SK int            `json:"sk"`
}

func TestAmbiguousJSONRefused(t *testing.T) {
	for _, bad := range []string{
		``, ` `, `{`, `{"a":1`, `{"a":1}}`, `{"a":1} {}`, `{"a":1}x`, `{"d":1}`,
		`{"a":1,"a":2}`, `{"a":1,"A":2}`, `{"b":[{"a":1,"a":1}]}`, `{"c":{"x":1,"x":2}}`,
		`{"b":[],"c":{},"b":[]}`, `null`, `{"a":null}`, `{"b":[null]}`, `[`, `{"a":}`, `{"a" 1}`,
		`{"sk":1,"\u017fk":2}`, "{\"sk\":1,\"s\u212a\":2}", `{"SK":1,"\u017f\u212a":2}`,
	} {
		if err := Unmarshal([]byte(bad), new(doc)); err == nil {
			t.Errorf("%s accepted", bad)
		}
	}
	deep := ""
	for range maxDepth + 1 {
		deep += `{"b":[`
	}
	if err := Unmarshal([]byte(deep), new(doc)); err == nil {
		t.Error("deep nesting accepted")
	}
}

func TestPlainJSONAccepted(t *testing.T) {
	for _, good := range []string{
		`{}`, ` {"a":1} `, `{"a":1,"b":[{"a":1},{"a":1,"b":[]}],"c":{"x":1,"y":2}}`,
	} {
		if err := Unmarshal([]byte(good), new(doc)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
}
