package main

var info = object{
	"title":   "Fleet Jobs API",
	"version": "v1",
	"description": "Fleet jobs over REST: “do this on these devices”, and where every device stands.\n\n" +
		"/customer is the operator's side, /device the device's. Every answer that is not 2xx is an Error. " +
		"The calls are those of the gRPC services fleet.jobs.v1.JobService and DeviceJobService, whose " +
		"contract describes them in full; those that stream are not here.",
}

var errorSchema = object{
	"type":     "object",
	"required": []string{"detail", "code", "reason", "field_violations"},
	"properties": object{
		"detail": object{"type": "string", "description": "What is wrong, for people: one line."},
		"code":   object{"type": "string", "description": "The name of the gRPC status code, e.g. NOT_FOUND."},
		"reason": object{"type": "string", "description": "What is wrong, for programs, e.g. JOB_NOT_FOUND."},
		"field_violations": object{
			"type":        "array",
			"description": "The fields at fault, at most 20.",
			"items": object{
				"type":     "object",
				"required": []string{"field", "description"},
				"properties": object{
					"field":       object{"type": "string"},
					"description": object{"type": "string"},
				},
			},
		},
		"current_execution": object{
			"allOf":       []any{object{"$ref": "#/definitions/DeviceExecution"}},
			"description": "Only with EXECUTION_CHANGED: the current execution, without its document.",
		},
	},
}

var responses = object{
	"Error": object{
		"description": "400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 431, 500, 501, 503 or 504: what went wrong.",
		"content": object{"application/json": object{
			"schema": object{"$ref": "#/components/schemas/Error"},
		}},
	},
}

// createExample is what the API page offers to send; made up of the schema, it would name
// all three targets.
var createExample = object{
	"job_id":           "reboot-1",
	"document_type":    "reboot",
	"document_params":  object{"delay_seconds": 5},
	"target_group_id":  "north",
	"expires_in_hours": 24,
}

// What can be done with a job that was created.
var links = object{
	"GetJob":            linkTo("GetJob"),
	"ListJobExecutions": linkTo("ListJobExecutions"),
	"CancelJob":         linkTo("CancelJob"),
}

func linkTo(id string) object {
	return object{"operationId": id, "parameters": object{"job_id": "$response.body#/job_id"}}
}

var headerParameters = object{
	"TenantId": object{
		"name": "X-Tenant-Id", "in": "header", "required": true,
		"description": "The tenant that the call acts for.",
		"schema":      object{"type": "string", "pattern": "^[!-~]{1,256}$"},
	},
	"DeviceId": object{
		"name": "X-Device-Id", "in": "header", "required": true,
		"description": "The device that calls.",
		"schema":      object{"type": "string", "pattern": "^[!-~]{1,256}$"},
	},
	"UserId": object{
		"name": "X-User-Id", "in": "header",
		"description": "Who acts; it becomes created_by.",
		"schema":      object{"type": "string", "pattern": "^[!-~]{1,256}$"},
	},
}

// Answers of which callers get what is inside.
var opened = []string{
	"CancelExecutionResponse", "GetExecutionResponse", "GetJobResponse", "ListExecutionAttemptsResponse",
	"ListJobExecutionsResponse", "ListJobsResponse", "ListPendingExecutionsResponse", "StartExecutionResponse",
	"UpdateExecutionResponse",
}

// A call's second route has an operation of its own; the plugin only numbers it.
var secondRoutes = map[string]string{"ListJobExecutions2": "ListDeviceExecutions"}

// Fields of answers that only some of the calls fill, by full name.
var sometimes = map[string]bool{
	"fleet.jobs.v1.Job.executions":                 true,
	"fleet.jobs.v1.Job.next_executions_page_token": true,
	"fleet.jobs.v1.JobExecution.job_id":            true,
}

// A body is required if any of its fields is.
var requiredInRequests = map[string][]string{
	"CreateJobRequest":       {"document_type"},
	"RetryExecutionsRequest": {"statuses"},
	"UpdateExecutionRequest": {"status"},
}

// The limits that the contract states in words, by full name.
var limits = map[string]object{
	"fleet.jobs.v1.CreateJobRequest.job_id":                      {"pattern": "^[A-Za-z0-9._:-]{0,128}$"},
	"fleet.jobs.v1.CreateJobRequest.document_type":               {"minLength": 1, "maxLength": 100},
	"fleet.jobs.v1.CreateJobRequest.expires_in_hours":            {"minimum": 1, "maximum": 720, "description": "Hours until executions that are still QUEUED become TIMED_OUT. Absent: 24. null: never."},
	"fleet.jobs.v1.CreateJobRequest.in_progress_timeout_minutes": minutes,
	"fleet.jobs.v1.GetJobRequest.job_id":                         jobID,
	"fleet.jobs.v1.GetJobRequest.executions_limit":               {"minimum": 0, "maximum": 5000, "default": 1000},
	"fleet.jobs.v1.ListJobsRequest.limit":                        {"minimum": 1, "maximum": 200, "default": 50},
	"fleet.jobs.v1.ListJobsRequest.offset":                       {"minimum": 0, "default": 0},
	"fleet.jobs.v1.ListJobExecutionsRequest.job_id":              jobID,
	"fleet.jobs.v1.ListJobExecutionsRequest.device_id":           deviceID,
	"fleet.jobs.v1.ListJobExecutionsRequest.limit":               {"minimum": 1, "maximum": 5000, "default": 1000},
	"fleet.jobs.v1.CancelJobRequest.job_id":                      jobID,
	"fleet.jobs.v1.CancelJobRequest.reason":                      {"maxLength": 1000},
	"fleet.jobs.v1.RetryExecutionsRequest.job_id":                jobID,
	"fleet.jobs.v1.RetryExecutionsRequest.statuses":              {"minItems": 1},
	"fleet.jobs.v1.RetryExecutionsRequest.expires_in_hours":      {"minimum": 1, "maximum": 720, "description": "Hours from now until the job expires. Absent: its expiry stays. null: never."},
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
}

var (
	jobID    = object{"pattern": "^[A-Za-z0-9._:-]{1,128}$"}
	deviceID = object{"minLength": 1, "maxLength": 256}
	minutes  = object{"minimum": 1, "maximum": 10080}
)

func refTo(parameter string) object {
	return object{"$ref": "#/components/parameters/" + parameter}
}

func stringHeader(description string) object {
	return object{"description": description, "schema": object{"type": "string"}}
}
