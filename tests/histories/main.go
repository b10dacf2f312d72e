// Command histories decides whether a history of calls could have come from a service that makes one call at a time.
//
// A history is a file of JSON lines, which tests/harness/history.py writes. Each execution and each job is checked
// alone, with Porcupine: its calls must be possible in some order in which no call moves before one that ended before
// it began. A call without an answer may have happened at any time after it began, or never.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// maxRunning is how long a call can go on after its client has stopped waiting, as in tests/harness/traffic.py.
const maxRunning = int64(60 * time.Second)

// maxViolations is how many violations are described.
const maxViolations = 5

// A call is a line of the history.
type call struct {
	Start    int64   `json:"start"` // nanoseconds
	End      int64   `json:"end"`
	Tenant   string  `json:"tenant"`
	Device   string  `json:"device"` // which called
	Method   string  `json:"method"`
	Request  request `json:"request"`
	Answered bool    `json:"answered"` // the service has accepted the call, or refused it for the reason in Error
	Error    string  `json:"error"`
	// What the answer says about executions and jobs.
	Executions []executionFact `json:"executions"`
	Jobs       []jobFact       `json:"jobs"`
	Ended      []attemptFact   `json:"ended"` // by others
	Retried    int             `json:"retried_count"`
	HasMore    bool            `json:"has_more"`
}

// A request has the fields of all methods that the models know.
type request struct {
	JobID           string        `json:"job_id"`
	DeviceID        string        `json:"device_id"`
	DeviceIDs       []string      `json:"device_ids"`
	Status          string        `json:"status"`
	ExecutionNumber int           `json:"execution_number"`
	CancelAccepted  bool          `json:"cancel_accepted"`
	Executions      []attemptFact `json:"executions"`
	Force           bool          `json:"force"`
	Stage           int           `json:"stage"`
	Etag            string        `json:"etag"`
	ReplacesJobID   string        `json:"replaces_job_id"`
	Statuses        []string      `json:"statuses"`
	Continuous      bool          `json:"continuous"`
	StartApproval   bool          `json:"require_start_approval"`
	UpdateMask      string        `json:"update_mask"`
	AllowMissing    bool          `json:"allow_missing"`
	Devices         []struct {
		DeviceID string `json:"device_id"`
	} `json:"devices"`
	RetryPolicy     any `json:"retry_policy"`
	Rollout         any `json:"rollout"`
	FailureCriteria []struct {
		Action string `json:"action"`
	} `json:"failure_criteria"`
	TimeoutMinutes int `json:"in_progress_timeout_minutes"`
}

type executionFact struct {
	JobID           string `json:"job_id"`
	DeviceID        string `json:"device_id"`
	Status          string `json:"status"`
	Number          int    `json:"execution_number"`
	Version         int    `json:"version"`
	CancelRequested *bool  `json:"cancel_requested"`
}

type attemptFact struct {
	JobID  string `json:"job_id"`
	Number int    `json:"execution_number"`
}

// isRefused reports whether the service has refused the call.
func (c *call) isRefused() bool { return c.Answered && c.Error != "" }

// isAccepted reports whether the service has accepted the call. One without an answer is neither.
func (c *call) isAccepted() bool { return c.Answered && c.Error == "" }

// until is the time after which the call can't happen anymore.
func (c *call) until() int64 {
	if c.Answered {
		return c.End
	}
	return c.End + maxRunning
}

// report is how the call ends an attempt.
func (c *call) report() string {
	return fmt.Sprintf("%s %t", c.Request.Status, c.Request.CancelAccepted)
}

type jobFact struct {
	JobID    string `json:"job_id"`
	Status   string `json:"status"`
	Etag     int    `json:"etag"`
	Pause    string `json:"pause"`
	Start    string `json:"start_approval"`
	Replaced string `json:"replaced_by_job_id"`
	Total    int    `json:"total_executions"`
	Stage    int    `json:"open_stage"` // -1: not known
	Approved []int  `json:"approved_stages"`
}

// An operation is a call as one execution or one job sees it.
type operation struct {
	*call
	executions []executionFact // of this execution, newest first
	ended      int             // the attempt of this execution that others have ended; 0: the call names none
	job        *jobFact        // of this job
	creates    bool            // CreateJob of this job, rather than of one that replaces it
}

func (o operation) isRead() bool {
	switch o.Method {
	case "GetJob", "ListJobs", "GetExecution", "ListPendingExecutions", "ListJobExecutions", "ListExecutionAttempts",
		"ExplainExecution":
		return true
	}
	return o.isRefused()
}

func (o operation) String() string {
	text := o.Method
	if o.Method == "CreateJob" && !o.creates {
		text = "CreateJob of " + o.Request.JobID
	}
	for _, each := range []string{o.Device, o.Request.DeviceID, o.Request.Status} {
		if each != "" {
			text += " " + each
		}
	}
	if o.Request.ExecutionNumber != 0 {
		text += fmt.Sprintf(" of attempt %d", o.Request.ExecutionNumber)
	}
	if o.Request.Etag != "" {
		text += " with etag " + o.Request.Etag
	}
	if o.Request.Force {
		text += " with force"
	}
	switch {
	case !o.Answered:
		return text + ": no answer"
	case o.Error != "":
		return text + ": " + o.Error
	case o.job != nil:
		return text + fmt.Sprintf(": %+v", *o.job)
	}
	text += ":"
	for _, each := range o.executions {
		text += fmt.Sprintf(" attempt %d %s, version %d", each.Number, each.Status, each.Version)
	}
	if o.ended != 0 {
		text += fmt.Sprintf(" others ended attempt %d", o.ended)
	}
	return text
}

// A history has the operations on one execution or one job.
type history struct {
	name       string
	model      porcupine.Model
	operations []operation
}

func main() {
	folder := flag.String("html", "", "write a visualization of each violation into this folder")
	limit := flag.Duration("limit", 20*time.Second, "how long to look for an order of the calls of one execution or job")
	flag.Parse()
	calls, err := read(flag.Arg(0))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if !check(os.Stdout, calls, *folder, *limit) {
		os.Exit(1)
	}
}

func read(path string) ([]*call, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var calls []*call
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<26)
	for lines.Scan() {
		each := new(call)
		if err := json.Unmarshal(lines.Bytes(), each); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, len(calls)+1, err)
		}
		calls = append(calls, each)
	}
	return calls, lines.Err()
}

// check writes the result and reports whether all histories are possible.
func check(out io.Writer, calls []*call, folder string, limit time.Duration) bool {
	started := time.Now()
	var mutex sync.Mutex
	var violations, undecided []history
	queue := make(chan history)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for each := range queue {
				result := porcupine.CheckOperationsTimeout(each.model, intervals(each.operations), limit)
				mutex.Lock()
				switch result {
				case porcupine.Illegal:
					violations = append(violations, each)
				case porcupine.Unknown:
					undecided = append(undecided, each)
				}
				mutex.Unlock()
			}
		})
	}
	// One by one: all histories together would need several times the memory of the calls.
	executions, jobs := 0, 0
	for each := range executionHistories(calls) {
		executions++
		queue <- each
	}
	for each := range jobHistories(calls) {
		jobs++
		queue <- each
	}
	close(queue)
	workers.Wait()
	fmt.Fprintf(out, "%d calls, %d executions, %d jobs: %d violations, %d undecided, in %.1f s\n", len(calls),
		executions, jobs, len(violations), len(undecided), time.Since(started).Seconds())
	for _, each := range undecided {
		fmt.Fprintf(out, "undecided after %v or %d steps: %s, %d calls\n", limit, maxSteps, each.name, len(each.operations))
	}
	sort.Slice(violations, func(i, j int) bool { return violations[i].name < violations[j].name })
	for _, each := range violations[:min(len(violations), maxViolations)] {
		describe(out, each, folder, limit)
	}
	return len(violations)+len(undecided) == 0
}

// intervals returns operations with the times between which they happened.
func intervals(operations []operation) []porcupine.Operation {
	var found []porcupine.Operation
	var last int64
	for _, each := range operations {
		last = max(last, each.End+1)
	}
	var free []int64 // when each line of the visualization is free
	for n := range operations {
		each := &operations[n]
		end := min(each.until(), last)
		line := slices.IndexFunc(free, func(at int64) bool { return at < each.Start })
		if line < 0 {
			line, free = len(free), append(free, 0)
		}
		free[line] = end
		found = append(found, porcupine.Operation{ClientId: line, Input: each, Call: each.Start, Return: end})
	}
	return found
}

func describe(out io.Writer, violation history, folder string, limit time.Duration) {
	operations := smallest(violation, limit)
	fmt.Fprintf(out, "\n%s: no order of these calls is possible\n", violation.name)
	first := operations[0].Start
	for _, each := range operations {
		start, end := float64(each.Start-first)/1e9, float64(each.End-first)/1e9
		fmt.Fprintf(out, "  %10.6f – %10.6f s  %v\n", start, end, each)
	}
	if folder == "" {
		return
	}
	found := intervals(violation.operations)
	_, info := porcupine.CheckOperationsVerbose(violation.model, found, limit)
	path := filepath.Join(folder, strings.ReplaceAll(violation.name, "/", "_")+".html")
	if err := porcupine.VisualizePath(violation.model, info, path); err != nil {
		fmt.Fprintf(out, "  no visualization: %v\n", err)
		return
	}
	fmt.Fprintf(out, "  see %s\n", path)
}

// smallest returns the operations until the first answer that is not possible, without reads that do not matter.
func smallest(violation history, limit time.Duration) []operation {
	isIllegal := func(operations []operation) bool {
		return porcupine.CheckOperationsTimeout(violation.model, intervals(operations), limit) == porcupine.Illegal
	}
	ends := make([]int64, len(violation.operations))
	for n, each := range violation.operations {
		ends[n] = each.End
	}
	slices.Sort(ends)
	until := func(end int64) []operation {
		var found []operation
		for _, each := range violation.operations {
			if each.Start > end {
				continue
			}
			if each.Answered && each.End > end {
				if each.isRead() {
					continue
				}
				copied := *each.call
				copied.Answered, copied.Error = false, ""
				each.call, each.executions, each.job = &copied, nil, nil
			}
			found = append(found, each)
		}
		return found
	}
	n := sort.Search(len(ends)-1, func(n int) bool { return isIllegal(until(ends[n])) })
	operations := until(ends[n])
	for n := len(operations) - 1; n >= 0; n-- {
		less := slices.Delete(slices.Clone(operations), n, n+1)
		if operations[n].isRead() && isIllegal(less) {
			operations = less
		}
	}
	return operations
}

// reachable returns the states, and those to which time and the rules of the job can lead from them.
func reachable[S comparable](states []S, next func(S) []S) []S {
	found := slices.Clone(states)
	for n := 0; n < len(found); n++ {
		for _, each := range next(found[n]) {
			if !slices.Contains(found, each) {
				found = append(found, each)
			}
		}
	}
	return found
}

// A set has the states in which an execution or a job can be after some operations.
type set[S comparable] struct {
	of     *search[S]
	states []S
	hash   uint64
	after  map[*operation]*set[S] // where operations lead
}

// A search looks for one order of operations. It keeps each set of states once: it meets few of them, and each in many
// orders of the operations.
type search[S comparable] struct {
	seed  maphash.Seed
	known map[uint64][]*set[S]
	steps int
}

// unique returns the set of the states.
func (of *search[S]) unique(states []S) *set[S] {
	found := &set[S]{of, states, 0, map[*operation]*set[S]{}}
	for _, each := range states {
		found.hash += maphash.Comparable(of.seed, each)
	}
	isSame := func(other *set[S]) bool {
		isNew := func(each S) bool { return !slices.Contains(other.states, each) }
		return len(other.states) == len(states) && !slices.ContainsFunc(states, isNew)
	}
	if n := slices.IndexFunc(of.known[found.hash], isSame); n >= 0 {
		return of.known[found.hash][n]
	}
	of.known[found.hash] = append(of.known[found.hash], found)
	return found
}

// maxSteps is how many operations are tried in one search, which bounds its memory. Then it waits for its time limit.
const maxSteps = 10_000_000

// model returns a model whose states change by themselves, before and after each operation.
//
// `apply` returns the states to which an operation leads, before its answer is read: none if it is not possible.
// `observe` returns the state that is left if the answer is that of this state.
func model[S comparable](
	initial []S, next func(S) []S, apply func(S, operation) []S, observe func(S, operation) (S, bool),
) porcupine.Model {
	step := func(before *set[S], o *operation) *set[S] {
		var applied, found []S
		for _, each := range reachable(before.states, next) {
			applied = append(applied, apply(each, *o)...)
		}
		if o.isAccepted() {
			applied = reachable(applied, next)
		}
		for _, each := range applied {
			seen, ok := each, true
			if o.isAccepted() {
				seen, ok = observe(each, *o)
			}
			if ok && !slices.Contains(found, seen) {
				found = append(found, seen)
			}
		}
		return before.of.unique(found)
	}
	return porcupine.Model{
		Init: func() any {
			of := &search[S]{seed: maphash.MakeSeed(), known: map[uint64][]*set[S]{}}
			return of.unique(initial)
		},
		StepContext: func(ctx context.Context, state, input, _ any) (bool, any) {
			before, o := state.(*set[S]), input.(*operation)
			if before.of.steps++; before.of.steps > maxSteps {
				<-ctx.Done()
			}
			after := before.after[o]
			if after == nil {
				after = step(before, o)
				before.after[o] = after
			}
			return len(after.states) > 0, after
		},
		Equal:             func(one, other any) bool { return one == other },
		Hash:              func(state any) uint64 { return state.(*set[S]).hash },
		DescribeOperation: func(input, _ any) string { return input.(*operation).String() },
		DescribeState:     func(state any) string { return fmt.Sprintf("%+v", state.(*set[S]).states) },
	}
}

// settings are what requests allow the rules of a job to do.
type settings struct {
	createdAt    int64
	continuous   bool // devices can join
	completes    bool // the job can complete
	approval     bool // the start needs an approval
	hasPolicy    bool // failures can be retried
	hasCriteria  bool // failures can pause the job
	cancels      bool // failures can cancel it
	forceCancels bool
	hasRollout   bool
	hasTimeout   bool
	lastVersion  int // of the execution: no answer has a later one
}

func (s *settings) add(each *call) {
	r := each.Request
	switch each.Method {
	case "CreateJob":
		if s.createdAt == 0 || each.Start < s.createdAt {
			s.createdAt = each.Start
		}
		s.continuous = s.continuous || r.Continuous
		s.completes = s.completes || !r.Continuous
		s.approval = s.approval || r.StartApproval
		s.hasRollout = s.hasRollout || r.Rollout != nil
	case "UpdateJob":
		s.completes = s.completes || strings.Contains(r.UpdateMask, "continuous")
	default:
		return
	}
	s.hasPolicy = s.hasPolicy || r.RetryPolicy != nil
	s.hasTimeout = s.hasTimeout || r.TimeoutMinutes > 0
	for _, criterion := range r.FailureCriteria {
		s.hasCriteria = true
		s.cancels = s.cancels || criterion.Action == "CANCEL"
		s.forceCancels = s.forceCancels || criterion.Action == "FORCE_CANCEL"
	}
}

type jobKey struct{ tenant, job string }

func settingsOfJobs(calls []*call) map[jobKey]*settings {
	found := map[jobKey]*settings{}
	for _, each := range calls {
		if each.Method == "CreateJob" || each.Method == "UpdateJob" {
			key := jobKey{each.Tenant, each.Request.JobID}
			if found[key] == nil {
				found[key] = new(settings)
			}
			found[key].add(each)
		}
	}
	return found
}
