package main

var info = object{
	"title":   "Fleet Jobs API",
	"version": "v1",
	"description": "Creates jobs on a fleet of devices and shows the status of every device.\n\n" +
		"Operators use /customer, devices use /device. Every response that is not 2xx is an Error. " +
		"The API consists of the unary methods of the gRPC services fleet.jobs.v1.JobService and " +
		"DeviceJobService. Their contract documents every field, limit and error.",
}

var errorSchema = object{
	"type":     "object",
	"required": []string{"detail", "code", "reason", "field_violations"},
	"properties": object{
		"detail": object{"type": "string", "description": "The error message, for people: one line."},
		"code":   object{"type": "string", "description": "The name of the gRPC status code, e.g. NOT_FOUND."},
		"reason": object{"type": "string", "description": "The reason, for programs, e.g. JOB_NOT_FOUND."},
		"field_violations": object{
			"type":        "array",
			"description": "The invalid fields, at most 20.",
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
			"description": "Only with EXECUTION_CHANGED: the current execution. document_params and status_details are null.",
		},
	},
}

var responses = object{
	"Error": object{
		"description": "400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 431, 500, 501, 503 or 504: an error.",
		"content": object{"application/json": object{
			"schema": object{"$ref": "#/components/schemas/Error"},
		}},
	},
}

// createJobExample is the request body that Swagger UI suggests. A body generated from the
// schema would have all three targets.
var createJobExample = object{
	"job_id":           "reboot-1",
	"document_type":    "reboot",
	"document_params":  object{"delay_seconds": 5},
	"target_group_id":  "north",
	"expires_in_hours": 24,
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

// Printable ASCII without a space at the ends; a tenant has no comma.
const (
	idPattern       = "^[!-~]([ -~]{0,254}[!-~])?$"
	tenantIDPattern = "^[!-+.-~-]([ -+.-~-]{0,254}[!-+.-~-])?$"
)

// The header parameters are optional because a token can name the tenant, the device and the user.
var headerParameters = object{
	"TenantId": object{
		"name": "X-Tenant-Id", "in": "header",
		"description": "The tenant that the request acts for. Required, unless the token names it.",
		"schema":      object{"type": "string", "pattern": tenantIDPattern},
	},
	"DeviceId": object{
		"name": "X-Device-Id", "in": "header",
		"description": "The device that the request acts for. Required, unless the token names it.",
		"schema":      object{"type": "string", "pattern": idPattern},
	},
	"UserId": object{
		"name": "X-User-Id", "in": "header",
		"description": "The user who acts. Stored as created_by.",
		"schema":      object{"type": "string", "pattern": idPattern},
	},
}

var securitySchemes = object{
	"Token": object{
		"type": "http", "scheme": "bearer", "bearerFormat": "JWT",
		"description": "A token, if the server authenticates callers by tokens.",
	},
}

// security allows requests without and with a token: the server's settings decide.
var security = []object{{}, {"Token": []string{}}}
