package main

import (
	"errors"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// durationVar defines a duration flag: a number of seconds, like the settings of the gRPC server,
// or a duration with a unit.
func durationVar(f *flag.FlagSet, p *time.Duration, name string, value time.Duration, usage string) {
	*p = value
	usage = fmt.Sprintf("%s, in `SECONDS` or with a unit, such as 1m30s (default %g)", usage, value.Seconds())
	f.Func(name, usage, func(text string) error {
		if seconds, err := strconv.ParseFloat(text, 64); err == nil {
			*p = time.Duration(seconds * float64(time.Second))
			return nil
		}
		duration, err := time.ParseDuration(text)
		if err != nil {
			return errors.New("must be a number of seconds or a duration such as 1m30s")
		}
		*p = duration
		return nil
	})
}

// stringList is a flag with comma-separated values.
type stringList []string

func (l *stringList) String() string { return strings.Join(*l, ",") }

func (l *stringList) Set(value string) error {
	*l = nil
	for item := range strings.SplitSeq(value, ",") {
		if item = strings.TrimSpace(item); item != "" {
			*l = append(*l, item)
		}
	}
	return nil
}
