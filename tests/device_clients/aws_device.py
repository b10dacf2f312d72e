"""A device with the AWS IoT SDK, which carries out two jobs and prints what it receives.

python aws_device.py HOST PORT FOLDER THING
"""

import json
import queue
import sys
from typing import Any

from awscrt.mqtt import QoS
from awsiot import iotjobs, mqtt_connection_builder

TIMEOUT = 20.0


class Requests:
    """Sends requests and waits for their responses."""

    def __init__(self, client: iotjobs.IotJobsClient, thing: str) -> None:
        self._client = client
        self._thing = thing
        self._received: queue.Queue[tuple[str, Any]] = queue.Queue()

    def subscribe(self, name: str, request: Any) -> None:
        """Subscribe to responses or notifications."""
        subscribe = getattr(self._client, f"subscribe_to_{name}")
        future, _ = subscribe(
            request, QoS.AT_LEAST_ONCE, lambda message: self._received.put((name, message))
        )
        future.result(TIMEOUT)

    def send(self, name: str, request: Any, *, by_job: bool = False) -> Any:
        """Send a request and return its response."""
        fields = {"thing_name": self._thing}
        if by_job:
            fields["job_id"] = request.job_id
        subscription = getattr(iotjobs, f"{_camel(name)}SubscriptionRequest")(**fields)
        for result in ("accepted", "rejected"):
            self.subscribe(f"{name}_{result}", subscription)
        getattr(self._client, f"publish_{name}")(request, QoS.AT_LEAST_ONCE).result(TIMEOUT)
        while True:
            topic, message = self.next()
            if topic.startswith(name):
                return message

    def next(self) -> tuple[str, Any]:
        """Return the next message."""
        return self._received.get(timeout=TIMEOUT)


def _camel(name: str) -> str:
    return "".join(map(str.capitalize, name.split("_")))


def show(what: str, value: object) -> None:
    """Print a line for the test."""
    print(json.dumps([what, value]), flush=True)


def carry_out(requests: Requests, thing: str) -> None:
    """Start the next execution and report on it twice; the third report is too late."""
    request = iotjobs.StartNextPendingJobExecutionRequest(
        thing_name=thing, step_timeout_in_minutes=5, client_token="token"
    )
    response = requests.send("start_next_pending_job_execution", request)
    execution = response.execution
    show("start-next", [execution.job_id, execution.job_document, response.client_token])

    def update(status: str, **fields: Any) -> Any:
        request = iotjobs.UpdateJobExecutionRequest(
            thing_name=thing,
            job_id=execution.job_id,
            status=status,
            execution_number=execution.execution_number,
            include_job_execution_state=True,
            **fields,
        )
        return requests.send("update_job_execution", request, by_job=True)

    version = execution.version_number
    details = {"percent": "50"}
    response = update("IN_PROGRESS", expected_version=version, status_details=details)
    show("progress", [response.execution_state.status, response.execution_state.status_details])
    response = update("SUCCEEDED", expected_version=version)
    show("version", [response.code, response.execution_state.version_number - version])
    response = update("SUCCEEDED", expected_version=version + 1)
    show("succeeded", response.execution_state.status)
    response = update("FAILED")
    show("failed", response.code)


def main(host: str, port: int, folder: str, thing: str) -> None:
    """Carry out the job that is pending, and the one that comes."""
    connection = mqtt_connection_builder.mtls_from_path(
        endpoint=host,
        port=port,
        ca_filepath=f"{folder}/ca.pem",
        cert_filepath=f"{folder}/{thing}.pem",
        pri_key_filepath=f"{folder}/{thing}.key",
        client_id=thing,
        clean_session=True,
    )
    connection.connect().result(TIMEOUT)
    requests = Requests(iotjobs.IotJobsClient(connection), thing)
    request = iotjobs.NextJobExecutionChangedSubscriptionRequest(thing_name=thing)
    requests.subscribe("next_job_execution_changed_events", request)

    carry_out(requests, thing)
    request = iotjobs.GetPendingJobExecutionsRequest(thing_name=thing)
    response = requests.send("get_pending_job_executions", request)
    show("pending", [response.in_progress_jobs, response.queued_jobs])
    show("waiting", None)
    while True:
        topic, event = requests.next()
        if topic.startswith("next_job") and event.execution and event.execution.job_id == "next":
            break
    show("notify-next", event.execution.job_id)
    request = iotjobs.DescribeJobExecutionRequest(thing_name=thing, job_id="next")
    response = requests.send("describe_job_execution", request, by_job=True)
    show("get", [response.execution.status, response.execution.job_document])
    connection.disconnect().result(TIMEOUT)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
