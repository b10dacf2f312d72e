package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// member is one name and value of a JSON object.
type member struct {
	name  string
	value json.RawMessage
}

func (m member) isNull() bool { return string(m.value) == "null" }

// parseObject reads a JSON object and nothing after it. Names come in order, repeats included.
func parseObject(body []byte) ([]member, *problem) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	open, err := decoder.Token()
	if err != nil {
		return nil, describe(err)
	}
	if open != json.Delim('{') {
		return nil, malformed("The body must be one JSON object")
	}
	var members []member
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, describe(err)
		}
		m := member{name: name.(string)} // a name is always a string
		if err := decoder.Decode(&m.value); err != nil {
			return nil, describe(err)
		}
		members = append(members, m)
	}
	if _, err := decoder.Token(); err != nil {
		return nil, describe(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, malformed("The body must be one JSON object")
	}
	return members, nil
}

func describe(err error) *problem {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return malformed("The body is not JSON: it ends too early")
	}
	return malformed("The body is not JSON: " + err.Error())
}
