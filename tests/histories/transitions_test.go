package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// unsearched are transitions that no scenario of tests/search/ has.
var unsearched = []string{
	"retry: REMOVED -> QUEUED again",
	"rules: IN_PROGRESS -> QUEUED again", // a timeout that is retried
}

var failures = []string{"FAILED", "TIMED_OUT", "REJECTED"}

// moves are the calls of tests/search/. Other moves only change executions by the rules of the job.
var moves = map[string]call{
	"accept cancel":    {Method: "UpdateExecution", Request: request{Status: "REJECTED", ExecutionNumber: 1, CancelAccepted: true}},
	"cancel":           {Method: "CancelJob"},
	"cancel execution": {Method: "CancelExecution", Request: request{Force: true}},
	"delete device":    {Method: "DeleteDevices"},
	"fail":             {Method: "UpdateExecution", Request: request{Status: "FAILED", ExecutionNumber: 1}},
	"force cancel":     {Method: "CancelJob", Request: request{Force: true}},
	"reject start":     {Method: "RejectStart"},
	"retry":            {Method: "RetryExecutions", Request: request{Statuses: failures}},
	"start":            {Method: "StartExecution"},
	"succeed":          {Method: "UpdateExecution", Request: request{Status: "SUCCEEDED", ExecutionNumber: 1}},
}

// TestTransitions compares the model of an execution with that of tests/model/, whose states tests/search/ visits: it
// can make each transition of these, and a call or a rule makes no other one.
func TestTransitions(t *testing.T) {
	text, err := os.ReadFile("transitions.txt")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	views := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		_, line, _ = strings.Cut(line, " ")
		line = strings.Replace(line, "retry with new expiry", "retry", 1)
		known[line] = true
		_, change, _ := strings.Cut(line, ": ")
		from, to, _ := strings.Cut(strings.TrimSuffix(change, " again"), " -> ")
		views[from], views[to] = true, true
	}
	of := settings{continuous: true, hasPolicy: true, hasTimeout: true, lastVersion: 9}
	made := map[string]bool{}
	for from := range views {
		before := stateOf(from)
		for _, after := range of.next(before) {
			made[transition("rules", before, after)] = true
		}
		for name, each := range moves {
			each.Answered, each.Retried = true, 1
			for _, after := range of.apply(before, operation{call: &each}) {
				made[transition(name, before, after)] = true
			}
		}
	}
	delete(made, "")
	for line := range made {
		if !known[line] && !slices.Contains(unsearched, line) {
			t.Errorf("only this model makes %q", line)
		}
	}
	for line := range known {
		if !made[line] {
			t.Errorf("this model does not make %q", line)
		}
	}
}

func stateOf(view string) executionState {
	s := executionState{Job: existing, Number: 1, Version: 1, Deadlines: true}
	s.Status, s.Canceled = strings.CutPrefix(view, "canceled ")
	switch s.Status {
	case "NONE":
		s.Status, s.Number = "", 0
	case "REMOVED":
		s.Status, s.Removed = "REJECTED", true
	}
	return s
}

// transition returns a line of the file without its scenario, or "" if nothing that the file tells has changed.
func transition(name string, before, after executionState) string {
	from, to := viewOf(before), viewOf(after)
	if before.Number == after.Number && (from == to || "canceled "+from == to) {
		return ""
	}
	again := ""
	if before.Number > 0 && after.Number > before.Number {
		again = " again"
	}
	return fmt.Sprintf("%s: %s -> %s%s", name, from, to, again)
}

func viewOf(s executionState) string {
	view := s.Status
	if s.Removed {
		view = "REMOVED"
	}
	if view == "" {
		view = "NONE"
	}
	if s.Canceled {
		view = "canceled " + view
	}
	return view
}
