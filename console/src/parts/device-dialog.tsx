/** Registers a device, or changes what several have in common. */

import { useState } from "preact/hooks";
import type { Device } from "../api/client";
import { change, draftOf, register } from "../devices";
import { DraftError } from "../draft";
import { Dialog, type Question } from "./dialog";
import { bind, Lines, Text } from "./fields";

const zones = Object.fromEntries(["UTC", ...Intl.supportedValuesOf("timeZone")].map((zone) => [zone, ""]));

/** No `devices`: registers one. */
export function DeviceDialog(props: { devices: Device[]; close: () => void; done: () => void }) {
    // What others change in the meantime does not change what the person is typing.
    const [devices] = useState(props.devices);
    const [start] = useState(() => draftOf(devices));
    const [draft, setDraft] = useState(start);
    const isNew = !devices.length;
    let question: Question;
    let problems = {};
    try {
        question = isNew ? register(draft, props.done) : change(devices, draft, start, props.done);
    } catch (error) {
        if (!(error instanceof DraftError)) throw error;
        problems = { [error.field]: error.message };
        const shown = isNew
            ? register({ ...draft, labels: "" }, props.done)
            : change(devices, start, start, props.done);
        question = { ...shown, incomplete: true, command: undefined };
    }
    const field = bind(draft, (changes) => setDraft({ ...draft, ...changes }), problems);
    const children = (
        <>
            {isNew && <Text {...field("deviceId", "Device ID")} maxLength={256} autofocus />}
            {devices.length > 1 && (
                <p id="dialog-text">
                    The fields show what the devices have in common. Their other labels and groups stay.
                </p>
            )}
            <Lines
                {...field("labels", "Labels, one per line")}
                placeholder={isNew ? "such as model=x200" : "such as model=x200, or model- to remove a label"}
            />
            <Lines {...field("groups", "Groups, one per line", "such as north")} />
            <Text {...field("zone", "Time zone", "such as Europe/Berlin")} suggestions={zones} />
        </>
    );
    return <Dialog question={{ ...question, children }} close={props.close} />;
}
