package main

// additionalRoutes name the operations of second routes of methods. The plugin appends a "2".
var additionalRoutes = map[string]struct{ id, summary string }{
	"ListJobExecutions2": {"ListDeviceExecutions", "List the executions of a device"},
}

// typicalOperations name an operation for each schema of several responses. Its example is also that of
// operations without a recorded one.
var typicalOperations = map[string]string{
	definitionsPrefix + "Job":             "UpdateJob",
	definitionsPrefix + "JobExecution":    "CancelExecution",
	definitionsPrefix + "DeviceExecution": "GetExecution",
	definitionsPrefix + "Webhook":         "GetWebhook",
}

// optionalFields are the fields of responses that only some calls fill, by full name.
var optionalFields = map[string]bool{
	"fleet.jobs.v1.CreateJobResponse.forecast":     true,
	"fleet.jobs.v1.CreateJobResponse.preview":      true,
	"fleet.jobs.v1.Job.executions":                 true,
	"fleet.jobs.v1.Job.next_executions_page_token": true,
	"fleet.jobs.v1.Job.rollout":                    true,
	"fleet.jobs.v1.Job.failure_criteria":           true,
	"fleet.jobs.v1.Job.stages":                     true,
	"fleet.jobs.v1.Job.criterion_states":           true,
	"fleet.jobs.v1.JobExecution.job_id":            true,
}

// overrides replace keywords of the schemas of fields that REST treats differently.
var overrides = map[string]object{
	"fleet.jobs.v1.CreateJobRequest.expires_in_hours":       {"default": 24, "description": "The number of hours until the job expires, when its QUEUED and HELD executions become TIMED_OUT. Absent: 24, or with a rollout or start windows 24 more than the shortest time until the last device can start, at most 720. null: never."},
	"fleet.jobs.v1.RetryExecutionsRequest.expires_in_hours": {"description": "The number of hours from now, or from a start_at in the future, until the job expires. Absent: expires_at does not change. null: never."},
	"fleet.jobs.v1.ListJobsRequest.offset":                  {"default": 0},
	"fleet.jobs.v1.CreateJobRequest.target_device_id":       oneDevice,
	"fleet.jobs.v1.CreateJobRequest.target_group_id":        oneGroup,
	"fleet.jobs.v1.CreateJobRequest.target_all":             allDevices,
	"fleet.jobs.v1.PreviewTargetRequest.target_device_id":   oneDevice,
	"fleet.jobs.v1.PreviewTargetRequest.target_group_id":    oneGroup,
	"fleet.jobs.v1.PreviewTargetRequest.target_all":         allDevices,
}

// The targets that count as absent without a value: see isAbsent in decode.go.
var (
	oneDevice  = object{"minLength": 0, "description": `One device. "" and null count as absent.`}
	oneGroup   = object{"minLength": 0, "description": `The current members of a group. "" and null count as absent.`}
	allDevices = object{"description": "All current devices of the tenant. false and null count as absent."}
)
