/** Imports devices from a CSV file, in several calls. An interrupted import can be continued. */

import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { readDeviceFile, type DeviceFile } from "../csv";
import { send } from "../devices";
import { count, counted, shown } from "../format";
import { callerKey, onSignOut } from "../session";
import { Dialog } from "./dialog";

// About 200,000 devices. The tab holds the file in memory.
const MAX_MEGABYTES = 20;

interface Import extends DeviceFile {
    name: string;
    caller: string | null;
    /** How many devices were sent, and how many of them were new. */
    sent: number;
    registered: number;
}

/** The file that was chosen last, until it is imported. */
const current = signal<Import | null>(null);
onSignOut(() => (current.value = null));

async function readFile(file: File): Promise<DeviceFile> {
    const failed = (problem: string) => ({ lineCount: 0, devices: [], problems: [problem] });
    if (file.size > MAX_MEGABYTES * 1e6) {
        return failed(`The file is larger than ${MAX_MEGABYTES} MB: use jobs-grpc devices import`);
    }
    try {
        const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
        return readDeviceFile(text);
    } catch {
        return failed("The file must be encoded in UTF-8");
    }
}

const progress = ({ name, sent, devices }: Import) =>
    `${name}: ${sent ? `${count(sent)} of ` : ""}${counted(devices.length, "device")}${sent ? " imported" : ", no problems found"}`;

export function ImportDialog({ close, done }: { close: () => void; done: () => void }) {
    const file = current.value?.caller === callerKey.value ? current.value : null;
    const isOpen = useRef(true);
    useEffect(() => () => void (isOpen.current = false), []);
    const choose = async (chosen: File | undefined) => {
        if (!chosen) return;
        const read = await readFile(chosen);
        current.value = { ...read, name: chosen.name, caller: callerKey.value, sent: 0, registered: 0 };
    };
    const run = async () => {
        for (
            let at = current.value;
            at && at.sent < at.devices.length && at.caller === callerKey.value && isOpen.current;
            at = current.value
        ) {
            const { sent, registered } = await send(at.devices, at.sent);
            // Another file was chosen, or the person has signed out.
            if (current.value !== at) return;
            current.value = { ...at, sent: at.sent + sent, registered: at.registered + registered };
        }
        const at = current.value;
        done();
        if (!at || at.sent < at.devices.length) return at ? `Import stopped. ${progress(at)}.` : "";
        current.value = null;
        const updated = counted(at.sent - at.registered, "device");
        return `Lines read: ${count(at.lineCount)}. Registered ${counted(at.registered, "device")}, updated ${updated}.`;
    };
    const children = (
        <>
            <p id="dialog-text">
                A CSV file in UTF-8 with a header: device_id, and optionally group_id, time_zone, and
                label:KEY for each label. A device can have several lines, one for each of its groups; if
                several lines set a label or the time zone, the last one wins. An empty cell changes nothing,
                and other labels and groups stay.
            </p>
            <label>
                File
                <input
                    type="file"
                    accept=".csv,text/csv"
                    onChange={(e) => choose(e.currentTarget.files?.[0])}
                />
            </label>
            {file && (
                <div role="status">
                    {file.problems.length > 0 ? (
                        <>
                            <p class="problem">Nothing was imported:</p>
                            <ul class="problem">
                                {file.problems.map((text) => (
                                    <li key={text}>{shown(text)}</li>
                                ))}
                            </ul>
                        </>
                    ) : (
                        <p>{shown(progress(file))}</p>
                    )}
                </div>
            )}
            {file && <progress max={file.devices.length} value={file.sent} aria-label="Imported devices" />}
        </>
    );
    const left = file && !file.problems.length ? file.devices.length - file.sent : 0;
    const question = {
        title: "Import devices",
        action: left
            ? `${file?.sent ? "Continue import of" : "Import"} ${counted(left, "device")}`
            : "Import",
        incomplete: !left,
        children,
        run,
    };
    return <Dialog question={question} close={close} />;
}
