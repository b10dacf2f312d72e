package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
)

// jsonMember is one name and value of a JSON object.
type jsonMember struct {
	name  string
	value json.RawMessage
}

func (m jsonMember) isNull() bool { return string(m.value) == "null" }

// parseJSONObject returns the members of the JSON object in body, in their order and with
// repeated names. It rejects anything after the object.
func parseJSONObject(body []byte) ([]jsonMember, *apierror.Error) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	open, err := decoder.Token()
	if err != nil {
		return nil, invalidJSON(err)
	}
	if open != json.Delim('{') {
		return nil, apierror.MalformedRequest("The body must be one JSON object")
	}
	var members []jsonMember
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, invalidJSON(err)
		}
		m := jsonMember{name: name.(string)} // the decoder returns names only as strings
		if err := decoder.Decode(&m.value); err != nil {
			return nil, invalidJSON(err)
		}
		members = append(members, m)
	}
	if _, err := decoder.Token(); err != nil {
		return nil, invalidJSON(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, apierror.MalformedRequest("The body must be one JSON object")
	}
	return members, nil
}

func invalidJSON(err error) *apierror.Error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return apierror.MalformedRequest("The body is not valid JSON: unexpected end of input")
	}
	return apierror.MalformedRequest("The body is not valid JSON: " + err.Error())
}
