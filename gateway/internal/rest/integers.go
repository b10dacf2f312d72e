// Need: callers, whose documents must not lose digits.

package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
)

// maxExactInteger is 2^53: a double does not represent every larger integer.
const maxExactInteger = 1 << 53

// Every document with a larger integer has that many digits in a row. Others are not parsed again.
var manyDigits = regexp.MustCompile("[0-9]{16}")

// checkIntegers rejects a valid document with an integer literal beyond ±2^53: a google.protobuf.Struct would drop
// digits. Literals with a fraction or an exponent are doubles for the client as well.
func checkIntegers(document jsonMember) *apierror.Error {
	if !manyDigits.Match(document.value) {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(document.value))
	decoder.UseNumber()
	keys, found := findLargeInteger(decoder)
	if !found {
		return nil
	}
	slices.Reverse(keys)
	quoted := strconv.Quote(document.name + strings.Join(keys, "")) // escapes unprintable characters
	path := apierror.Truncate(quoted[1 : len(quoted)-1])
	return apierror.InvalidField(path, path+" is an integer beyond ±2^53 and would lose digits; send it as a string")
}

// findLargeInteger reads a value and returns the keys and indexes of its first integer beyond ±2^53, the innermost first.
func findLargeInteger(decoder *json.Decoder) (keys []string, found bool) {
	token, _ := decoder.Token()
	switch token {
	case json.Delim('['), json.Delim('{'):
		for i := 0; decoder.More(); i++ {
			key := fmt.Sprintf("[%d]", i)
			if token == json.Delim('{') {
				name, _ := decoder.Token()
				key = fmt.Sprintf(".%s", name)
			}
			if keys, found := findLargeInteger(decoder); found {
				return append(keys, key), true
			}
		}
		_, _ = decoder.Token() // the end of the array or object
		return nil, false
	}
	number, isNumber := token.(json.Number)
	return nil, isNumber && isLargeInteger(number.String())
}

func isLargeInteger(literal string) bool {
	n, err := strconv.ParseInt(literal, 10, 64)
	if err != nil {
		return !strings.ContainsAny(literal, ".eE") // out of range, or no integer
	}
	return n < -maxExactInteger || n > maxExactInteger
}
