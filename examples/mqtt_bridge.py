"""Forwards the reports of devices from an MQTT broker to the server; no report is lost.

python examples/mqtt_bridge.py 127.0.0.1:50051 demo 127.0.0.1:1883

A device publishes an UpdateExecutionRequest as JSON to jobs/DEVICE/report, with QoS 1:

{"job_id": "reboot-1", "execution_number": 1, "status": "SUCCEEDED"}

The bridge acknowledges a message when the server has stored it. Until then the broker keeps it, and
sends it again if the bridge restarts. The broker sends at most MAX_IN_FLIGHT messages without an
acknowledgment, so a slow server slows the broker down, and the bridge does not fill its memory.
"""

import asyncio
import sys
from typing import Any

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as pb
from google.protobuf.json_format import Parse, ParseError
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from jobs_grpc.client import DeviceClient, JobsError, ReportStream

MAX_IN_FLIGHT = 1000
WEEK = 7 * 24 * 3600

# The server will never accept the report: the execution has ended, does not exist, or the report is
# invalid. After any other error, the bridge ends without an acknowledgment.
PERMANENT = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
}


class Bridge:
    """Forwards messages of the broker in order."""

    def __init__(self, reports: ReportStream, mqtt: Client) -> None:
        self._reports = reports
        self._mqtt = mqtt
        self._connection = 0
        # Messages, each with the number of the connection that it came from. ReceiveMaximum bounds
        # the size of the queue.
        self._received: asyncio.Queue[tuple[int, MQTTMessage]] = asyncio.Queue()
        # The same with the future of the response; None if the message is not a report.
        self._sent: asyncio.Queue[
            tuple[int, MQTTMessage, asyncio.Future[pb.DeviceExecution] | None]
        ] = asyncio.Queue(MAX_IN_FLIGHT)

    def connected(self) -> None:
        """Start over: on a new connection, the broker resends all messages not acknowledged."""
        self._connection += 1
        while not self._received.empty():
            self._received.get_nowait()
        # Subscribe each time, because the broker may have lost the session.
        self._mqtt.subscribe("jobs/+/report", qos=1)

    def received(self, message: MQTTMessage) -> None:
        """Queue a message."""
        self._received.put_nowait((self._connection, message))

    async def run(self) -> None:
        """Forward messages until an error occurs that retries do not fix."""
        await asyncio.gather(self._send(), self._acknowledge())

    async def _send(self) -> None:
        while True:
            connection, message = await self._received.get()
            answer = None
            try:
                update = Parse(bytes(message.payload), pb.UpdateExecutionRequest())
                answer = await self._reports.send(update, device_id=message.topic.split("/")[1])
            except (ParseError, ValueError) as e:
                print(f"{message.topic}: not a report: {e}", file=sys.stderr)
            await self._sent.put((connection, message, answer))

    async def _acknowledge(self) -> None:
        while True:
            connection, message, answer = await self._sent.get()
            try:
                if answer:
                    await answer
            except JobsError as e:
                if e.code not in PERMANENT:
                    raise
                print(f"{message.topic}: {e}", file=sys.stderr)
            # The broker has resent a message of an earlier connection.
            if connection == self._connection:
                self._mqtt.ack(message.mid, message.qos)


async def main(server: str, tenant: str, broker: str) -> None:
    """Run a bridge for one tenant."""
    # For a server on another machine, pass a Connection with `tls` and a token instead of `roles`.
    async with (
        DeviceClient(server, tenant=tenant, roles=["bridge"]) as device,
        device.report_stream(max_pending=MAX_IN_FLIGHT) as reports,
    ):
        # One bridge for each client id: the broker closes the connection of an earlier one.
        mqtt = Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"jobs-bridge-{tenant}",
            protocol=MQTTProtocolVersion.MQTTv5,
            manual_ack=True,
        )  # For a broker on another machine, call mqtt.tls_set() and mqtt.username_pw_set().
        bridge = Bridge(reports, mqtt)
        loop = asyncio.get_running_loop()

        # paho calls these in its own thread, one after the other.
        def on_connect(*_: Any) -> None:
            loop.call_soon_threadsafe(bridge.connected)

        def on_message(_client: Client, _userdata: Any, message: MQTTMessage) -> None:
            loop.call_soon_threadsafe(bridge.received, message)

        mqtt.on_connect = on_connect
        mqtt.on_message = on_message
        session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = WEEK
        session.ReceiveMaximum = MAX_IN_FLIGHT
        host, _, port = broker.rpartition(":")
        mqtt.connect_async(host, int(port), clean_start=False, properties=session)
        mqtt.loop_start()  # reconnects, with a backoff
        try:
            await bridge.run()
        finally:
            mqtt.disconnect()
            mqtt.loop_stop()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: mqtt_bridge.py SERVER TENANT BROKER")
    try:
        asyncio.run(main(*sys.argv[1:]))
    except JobsError as e:
        sys.exit(str(e))
    except KeyboardInterrupt:
        pass
