package config

import (
	"flag"
	"log/slog"
	"regexp"
	"strings"
)

// serviceLink matches the variables that Kubernetes sets for a service named jobs-gateway.
var serviceLink = regexp.MustCompile(`^JOBS_GATEWAY_(SERVICE_(HOST|PORT.*)=|PORT=(tcp|udp)://|PORT_\d+_)`)

// WarnOfUnknownVariables logs the JOBS_GATEWAY_… variables of environ that are not settings, without
// their values.
func WarnOfUnknownVariables(environ []string, logger *slog.Logger) {
	var known []string
	(&Config{}).flagSet().VisitAll(func(setting *flag.Flag) { known = append(known, EnvName(setting.Name)) })
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, envPrefix) || serviceLink.MatchString(variable) {
			continue
		}
		if nearest, distance := nearestName(name, known); distance > 0 {
			logger.Warn("unknown environment variable, which has no effect", "variable", name, "nearest", nearest)
		}
	}
}

// nearestName returns the name that the fewest edits make of name, and their number.
func nearestName(name string, known []string) (nearest string, distance int) {
	distance = len(name) + 1
	for _, candidate := range known {
		if d := editDistance(name, candidate); d < distance {
			nearest, distance = candidate, d
		}
	}
	return nearest, distance
}

// editDistance returns how many insertions, deletions and replacements of bytes make b of a.
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
