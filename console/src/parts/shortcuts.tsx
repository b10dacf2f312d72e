/** Keyboard shortcuts, and the dialog that lists them. */

import { useLocation } from "preact-iso";
import { useEffect, useState } from "preact/hooks";
import { focusPage } from "../focus";
import { remember, remembered } from "../storage";
import { Check } from "./fields";

const pages: Record<string, [string, string]> = {
    f: ["/console", "Fleet"],
    j: ["/console/jobs", "Jobs"],
    a: ["/console/approvals", "Approvals"],
    d: ["/console/devices", "Devices"],
    e: ["/console/events", "Events"],
};
const words = [
    ["/", "Search by ID prefix: devices on the Devices page, jobs elsewhere"],
    ["?", "Show this list"],
    ...Object.entries(pages).map(([key, [, name]]) => [`g ${key}`, name]),
];
const SEARCH = "form[role=search] input[name=id]";
// Between g and the next key.
const MAX_PAUSE_MS = 2000;
// Elements that receive keys themselves.
const TYPING = "input:not([type=checkbox]), select, textarea";

export function Shortcuts() {
    const { route } = useLocation();
    const [isOpen, setOpen] = useState(false);
    const [isOn, setOn] = useState(remembered("shortcuts") !== "off");
    useEffect(() => {
        if (!isOn) return;
        let goAt = 0;
        const onKey = (event: KeyboardEvent) => {
            const { key, target, timeStamp } = event;
            const isTyping = (target as Element).closest?.(TYPING) || document.querySelector("dialog[open]");
            if (event.ctrlKey || event.metaKey || event.altKey || isTyping) return;
            const page = goAt && timeStamp - goAt < MAX_PAUSE_MS ? pages[key] : undefined;
            goAt = key === "g" ? timeStamp : 0;
            if (page) route(page[0]);
            else if (key === "?") setOpen(true);
            else if (key === "/") {
                if (!document.querySelector(SEARCH)) route("/console/jobs");
                focusPage(SEARCH);
            } else return;
            event.preventDefault();
        };
        document.addEventListener("keydown", onKey);
        return () => document.removeEventListener("keydown", onKey);
    }, [isOn, route]);
    const choose = (on: boolean) => {
        setOn(on);
        remember("shortcuts", on ? "" : "off");
    };
    return (
        <>
            <button class="link" onClick={() => setOpen(true)}>
                Keyboard shortcuts
            </button>
            {isOpen && (
                <dialog
                    ref={(dialog) => void (dialog?.open === false && dialog.showModal())}
                    onClose={() => setOpen(false)}
                    aria-labelledby="shortcuts"
                >
                    <form method="dialog">
                        <h2 id="shortcuts">Keyboard shortcuts</h2>
                        <dl class="facts">
                            {words.map(([keys, text]) => [
                                <dt key={keys}>
                                    <kbd>{keys}</kbd>
                                </dt>,
                                <dd key={text}>{text}</dd>,
                            ])}
                        </dl>
                        <Check label="Use keyboard shortcuts" checked={isOn} set={choose} />
                        <div class="buttons">
                            <button autofocus>Close</button>
                        </div>
                    </form>
                </dialog>
            )}
        </>
    );
}
