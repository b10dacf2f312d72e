package rest

import (
	"strings"
	"testing"
)

func TestCheckIntegers_AcceptsWhatADoubleRepresents(t *testing.T) {
	for _, document := range []string{
		`{}`, `{"a": 9007199254740992}`, `[-9007199254740992, 0]`, `{"a": "12345678901234567890"}`, `{"12345678901234567890": 1}`,
		`{"a": 1234567890123456789.5, "b": 12345678901234567890e0}`,
	} {
		if e := checkIntegers(jsonMember{"document_params", []byte(document)}); e != nil {
			t.Errorf("%s: %s", document, e.Detail)
		}
	}
}

// The time grows with the size of the document, not with its depth.
func TestCheckIntegers_FindsAnIntegerInADeeplyNestedDocument(t *testing.T) {
	const depth = 9000
	document := strings.Repeat(`{"aaaaaaaaaaaaaaaaaaaa":`, depth) + "9007199254740993" + strings.Repeat("}", depth)

	e := checkIntegers(jsonMember{"document_params", []byte(document)})

	if e == nil || len(e.Detail) > 300 {
		t.Error(e)
	}
}
