package iicp

import (
	"encoding/json"
	"testing"
	"time"
)

func TestMembersAreReadAsJSONReadsThem(t *testing.T) {
	for _, object := range []string{
		`{}`, `{"a":1}`, `{"a":"","b":null,"c":{"d":[1,{"e":"}]"}],"f":{}},"g":[],"h":true,"i":-1.5}`,
		`{"quote":"a\"b\\","next":"\\\"","ü":"ü\u00e4\n"}`, `{"a":{"b":{"c":{}}},"d":"{[,:"}`,
	} {
		var all map[string]json.RawMessage
		if err := json.Unmarshal([]byte(object), &all); err != nil {
			t.Fatal(err)
		}
		for name, value := range members([]byte(object)) {
			var text string
			if _ = json.Unmarshal(all[name], &text); string(all[name]) != string(value) || value.text() != text {
				t.Errorf("%s of %s: got %s, not %s", name, object, value, all[name])
			}
			delete(all, name)
		}
		if len(all) != 0 {
			t.Errorf("%s: nobody saw %v", object, all)
		}
	}
}

func TestMembersOfWhatIsNoObjectAreNone(t *testing.T) {
	for _, text := range []string{"", "{", `{"`, `{"a`, `{"a":`, `{"a":"`, `{"a":"\`, `[1]`, "null", `{"a":{`, `{"a":1,`} {
		for name, value := range members([]byte(text)) {
			_, _, _ = value.text(), value.integer(), value.milliseconds()
			if name != "a" {
				t.Errorf("%s has %s", text, name)
			}
		}
	}
	if took := member("1.5").milliseconds(); took != 1500*time.Microsecond {
		t.Errorf("got %v", took)
	}
}
