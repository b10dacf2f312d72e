package main

import (
	"slices"
	"testing"
)

// TestRepeatsOfEmptyAnswers leaves out an answer only if neither it nor the one before runs beside a report.
func TestRepeatsOfEmptyAnswers(t *testing.T) {
	empty := func(start, end int64) operation {
		return operation{call: &call{Method: "StartNextExecution", Answered: true, Start: start, End: end}}
	}
	report := operation{call: &call{Method: "UpdateExecution", Answered: true, Start: 30, End: 40}}
	for name, each := range map[string]struct {
		operations []operation
		kept       []int64 // their starts
	}{
		"one after the other": {[]operation{empty(1, 2), empty(3, 4), empty(5, 6), report}, []int64{1, 30}},
		"one runs on":         {[]operation{empty(1, 2), empty(3, 35), report}, []int64{1, 3, 30}},
		"the first runs on":   {[]operation{empty(1, 35), empty(3, 4), empty(5, 6), report}, []int64{1, 3, 30}},
		"around a report":     {[]operation{empty(1, 2), report, empty(45, 46), empty(47, 48)}, []int64{1, 30, 45}},
		"beside a report":     {[]operation{report, empty(35, 36), empty(37, 38)}, []int64{30, 35, 37}},
	} {
		var starts []int64
		for _, kept := range withoutRepeats(each.operations) {
			starts = append(starts, kept.Start)
		}
		if !slices.Equal(starts, each.kept) {
			t.Errorf("%s: kept %v, not %v", name, starts, each.kept)
		}
	}
}
