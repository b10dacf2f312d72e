package main

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
)

// An executionState is that of one device's execution of a job. HELD is not a status of it: it is QUEUED.
type executionState struct {
	Job       life
	Canceled  bool   // the job is canceled
	Paused    bool   // an operator has paused the job; what its rules pause is not in the state
	Waiting   bool   // its start is not approved
	Replaced  string // the jobs that have replaced the job
	Gone      bool   // the device is deleted
	Deadlines bool   // timeouts and the expiry may have passed
	Status    string // empty: the device has no execution
	Number    int    // of the attempt
	Version   int
	Removed   bool   // the execution ended because the device was deleted
	Failed    string // the status of the failure after which the retry policy has queued the attempt
	Reported  string // how the device has ended the attempt; empty: it has not
	Past      string // the attempts before
	Ended     int    // the attempt that others have ended, which the device has not acknowledged; 0: none
	Open      open   // the calls without an answer that can still happen
}

// open has a bit for each kind of call that can still happen. From the begin of such a call without an answer until
// maxRunning after its end, it can happen at any time, and several times, as what the rules do: with an operation for
// each call, there would be too many orders.
type open uint8

var kinds = map[string]open{
	"StartNextExecution": 1, "StartExecution": 1, "AcknowledgeExecutions": 2,
	"DeleteDevices": 4, "UpdateDevices": 8, "ResumeJob": 16, "ApproveStart": 32,
}

func (s executionState) can(method string) bool { return s.Open&kinds[method] != 0 }

type life int8

const (
	missing life = iota
	existing
	deleted
)

func (s executionState) exists() bool    { return s.Job == existing && s.Status != "" }
func (s executionState) isPending() bool { return s.Status == "QUEUED" || s.Status == "IN_PROGRESS" }

func (s executionState) isFinished() bool { return s.Status != "" && !s.isPending() }

// change increments the version.
func (s executionState) change(status string) executionState {
	s.Status, s.Version, s.Removed, s.Reported = status, s.Version+1, false, ""
	return s
}

// start returns the state after a start: none if the execution can't start.
func (s executionState) start() []executionState {
	if s.Status != "QUEUED" || s.Paused || s.Waiting || s.Canceled {
		return nil
	}
	s.Ended = 0
	return []executionState{s.change("IN_PROGRESS")}
}

// endByOthers returns the state after an operator or time has ended the attempt.
func (s executionState) endByOthers(status string) executionState {
	if s.Status == "IN_PROGRESS" {
		s.Ended = s.Number
	}
	return s.change(status)
}

// requeue queues the next attempt.
func (s executionState) requeue() executionState {
	s.Past += attempt(s.Number, s.Status, s.Version) + reportOf(s.Number, s.Reported)
	s.Number++
	s = s.change("QUEUED")
	s.Failed = ""
	return s
}

// retries returns the states after a failure of the attempt by itself, with and without a retry.
func (s executionState) retries(of settings) []executionState {
	if !of.hasPolicy || s.Canceled {
		return []executionState{s}
	}
	retried := s.requeue()
	retried.Failed = s.Status
	return []executionState{s, retried}
}

// cancel cancels the job. Derived statuses have no version of their own.
func (s executionState) cancel(force bool) executionState {
	s.Canceled = true
	if s.Status == "IN_PROGRESS" && force {
		s.Ended = s.Number
	}
	if s.Status == "QUEUED" || s.Status == "IN_PROGRESS" && force {
		s.Status = "REJECTED"
	}
	return s
}

func reportOf(number int, report string) string {
	return fmt.Sprintf("%d reported %s; ", number, report)
}

func attempt(number int, status string, version int) string {
	return fmt.Sprintf("%d %s, version %d; ", number, status, version)
}

// next returns what time, the rules of the job and background work can do.
func (of settings) next(s executionState) []executionState {
	var found []executionState
	for _, method := range []string{"DeleteDevices", "UpdateDevices"} {
		if s.can(method) {
			changed := s
			changed.Gone = method == "DeleteDevices"
			found = append(found, changed)
		}
	}
	if s.Job != existing {
		return found
	}
	changed := s
	changed.Paused = s.Paused && !s.can("ResumeJob")
	changed.Waiting = s.Waiting && !s.can("ApproveStart")
	if s.can("AcknowledgeExecutions") {
		changed.Ended = 0
	}
	if changed != s {
		found = append(found, changed)
	}
	if !s.Canceled && of.cancels {
		found = append(found, s.cancel(false))
	}
	if !s.Canceled && of.forceCancels {
		found = append(found, s.cancel(true))
	}
	if s.Status == "QUEUED" && s.Deadlines {
		expired := s
		expired.Status = "TIMED_OUT"
		found = append(found, expired)
	}
	if s.Version > of.lastVersion+maxUnseen {
		return found
	}
	if s.can("StartNextExecution") {
		found = append(found, s.start()...)
	}
	if s.Status == "" && of.continuous && !s.Canceled && !s.Gone {
		joined := s
		joined.Status, joined.Number, joined.Version = "QUEUED", 1, 1
		found = append(found, joined)
	}
	if s.Removed && of.continuous && !s.Canceled && !s.Gone {
		found = append(found, s.requeue())
	}
	if s.Status == "QUEUED" && (s.Gone && of.continuous || s.can("DeleteDevices")) {
		removed := s.change("REJECTED")
		removed.Removed = true
		found = append(found, removed)
	}
	if s.Status == "IN_PROGRESS" && (s.Deadlines || of.hasTimeout) {
		found = append(found, s.endByOthers("TIMED_OUT").retries(of)...)
	}
	return found
}

// maxUnseen is how many changes of an execution can happen by themselves after the last version that an answer has.
const maxUnseen = 3

// apply returns the states after an operation.
func (of settings) apply(s executionState, o operation) []executionState {
	if o.isRefused() {
		return when(s.canRefuse(o, of), []executionState{s})
	}
	found := of.applied(s, o)
	if !o.Answered && !slices.Contains(found, s) {
		found = append(found, s)
	}
	return found
}

func (s executionState) canRefuse(o operation, of settings) bool {
	isReport := o.Method == "UpdateExecution"
	switch o.Error {
	case "EXECUTION_NOT_FOUND":
		// Devices do not see an execution that is HELD.
		return !s.exists() || o.Method == "GetExecution" && s.Status == "QUEUED"
	case "EXECUTION_HELD", "JOB_PAUSED", "EXECUTION_NOT_DUE", "JOB_FULL", "START_NOT_APPROVED":
		return s.exists() && s.Status == "QUEUED"
	case "EXECUTION_IN_PROGRESS":
		return s.exists() && s.Status == "IN_PROGRESS"
	case "EXECUTION_FINISHED":
		isNew := !isReport || o.Request.ExecutionNumber == s.Number && s.Reported != o.report()
		return s.exists() && s.isFinished() && isNew
	case "EXECUTION_CHANGED":
		return s.exists() && o.Request.ExecutionNumber != s.Number && !(of.hasPolicy && s.hasReported(o))
	case "CANCEL_NOT_REQUESTED":
		return s.exists() && !s.Canceled
	}
	return true
}

// applied returns the states after an operation that the service accepts: none if it can't.
func (of settings) applied(s executionState, o operation) []executionState {
	same, none := []executionState{s}, []executionState(nil)
	switch o.Method {
	case begins:
		s.Open |= kinds[o.Request.Status]
		return []executionState{s}
	case ends:
		s.Open &^= kinds[o.Request.Status]
		return []executionState{s}
	case "CreateJob":
		if !o.creates {
			return s.replace(o)
		}
		if s.Job != missing {
			return when(s.Job == existing, same)
		}
		s.Job = existing
		s.Waiting = of.approval
		targeted := s
		targeted.Status, targeted.Number, targeted.Version = "QUEUED", 1, 1
		return []executionState{s, targeted}
	case "DeleteDevices":
		s.Gone = true
		if s.exists() && s.Status == "QUEUED" {
			s = s.change("REJECTED")
			s.Removed = true
		}
		return []executionState{s}
	case "UpdateDevices":
		s.Gone = false
		return []executionState{s}
	case "DeadlinesPass":
		s.Deadlines = true
		return []executionState{s}
	case "AcknowledgeExecutions":
		if s.Ended == o.ended {
			s.Ended = 0
		}
		return []executionState{s}
	case "StartNextExecution", "ListPendingExecutions":
		if len(o.executions) == 0 && o.Answered {
			// Without an execution, the device works on none.
			hasOther := len(o.Executions) > 0 || o.HasMore
			return when(s.Job != existing || s.Status != "IN_PROGRESS" || hasOther, same)
		}
	}
	if s.Job != existing {
		return none
	}
	switch o.Method {
	case "PauseJob", "RejectStage":
		s.Paused = true
		return []executionState{s}
	case "ResumeJob":
		s.Paused = false
		return []executionState{s}
	case "ApproveStart":
		s.Waiting = false
		return []executionState{s}
	case "StartNextExecution", "StartExecution":
		return append(s.start(), when(s.Status == "IN_PROGRESS", same)...)
	case "UpdateExecution":
		return s.report(o, of)
	case "CancelJob":
		return when(!s.Canceled, []executionState{s.cancel(o.Request.Force)})
	case "RejectStart":
		return when(!s.Canceled && s.Status != "IN_PROGRESS", []executionState{s.cancel(false)})
	case "DeleteJob":
		s.Job = deleted
		return when(!s.isPending(), []executionState{s})
	case "CancelExecution":
		return when(s.isPending() && (o.Request.Force || s.Status == "QUEUED"),
			[]executionState{s.endByOthers("REJECTED")})
	case "RetryExecutions":
		return s.retry(o)
	}
	return same
}

func when[S any](possible bool, states []S) []S {
	if possible {
		return states
	}
	return nil
}

// replace cancels the job, unless it is completed or the other job exists already.
func (s executionState) replace(o operation) []executionState {
	name := o.Request.JobID + " "
	if s.Job != existing || strings.Contains(s.Replaced, name) {
		return []executionState{s}
	}
	s.Replaced += name
	found := []executionState{s.cancel(false)}
	if !s.Canceled && !s.isPending() {
		found = append(found, s)
	}
	return found
}

// report applies the end of an attempt, or repeats it.
func (s executionState) report(o operation, of settings) []executionState {
	switch {
	case s.Status == "":
		return nil
	case o.Request.ExecutionNumber != s.Number:
		return when(of.hasPolicy && s.hasReported(o), []executionState{s})
	case s.isFinished():
		return when(s.Reported == o.report(), []executionState{s})
	case o.Request.CancelAccepted && !s.Canceled:
		return nil
	}
	s.Ended = 0
	s = s.change(o.Request.Status)
	s.Failed, s.Reported = "", o.report()
	if s.Status == "SUCCEEDED" {
		return []executionState{s}
	}
	return s.retries(of)
}

// hasReported reports whether the device has ended an attempt before in this way.
func (s executionState) hasReported(o operation) bool {
	return strings.Contains(s.Past, reportOf(o.Request.ExecutionNumber, o.report()))
}

// retry applies RetryExecutions, which also ends the backoff of attempts that are queued after a failure.
func (s executionState) retry(o operation) []executionState {
	status := s.Status
	if status == "QUEUED" {
		status = s.Failed
	}
	isSelected := slices.Contains(o.Request.Statuses, status)
	switch {
	case s.Canceled:
		return nil
	case !isSelected:
		return []executionState{s}
	case o.Answered && o.Retried == 0:
		return nil
	case s.Status == "QUEUED":
		s.Version++
		s.Failed = ""
		return []executionState{s}
	}
	return []executionState{s.requeue()}
}

// observe compares the state with an answer.
func (of settings) observe(s executionState, o operation) (executionState, bool) {
	for _, fact := range o.executions {
		status := fact.Status
		if status == "HELD" {
			status = "QUEUED"
		}
		isCurrent := s.exists() && fact.Number == s.Number && fact.Version == s.Version && status == s.Status
		// A report returns the attempt that it ended.
		canBePast := o.Method == "ListExecutionAttempts" || o.Method == "UpdateExecution"
		if isCurrent && fact.CancelRequested != nil && *fact.CancelRequested != (s.Canceled && status == "IN_PROGRESS") {
			return s, false
		}
		if !isCurrent && !(canBePast && strings.Contains(s.Past, attempt(fact.Number, status, fact.Version))) {
			return s, false
		}
	}
	if o.Method == "ListExecutionAttempts" && !o.HasMore && len(o.executions) != s.Number {
		return s, false
	}
	if o.Method == "StartNextExecution" || o.Method == "ListPendingExecutions" {
		// A response has not all attempts, but if it has none, only the end of a queued one can be left out.
		isUntold := len(o.Ended) == 0 && s.Job == existing && s.Ended != 0 && s.Status != "QUEUED"
		if isUntold || o.ended != 0 && (!s.exists() || s.Ended != o.ended) {
			return s, false
		}
	}
	return s, true
}

// The methods of the operations that tell when calls without an answer of a kind begin, and when all have ended.
const (
	begins = "begin"
	ends   = "end"
)

// merge replaces the calls of the kinds without an answer with the times at which they can happen.
func merge(operations []operation) []operation {
	var found []operation
	until := map[string]int64{}
	add := func(method, kind string, at int64) {
		each := &call{Start: at, End: at, Answered: true, Method: method, Request: request{Status: kind}}
		found = append(found, operation{call: each})
	}
	for _, each := range operations {
		if !each.Answered && (each.Method == "PauseJob" || each.Method == "RejectStage") {
			continue // it can only forbid a start
		}
		if each.Answered || kinds[each.Method] == 0 {
			found = append(found, each)
			continue
		}
		if each.Start > until[each.Method] {
			if until[each.Method] > 0 {
				add(ends, each.Method, until[each.Method])
			}
			add(begins, each.Method, each.Start)
		}
		until[each.Method] = max(until[each.Method], each.End+maxRunning)
	}
	slices.SortStableFunc(found, byStart)
	return found
}

// isEmptyAnswer reports whether the operation only says that the device has no execution to work on.
func (o operation) isEmptyAnswer() bool {
	asksForWork := o.Method == "StartNextExecution" || o.Method == "ListPendingExecutions"
	return asksForWork && o.isAccepted() && len(o.Executions) == 0 && len(o.Ended) == 0 && !o.HasMore
}

// withoutRepeats leaves out each empty answer that follows another one while no other operation runs. It allows the
// same states as the one before. Most operations of a history are such answers.
func withoutRepeats(operations []operation) []operation {
	nextStart := make([]int64, len(operations)+1) // of another operation
	nextStart[len(operations)] = math.MaxInt64
	for n := len(operations) - 1; n >= 0; n-- {
		nextStart[n] = operations[n].Start
		if operations[n].isEmptyAnswer() {
			nextStart[n] = nextStart[n+1]
		}
	}
	var found []operation
	var lastEnd int64 // of the other operations so far
	isKept := false   // an empty answer since then
	for n, each := range operations {
		if each.isEmptyAnswer() {
			isAlone := each.Start > lastEnd && each.End < nextStart[n]
			if isAlone && isKept {
				continue
			}
			isKept = isKept || isAlone
		} else {
			lastEnd, isKept = max(lastEnd, each.until()), false
		}
		found = append(found, each)
	}
	return found
}

func byStart(a, b operation) int { return cmp.Compare(a.Start, b.Start) }

type executionKey struct {
	jobKey
	device string
}

// executionHistories returns the history of each execution that an answer names, or that a call names.
func executionHistories(calls []*call) iter.Seq[history] {
	type deviceKey struct{ tenant, device string }
	all := settingsOfJobs(calls)
	found := map[executionKey][]operation{}
	ofJob := map[jobKey][]operation{}
	ofDevice := map[deviceKey][]operation{}
	var ofAll []operation
	for _, each := range calls {
		job := jobKey{each.Tenant, each.Request.JobID}
		switch each.Method {
		case "DeadlinesPass":
			ofAll = append(ofAll, operation{call: each})
			continue
		case "CreateJob":
			if replaced := each.Request.ReplacesJobID; replaced != "" && !each.isRefused() {
				key := jobKey{each.Tenant, replaced}
				ofJob[key] = append(ofJob[key], operation{call: each})
			}
			fallthrough
		case "CancelJob", "RejectStart", "DeleteJob", "RetryExecutions", "PauseJob", "ResumeJob", "RejectStage", "ApproveStart":
			if !each.isRefused() {
				ofJob[job] = append(ofJob[job], operation{call: each, creates: each.Method == "CreateJob"})
			}
			continue
		case "DeleteDevices", "UpdateDevices":
			if each.isRefused() || each.Method == "UpdateDevices" && !each.Request.AllowMissing {
				continue
			}
			devices := slices.Clone(each.Request.DeviceIDs)
			for _, device := range each.Request.Devices {
				devices = append(devices, device.DeviceID)
			}
			for _, device := range devices {
				key := deviceKey{each.Tenant, device}
				ofDevice[key] = append(ofDevice[key], operation{call: each})
			}
			continue
		case "StartNextExecution", "ListPendingExecutions":
			isChange := each.Method == "StartNextExecution" && !each.Answered
			if isChange || each.isAccepted() && len(each.Executions) == 0 {
				key := deviceKey{each.Tenant, each.Device}
				ofDevice[key] = append(ofDevice[key], operation{call: each})
			}
		}
		facts := map[executionKey][]executionFact{}
		for _, fact := range each.Executions {
			key := executionKey{jobKey{each.Tenant, fact.JobID}, fact.DeviceID}
			facts[key] = append(facts[key], fact)
		}
		device := each.Request.DeviceID
		if device == "" {
			device = each.Device
		}
		if each.Request.JobID != "" && device != "" {
			key := executionKey{job, device}
			facts[key] = slices.Clone(facts[key])
		}
		ended := map[executionKey]int{}
		for _, attempt := range slices.Concat(each.Ended, each.Request.Executions) {
			key := executionKey{jobKey{each.Tenant, attempt.JobID}, device}
			ended[key], facts[key] = attempt.Number, slices.Clone(facts[key])
		}
		for key, some := range facts {
			found[key] = append(found[key], operation{call: each, executions: some, ended: ended[key]})
		}
	}
	return func(yield func(history) bool) {
		for key, operations := range found {
			if all[key.jobKey] == nil {
				continue
			}
			of := *all[key.jobKey]
			var last int64
			for _, each := range operations {
				last = max(last, each.End)
				for _, fact := range each.executions {
					of.lastVersion = max(of.lastVersion, fact.Version)
				}
			}
			for _, each := range slices.Concat(ofAll, ofJob[key.jobKey], ofDevice[deviceKey{key.tenant, key.device}]) {
				if each.Start <= last && each.until() >= of.createdAt {
					operations = append(operations, each)
				}
			}
			slices.SortStableFunc(operations, byStart)
			initial := []executionState{{}, {Gone: true}}
			name := fmt.Sprintf("%s/%s/%s", key.tenant, key.job, key.device)
			if !yield(history{name, model(initial, of.next, of.apply, of.observe), withoutRepeats(merge(operations))}) {
				return
			}
			delete(found, key)
		}
	}
}
