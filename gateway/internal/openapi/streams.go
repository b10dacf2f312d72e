package main

// stream describes an operation whose response is Server-Sent Events.
type stream struct {
	description string
	responses   object
}

var streams = map[string]stream{
	"WatchJob": {
		"Sends the state of the job as Server-Sent Events, now and after each change, at most seven times per " +
			"second. Changes in between are skipped. The response ends after the state in which the job is COMPLETED or CANCELED. " +
			"It continues across restarts of the server and of the database.\n\n" +
			"- An event has the job, without its executions, as JSON in `data`, and an `id`. A client that reconnects sends the `id` as " +
			"`Last-Event-ID`, and gets the state only if it has changed.\n" +
			failureEvent +
			"- A comment, a line that starts with a colon, is sent every 15 seconds.",
		object{
			"200": streamResponse("The states of the job.", "retry: 2000\n\nid: 6f1ed002ab5595f4\n"+
				"data: {\"job_id\":\"reboot-1\",\"status\":\"IN_PROGRESS\",\"total_executions\":334,\"succeeded_count\":12, …}\n\n"),
			"204": object{
				"description": "The job is finished, and its state is the one of `Last-Event-ID`. An EventSource stops.",
				"headers":     object{"X-Request-Id": object{"$ref": "#/components/headers/RequestId"}},
			},
		},
	},
	"WatchEvents": {
		"Sends the events of the tenant as Server-Sent Events: those after a position or from a time, and then each event " +
			"within about a second of its change. The response continues across restarts of the server and of the database.\n\n" +
			"- An event has an Event as JSON in `data`, and its position as `id`. A client that reconnects sends the last `id` as " +
			"`Last-Event-ID`, and gets the events after it: none is missing and none repeats. The query only says where the first " +
			"request starts.\n" +
			"- An event named `heartbeat` has the position up to which the stream is complete as `id`, and `{}` in `data`. It is sent " +
			"at once if there are no events yet, and after 15 seconds without an event.\n" +
			failureEvent +
			"- A comment, a line that starts with a colon, can be sent while the server is unavailable.",
		object{"200": streamResponse("The events.", "retry: 2000\n\nevent: heartbeat\nid: 1795964736000000\ndata: {}\n\n"+
			"id: 1795964737123456\ndata: {\"position\":\"1795964737123456\",\"type\":\"job.paused\",\"job_id\":\"reboot-1\", …}\n\n")},
	},
}

const failureEvent = "- An event named `failure` has an error in `data`, such as INVALID_TOKEN when the token has expired. The response " +
	"ends after it.\n"

var lastEventID = object{
	"name": "Last-Event-ID", "in": "header", "description": "The `id` of the last event that the client received.",
	"schema": object{"type": "string"},
}

func streamResponse(description, example string) object {
	return object{
		"description": description,
		"headers":     object{"X-Request-Id": object{"$ref": "#/components/headers/RequestId"}},
		"content":     object{"text/event-stream": object{"schema": object{"type": "string"}, "example": example}},
	}
}
