package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

const maxSeconds = 24 * 60 * 60

// durationVar defines a duration flag: a number of seconds, like the settings of the gRPC server,
// or a duration with a unit. It is at most maxSeconds.
func durationVar(f *flag.FlagSet, p *time.Duration, name string, value time.Duration, usage string) {
	*p = value
	usage = fmt.Sprintf("%s, in `SECONDS` or with a unit, such as 1m30s (default %g)", usage, value.Seconds())
	f.Func(name, usage, func(text string) error {
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil {
			var duration time.Duration
			duration, err = time.ParseDuration(text)
			seconds = duration.Seconds()
		}
		inRange := 0 <= seconds && seconds <= maxSeconds // false for NaN
		if err != nil || !inRange {
			return fmt.Errorf("must be 0 to %d seconds, such as 90 or 1m30s", maxSeconds)
		}
		*p = time.Duration(math.Round(seconds * float64(time.Second)))
		return nil
	})
}

// onOff is a setting with the values on and off.
type onOff struct{ value *bool }

func (o onOff) String() string {
	if o.value == nil || *o.value {
		return "on"
	}
	return "off"
}

func (o onOff) Set(text string) error {
	if text != "on" && text != "off" {
		return errors.New("must be on or off")
	}
	*o.value = text == "on"
	return nil
}

const helpHint = "; jobs-gateway --help lists the flags"

// parseFlags parses args. It returns an error of one line, or flag.ErrHelp after it has printed the help.
func parseFlags(f *flag.FlagSet, args []string) error {
	f.SetOutput(io.Discard) // f would print its errors, each with the whole help
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		f.SetOutput(os.Stdout)
		f.Usage()
		return err
	case err != nil:
		if name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
			return errors.New("unknown flag --" + name + suggestFlag(f, name) + helpHint)
		}
		return errors.New(err.Error() + helpHint)
	case f.NArg() > 0:
		return fmt.Errorf("unexpected argument %q%s", f.Arg(0), helpHint)
	}
	return nil
}

// suggestFlag returns a suggestion of the flag with the most similar name, or "".
func suggestFlag(f *flag.FlagSet, name string) string {
	var known []string
	f.VisitAll(func(setting *flag.Flag) { known = append(known, setting.Name) })
	if nearest, distance := nearestName(name, known); 3*distance <= len(name) {
		return " (did you mean --" + nearest + "?)"
	}
	return ""
}

// StringList is a flag with comma-separated values.
type StringList []string

func (l *StringList) String() string { return strings.Join(*l, ",") }

func (l *StringList) Set(value string) error {
	*l = nil
	for item := range strings.SplitSeq(value, ",") {
		if item = strings.TrimSpace(item); item != "" {
			*l = append(*l, item)
		}
	}
	return nil
}

// NetworkList is a flag with comma-separated addresses and networks.
type NetworkList []netip.Prefix

func (l *NetworkList) String() string {
	texts := make([]string, len(*l))
	for i, network := range *l {
		texts[i] = network.String()
	}
	return strings.Join(texts, ",")
}

func (l *NetworkList) Set(value string) error {
	var items StringList
	_ = items.Set(value) // can't fail
	*l = nil
	for _, item := range items {
		network, err := netip.ParsePrefix(item)
		if address, addressErr := netip.ParseAddr(item); addressErr == nil {
			network, err = address.Prefix(address.BitLen())
		}
		if err != nil {
			return fmt.Errorf("%q is neither an address nor a network such as 10.0.0.0/8", item)
		}
		*l = append(*l, network)
	}
	return nil
}
