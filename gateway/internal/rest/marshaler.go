package rest

import (
	"io"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/proto"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/restjson"
)

// jsonMarshaler is the runtime.Marshaler of this API.
type jsonMarshaler struct{ runtime.JSONPb }

func (*jsonMarshaler) Marshal(v any) ([]byte, error) { return restjson.Marshal(v) }

// NewEncoder returns an encoder that writes the JSON of Marshal.
func (m *jsonMarshaler) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(v any) error {
		body, err := m.Marshal(v)
		if err == nil {
			_, err = w.Write(body)
		}
		return err
	})
}

// NewDecoder returns a decoder of a requestBody. io.EOF tells the generated code that there is no body.
func (m *jsonMarshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		body, ok := r.(*requestBody)
		if !ok {
			return io.EOF
		}
		if body.err = decodeMessage(body.json, v.(proto.Message).ProtoReflect(), body.inPath); body.err != nil {
			return body.err
		}
		body.json = nil // the memory is not needed during the call
		return nil
	})
}

// requestBody replaces the body of a request after it has been read. It carries the JSON to the decoder that the
// generated code calls.
type requestBody struct {
	json   []byte
	inPath map[string]string // the variables of the path
	err    *apierror.Error   // set by the decoder: the generated code turns its error into text
}

func (*requestBody) Read([]byte) (int, error) { return 0, io.EOF }
func (*requestBody) Close() error             { return nil }
