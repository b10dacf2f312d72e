package main

const watchDescription = "Sends the state of the job as Server-Sent Events, now and after each change, at most four times per " +
	"second. Changes in between are skipped. The response ends after the state in which the job is COMPLETED or CANCELED. " +
	"It continues across restarts of the server and of the database.\n\n" +
	"- An event has the job, without its executions, as JSON in `data`, and an `id`. A client that reconnects sends the `id` as " +
	"`Last-Event-ID`, and gets the state only if it has changed.\n" +
	"- An event named `failure` has an error in `data`, such as INVALID_TOKEN when the token has expired. The response ends " +
	"after it.\n" +
	"- A comment, a line that starts with a colon, is sent every 15 seconds."

var lastEventID = object{
	"name": "Last-Event-ID", "in": "header", "description": "The `id` of the last event that the client received.",
	"schema": object{"type": "string"},
}

var watchResponses = object{
	"200": object{
		"description": "The states of the job.",
		"headers":     object{"X-Request-Id": object{"$ref": "#/components/headers/RequestId"}},
		"content": object{"text/event-stream": object{
			"schema": object{"type": "string"},
			"example": "retry: 2000\n\nid: 6f1ed002ab5595f4\n" +
				"data: {\"job_id\":\"reboot-1\",\"status\":\"IN_PROGRESS\",\"total_executions\":334,\"succeeded_count\":12, …}\n\n",
		}},
	},
	"204": object{
		"description": "The job is finished, and its state is the one of `Last-Event-ID`. An EventSource stops.",
		"headers":     object{"X-Request-Id": object{"$ref": "#/components/headers/RequestId"}},
	},
}
