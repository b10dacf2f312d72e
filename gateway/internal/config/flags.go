// Need: operators, whose typing errors must not pass unnoticed.

package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"os"
	"regexp"
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

// onOffVar defines a flag with the values on and off.
func onOffVar(f *flag.FlagSet, p *bool, name string, value bool, usage string) {
	*p = value
	f.Func(name, usage, func(text string) error {
		if text != "on" && text != "off" {
			return errors.New("must be on or off")
		}
		*p = text == "on"
		return nil
	})
}

// listVar defines a flag with comma-separated values.
func listVar[T any](f *flag.FlagSet, p *[]T, parse func(string) (T, error), name, usage string) {
	f.Func(name, usage, func(text string) error {
		*p = nil
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item == "" {
				continue
			}
			value, err := parse(item)
			if err != nil {
				return err
			}
			*p = append(*p, value)
		}
		return nil
	})
}

func asText(item string) (string, error) { return item, nil }

func parseNetwork(item string) (netip.Prefix, error) {
	if address, err := netip.ParseAddr(item); err == nil {
		return address.Prefix(address.BitLen())
	}
	network, err := netip.ParsePrefix(item)
	if err != nil {
		return network, fmt.Errorf("%q is neither an address nor a network such as 10.0.0.0/8", item)
	}
	return network, nil
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
			if nearest, distance := nearestName(name, f, func(flag string) string { return flag }); 3*distance <= len(name) {
				name += " (did you mean --" + nearest + "?)"
			}
			return errors.New("unknown flag --" + name + helpHint)
		}
		return errors.New(err.Error() + helpHint)
	case f.NArg() > 0:
		return fmt.Errorf("unexpected argument %q%s", f.Arg(0), helpHint)
	}
	return nil
}

// serviceLink matches the variables that Kubernetes sets for a service named jobs-gateway.
var serviceLink = regexp.MustCompile(`^JOBS_GATEWAY_(SERVICE_(HOST|PORT.*)=|PORT=(tcp|udp)://|PORT_\d+_)`)

// WarnOfUnknownVariables logs the JOBS_GATEWAY_… variables of environ that are not settings, without
// their values.
func WarnOfUnknownVariables(environ []string, logger *slog.Logger) {
	known := (&Config{}).flagSet()
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, envPrefix) || serviceLink.MatchString(variable) {
			continue
		}
		if nearest, distance := nearestName(name, known, EnvName); distance > 0 {
			logger.Warn("unknown environment variable, which has no effect", "variable", name, "nearest", nearest)
		}
	}
}

// nearestName returns the flag name, formatted by nameOf, with the smallest edit distance to name, and that distance.
func nearestName(name string, f *flag.FlagSet, nameOf func(string) string) (nearest string, distance int) {
	distance = len(name) + 1
	f.VisitAll(func(setting *flag.Flag) {
		if d := editDistance(name, nameOf(setting.Name)); d < distance {
			nearest, distance = nameOf(setting.Name), d
		}
	})
	return nearest, distance
}

// editDistance returns the Levenshtein distance between a and b, in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
