package main

import (
	"fmt"
	"iter"
	"slices"
	"strings"
)

// A jobState is that of a job, without its executions.
type jobState struct {
	Job      life
	Status   string // active, COMPLETED or CANCELED
	Etag     int
	Pause    string // its cause; empty: the job is not paused
	Start    string // WAITING or APPROVED; empty: the start needs no approval
	Approved uint64 // a bit for each stage
	Stage    int    // the open stage: that one, or a later one
	Replaced string // the jobs that have replaced it, in order
	Total    int    // executions: that many, or more if devices can have joined since
	CanJoin  bool   // devices can have joined since Total was read

	Deadlines bool // the expiry may have passed
}

const active = "active"

func (s jobState) isActive() bool { return s.Job == existing && s.Status == active }

func (s jobState) change() jobState {
	s.Etag++
	return s
}

func (s jobState) pause(cause string) jobState {
	s.Pause = cause
	return s.change()
}

func (s jobState) cancel() jobState {
	s.Status = "CANCELED"
	return s.change()
}

// nextOfJob returns what time, reports, joins and the rules of the job can do.
func (of settings) nextOfJob(s jobState) []jobState {
	if !s.isActive() {
		return nil
	}
	var found []jobState
	if of.continuous && !s.CanJoin {
		joined := s
		joined.CanJoin = true
		found = append(found, joined)
	}
	if s.Pause == "" {
		if of.hasCriteria {
			found = append(found, s.pause("FAILURE_CRITERION"))
		}
		if of.cancels || of.forceCancels {
			found = append(found, s.cancel())
		}
		if of.hasRollout {
			found = append(found, s.pause("GATE_NOT_MET"))
		}
		if of.continuous {
			found = append(found, s.pause("JOINS"))
		}
	}
	if of.completes || s.Deadlines {
		completed := s
		completed.Status = "COMPLETED"
		found = append(found, completed)
	}
	return found
}

// applyToJob returns the states after an operation.
func (of settings) applyToJob(s jobState, o operation) []jobState {
	if o.isRefused() {
		return when(s.canRefuse(o), []jobState{s})
	}
	found := of.appliedToJob(s, o)
	if !o.Answered && !slices.Contains(found, s) {
		found = append(found, s)
	}
	return found
}

func (s jobState) canRefuse(o operation) bool {
	switch o.Error {
	case "JOB_NOT_FOUND":
		return s.Job != existing || o.Method == "CreateJob"
	case "JOB_CHANGED":
		return s.Job == existing && o.Request.Etag != fmt.Sprint(s.Etag)
	case "JOB_NOT_PAUSABLE", "JOB_NOT_RESUMABLE", "JOB_NOT_CANCELABLE", "JOB_NOT_UPDATABLE":
		return s.Job == existing && s.Status != active
	case "JOB_NOT_RETRYABLE":
		return s.Job == existing && s.Status == "CANCELED"
	case "START_NOT_APPROVED":
		return s.isActive() && s.Start == "WAITING"
	case "START_NOT_APPROVABLE":
		isOpen := s.Status == active && s.Start == "WAITING"
		return s.Job == existing && !isOpen && (o.Method == "RejectStart" || s.Start != "APPROVED")
	case "GATE_NOT_MET":
		return s.isActive() && s.Pause != ""
	}
	return true
}

// appliedToJob returns the states after an operation that the service accepts: none if it can't.
func (of settings) appliedToJob(s jobState, o operation) []jobState {
	if o.Method == "CreateJob" && o.creates {
		return of.create(s)
	}
	if o.Method == "DeadlinesPass" {
		s.Deadlines = true
		return []jobState{s}
	}
	if s.Job != existing {
		if o.Method == "ListJobs" || o.Method == "CreateJob" && !o.Answered {
			return []jobState{s}
		}
		return nil
	}
	same, changed := []jobState{s}, []jobState(nil)
	bit := uint64(1) << o.Request.Stage
	switch o.Method {
	case "PauseJob":
		if s.Status == active {
			changed = same
			if s.Pause == "" || s.Pause == "START_APPROVAL" {
				changed = []jobState{s.pause("OPERATOR")}
			}
		}
	case "ResumeJob":
		switch {
		case s.Status == active && s.Pause == "":
			changed = same
		case s.Status == active && s.Start != "WAITING":
			changed = []jobState{s.pause("")}
		}
	case "CancelJob":
		if s.Status == active {
			changed = []jobState{s.cancel()}
		}
	case "RejectStart":
		if s.Status == active && s.Start == "WAITING" {
			changed = []jobState{s.cancel()}
		}
	case "ApproveStart":
		if s.Start == "APPROVED" {
			return same
		}
		if s.Status == active && s.Start == "WAITING" {
			approved := s.change()
			approved.Start = "APPROVED"
			if s.Pause == "START_APPROVAL" {
				approved = approved.pause("")
			}
			changed = []jobState{approved}
		}
	case "ApproveStage":
		if s.Approved&bit != 0 {
			return same
		}
		if s.Status == active && s.Stage <= o.Request.Stage {
			approved := s.change()
			approved.Approved |= bit
			approved.Stage = o.Request.Stage
			changed = []jobState{approved}
		}
	case "RejectStage":
		if s.Status == active && s.Approved&bit == 0 && s.Stage <= o.Request.Stage {
			cause := s.Pause
			if cause == "" || cause == "START_APPROVAL" {
				cause = "STAGE_REJECTED"
			}
			rejected := s.pause(cause)
			rejected.Stage = o.Request.Stage
			changed = []jobState{rejected}
		}
	case "AdvanceJob":
		// Without a change, the stage is open or has passed.
		opened := s
		opened.Stage = max(s.Stage, o.Request.Stage)
		changed = []jobState{opened}
		if s.Status == active && s.Start != "WAITING" && s.Stage < o.Request.Stage {
			changed = append(changed, opened.change())
		}
	case "UpdateJob":
		mask := strings.NewReplacer("labels", "", "description", "", ",", "").Replace(o.Request.UpdateMask)
		if s.Status == active || mask == "" {
			changed = []jobState{s.change()}
		}
	case "RetryExecutions":
		if s.Status != "CANCELED" {
			retried := s.change()
			retried.Status = active
			switch {
			case !o.Answered:
				changed = []jobState{retried, s}
			case o.Retried == 0:
				changed = same
			default:
				changed = []jobState{retried}
			}
		}
	case "DeleteJob":
		if s.Status != active {
			gone := s
			gone.Job = deleted
			changed = []jobState{gone}
		}
	case "CreateJob":
		return s.replace(o)
	default:
		return same
	}
	if etag := o.Request.Etag; etag != "" && etag != fmt.Sprint(s.Etag) {
		return nil
	}
	return changed
}

// create returns the states after the creation, or its repetition.
func (of settings) create(s jobState) []jobState {
	if s.Job == missing {
		s = jobState{Job: existing, Status: active, Etag: 1, CanJoin: true}
		if of.approval {
			s.Start, s.Pause, s.Etag = "WAITING", "START_APPROVAL", 2
		}
	}
	if s.Job == deleted {
		return nil
	}
	return []jobState{s}
}

// replace links the job to the one that replaces it, unless that exists already, and cancels it.
func (s jobState) replace(o operation) []jobState {
	name := o.Request.JobID + " "
	if strings.Contains(s.Replaced, name) {
		return []jobState{s}
	}
	s.Replaced += name
	s = s.change()
	if s.Status == active {
		s = s.cancel()
	}
	return []jobState{s}
}

// observeJob compares the state with an answer, and remembers what the state does not know yet.
func (of settings) observeJob(s jobState, o operation) (jobState, bool) {
	fact := o.job
	if fact == nil {
		return s, true
	}
	status := s.Status
	if status == active {
		status = fact.Status
		isPaused := fact.Status == "PAUSED"
		if isPaused != (s.Pause != "") || !isPaused && status != "IN_PROGRESS" && status != "SCHEDULED" {
			return s, false
		}
	}
	replaced := strings.Fields("- " + s.Replaced)
	isLast := replaced[len(replaced)-1] == fact.Replaced || fact.Replaced == "" && s.Replaced == ""
	isTotal := s.Total == fact.Total || s.CanJoin && s.Total <= fact.Total
	if s.Job != existing || status != fact.Status || s.Etag != fact.Etag || s.Pause != fact.Pause ||
		s.Start != fact.Start || !isLast || !isTotal {
		return s, false
	}
	s.Total, s.CanJoin = fact.Total, false
	if fact.Stage >= 0 {
		var approved uint64
		for _, stage := range fact.Approved {
			approved |= 1 << stage
		}
		if approved != s.Approved {
			return s, false
		}
	}
	// In a job that has ended, stages without executions have passed, even if they never opened.
	if fact.Stage >= 0 && s.Status == active {
		if fact.Stage < s.Stage {
			return s, false
		}
		s.Stage = fact.Stage
	}
	return s, true
}

// jobHistories returns the history of each job that the history creates.
func jobHistories(calls []*call) iter.Seq[history] {
	all := settingsOfJobs(calls)
	found := map[jobKey][]operation{}
	add := func(each *call, job string, fact *jobFact, creates bool) {
		key := jobKey{each.Tenant, job}
		if all[key] != nil {
			found[key] = append(found[key], operation{call: each, job: fact, creates: creates})
		}
	}
	for _, each := range calls {
		switch each.Method {
		case "CreateJob":
			add(each, each.Request.JobID, nil, true)
			if replaced := each.Request.ReplacesJobID; replaced != "" && !each.isRefused() {
				add(each, replaced, nil, false)
			}
		case "ListJobs":
			for n := range each.Jobs {
				add(each, each.Jobs[n].JobID, &each.Jobs[n], false)
			}
		case "GetJob", "PauseJob", "ResumeJob", "CancelJob", "RejectStart", "ApproveStart", "ApproveStage", "RejectStage",
			"AdvanceJob", "UpdateJob", "RetryExecutions", "DeleteJob":
			var fact *jobFact
			if len(each.Jobs) == 1 {
				fact = &each.Jobs[0]
			}
			add(each, each.Request.JobID, fact, false)
		}
	}
	return func(yield func(history) bool) {
		for key, operations := range found {
			of := all[key]
			for _, each := range calls {
				if each.Method == "DeadlinesPass" {
					operations = append(operations, operation{call: each})
				}
			}
			slices.SortStableFunc(operations, byStart)
			name := fmt.Sprintf("%s/%s", key.tenant, key.job)
			model := model([]jobState{{}}, of.nextOfJob, of.applyToJob, of.observeJob)
			if !yield(history{name, model, operations}) {
				return
			}
		}
	}
}
