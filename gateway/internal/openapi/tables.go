package main

// unwrappedResponses are the messages that REST unwraps: it returns one field of them (response_body).
var unwrappedResponses = []string{
	"AdvanceJobResponse", "ApproveStageResponse", "CancelExecutionResponse", "GetExecutionResponse",
	"GetJobResponse", "ListExecutionAttemptsResponse", "ListJobExecutionsResponse", "ListJobsResponse",
	"ListPendingExecutionsResponse", "PauseJobResponse", "ResumeJobResponse", "StartExecutionResponse",
	"UpdateExecutionResponse", "UpdateJobResponse",
}

// additionalRoutes names the operation of a method's second route. The plugin appends a "2".
var additionalRoutes = map[string]string{"ListJobExecutions2": "ListDeviceExecutions"}

// optionalFields are the fields of responses that only some calls fill, by full name.
var optionalFields = map[string]bool{
	"fleet.jobs.v1.CreateJobResponse.job":          true,
	"fleet.jobs.v1.Job.executions":                 true,
	"fleet.jobs.v1.Job.next_executions_page_token": true,
	"fleet.jobs.v1.Job.rollout":                    true,
	"fleet.jobs.v1.Job.failure_criteria":           true,
	"fleet.jobs.v1.Job.stages":                     true,
	"fleet.jobs.v1.JobExecution.job_id":            true,
}

// requiredFields are the required fields of request bodies. A body is required if one of its
// fields is.
var requiredFields = map[string][]string{
	"CreateJobRequest":       {"document_type"},
	"RetryExecutionsRequest": {"statuses"},
	"UpdateExecutionRequest": {"status"},
}

// limits are the limits that the comments of the contract state, by full name of the field.
var limits = map[string]object{
	"fleet.jobs.v1.CreateJobRequest.job_id":                      {"pattern": "^[A-Za-z0-9._:-]{0,128}$"},
	"fleet.jobs.v1.CreateJobRequest.document_type":               {"minLength": 1, "maxLength": 100},
	"fleet.jobs.v1.CreateJobRequest.expires_in_hours":            {"minimum": 1, "maximum": 720, "description": "The number of hours until the job expires, when its QUEUED executions become TIMED_OUT. Absent: 24. null: never."},
	"fleet.jobs.v1.CreateJobRequest.in_progress_timeout_minutes": minutes,
	"fleet.jobs.v1.GetJobRequest.job_id":                         jobID,
	"fleet.jobs.v1.GetJobRequest.executions_limit":               {"minimum": 0, "maximum": 5000, "default": 1000},
	"fleet.jobs.v1.ListJobsRequest.limit":                        {"minimum": 1, "maximum": 200, "default": 50},
	"fleet.jobs.v1.ListJobsRequest.offset":                       {"minimum": 0, "default": 0},
	"fleet.jobs.v1.ListJobExecutionsRequest.job_id":              jobID,
	"fleet.jobs.v1.ListJobExecutionsRequest.device_id":           deviceID,
	"fleet.jobs.v1.ListJobExecutionsRequest.failure_code":        failureCode,
	"fleet.jobs.v1.ListJobExecutionsRequest.limit":               {"minimum": 1, "maximum": 5000, "default": 1000},
	"fleet.jobs.v1.CancelJobRequest.job_id":                      jobID,
	"fleet.jobs.v1.CancelJobRequest.reason":                      {"maxLength": 1000},
	"fleet.jobs.v1.RetryExecutionsRequest.job_id":                jobID,
	"fleet.jobs.v1.RetryExecutionsRequest.statuses":              {"minItems": 1},
	"fleet.jobs.v1.RetryExecutionsRequest.expires_in_hours":      {"minimum": 1, "maximum": 720, "description": "The number of hours from now until the job expires. Absent: expires_at does not change. null: never."},
	"fleet.jobs.v1.RetryExecutionsRequest.failure_codes":         {"maxItems": 100},
	"fleet.jobs.v1.RetryExecutionsRequest.device_ids":            {"maxItems": 1000},
	"fleet.jobs.v1.PauseJobRequest.job_id":                       jobID,
	"fleet.jobs.v1.PauseJobRequest.reason":                       {"maxLength": 1000},
	"fleet.jobs.v1.PauseJobRequest.etag":                         {"maxLength": 64},
	"fleet.jobs.v1.ResumeJobRequest.job_id":                      jobID,
	"fleet.jobs.v1.ResumeJobRequest.etag":                        {"maxLength": 64},
	"fleet.jobs.v1.GetFailureSummaryRequest.job_id":              jobID,
	"fleet.jobs.v1.GetFailureSummaryRequest.statuses":            {"maxItems": 16},
	"fleet.jobs.v1.GetFailureSummaryRequest.failure_codes":       {"maxItems": 100},
	"fleet.jobs.v1.DeleteJobRequest.job_id":                      jobID,
	"fleet.jobs.v1.CancelExecutionRequest.job_id":                jobID,
	"fleet.jobs.v1.CancelExecutionRequest.device_id":             deviceID,
	"fleet.jobs.v1.CancelExecutionRequest.reason":                {"maxLength": 1000},
	"fleet.jobs.v1.ListExecutionAttemptsRequest.job_id":          jobID,
	"fleet.jobs.v1.ListExecutionAttemptsRequest.device_id":       deviceID,
	"fleet.jobs.v1.ListExecutionAttemptsRequest.limit":           {"minimum": 1, "maximum": 100, "default": 100},

	"fleet.jobs.v1.ListPendingExecutionsRequest.limit":            {"minimum": 1, "maximum": 100, "default": 10},
	"fleet.jobs.v1.StartExecutionRequest.job_id":                  jobID,
	"fleet.jobs.v1.GetExecutionRequest.job_id":                    jobID,
	"fleet.jobs.v1.UpdateExecutionRequest.job_id":                 jobID,
	"fleet.jobs.v1.UpdateExecutionRequest.extend_timeout_minutes": minutes,
	"fleet.jobs.v1.UpdateExecutionRequest.failure_code":           failureCode,
}

var (
	jobID    = object{"pattern": "^[A-Za-z0-9._:-]{1,128}$"}
	deviceID = object{"minLength": 1, "maxLength": 256}
	minutes  = object{"minimum": 1, "maximum": 10080}

	failureCode = object{"pattern": "^[A-Za-z0-9._:-]{0,64}$"}
)
