package main

var info = object{
	"title":   "Fleet Jobs API",
	"version": "v1",
	"description": "Creates jobs on a fleet of devices and shows the status of every device.\n\n" +
		"Operators use `/customer`, devices use `/device`. Every response that is not 2xx is an ApiError; " +
		"programs decide by its `reason`. " +
		"A request has no other fields than those described here; a response may get more fields and a status more " +
		"values in a later version.\n\n" +
		"The API consists of the gRPC services fleet.jobs.v1.JobService, FleetService, EventService and DeviceJobService.",
	"contact": object{"name": "jobs-grpc", "url": "https://github.com/jobs-grpc/jobs-grpc"},
	"license": object{"name": "Apache 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
}

var servers = []any{object{"url": "/", "description": "The gateway that serves this document"}}

var tags = []any{
	object{"name": "jobs", "description": "For operators: create jobs, follow and control them."},
	object{"name": "fleet", "description": "For operators: list and change devices and groups, and preview targets."},
	object{"name": "events", "description": "For operators: read the history of jobs, follow events, and manage webhooks that receive them."},
	object{"name": "device", "description": "For devices: list executions, start them and report on them."},
}

var errorSchema = object{
	"type":     "object",
	"required": []any{"detail", "code", "reason", "field_violations", "request_id"},
	"properties": object{
		"detail": object{"type": "string", "description": "The error message, for people: one line."},
		"code":   object{"type": "string", "description": "The name of the gRPC status code, e.g. NOT_FOUND."},
		"reason": object{"type": "string", "description": "The reason, for programs, e.g. JOB_NOT_FOUND. Later versions may add reasons."},
		"field_violations": object{
			"type":        "array",
			"description": "The invalid fields, at most 20.",
			"items":       object{"$ref": "#/definitions/FieldViolation"},
		},
		"request_id": object{"type": "string", "description": "The request ID in the logs, as in the header X-Request-Id."},
		"current_execution": object{
			"allOf":       []any{object{"$ref": "#/definitions/DeviceExecution"}},
			"description": "Only with EXECUTION_CHANGED: the current execution. document_params and status_details are null.",
		},
	},
}

var fieldViolationSchema = object{
	"type":     "object",
	"required": []any{"field", "description"},
	"properties": object{
		"field":       object{"type": "string", "description": "The path of the field in the request."},
		"description": object{"type": "string", "description": "The rule that it violates."},
	},
}

// responses are the responses that most operations share; shareResponses fills them.
var responses = object{}

// sharedResponses are the names of shared responses by status.
var sharedResponses = map[string]string{
	"401": "Unauthenticated",
	"403": "PermissionDenied",
	"405": "MethodNotAllowed",
	"408": "BodyTooSlow",
	"413": "BodyTooLarge",
	"415": "UnsupportedMediaType",
	"429": "TooManyRequests",
	"431": "HeadersTooLarge",
	"500": "Internal",
	"501": "NotImplemented",
	"503": "Unavailable",
	"504": "DeadlineExceeded",
}

var headers = object{
	"Allow":         stringHeader("The methods that the path allows."),
	"Authenticate":  stringHeader("`Bearer`."),
	"Link":          stringHeader("The URL of the next page: `<…>; rel=\"next\"`. Absent on the last page."),
	"Location":      stringHeader("The path of what was created."),
	"NextPageToken": stringHeader("The page_token of the next page. Absent on the last page."),
	"PollAfter": object{
		"description": "The seconds after which the device should call again. Absent if the device should call again at once.",
		"schema":      object{"type": "number", "minimum": 0},
	},
	"RequestId": stringHeader("The request ID in the logs."),
	"RetryAfter": object{
		"description": "The seconds to wait before a retry. Absent: the same request would fail again.",
		"schema":      object{"type": "integer", "minimum": 1},
	},
}

// createJobLinks are the calls that take the job_id of a created job.
var createJobLinks = object{
	"GetJob":            linkTo("GetJob"),
	"ListJobExecutions": linkTo("ListJobExecutions"),
	"CancelJob":         linkTo("CancelJob"),
}

func linkTo(id string) object {
	return object{"operationId": id, "parameters": object{"job_id": "$response.body#/job_id"}}
}

var securitySchemes = object{
	"Token": object{
		"type": "http", "scheme": "bearer", "bearerFormat": "JWT",
		"description": "A token, if the server authenticates callers by tokens. It names the tenant, the user and the device.",
	},
	"TenantId": header("X-Tenant-Id", "The tenant that requests act for, if the server does not use tokens: "+
		"1–256 printable ASCII characters, no comma, no space at the ends."),
	"UserId": header("X-User-Id", "Optional. The user who acts; stored as created_by: "+
		"1–256 printable ASCII characters, no space at the ends."),
	"DeviceId": header("X-Device-Id", "For `/device`: the device that requests act for, unless the token names it: "+
		"1–256 printable ASCII characters, no space at the ends."),
}

func header(name, description string) object {
	return object{"type": "apiKey", "in": "header", "name": name, "description": description}
}

// The settings of the server decide which of the alternatives it accepts.
var (
	operatorSecurity = []any{
		object{"TenantId": []any{}},
		object{"TenantId": []any{}, "UserId": []any{}},
		object{"Token": []any{}},
	}
	deviceSecurity = []any{
		object{"TenantId": []any{}, "DeviceId": []any{}},
		object{"Token": []any{}},
		object{"Token": []any{}, "DeviceId": []any{}},
	}
)
