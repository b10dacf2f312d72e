/** Asks before an action: says what it does to how many devices, and shows the same for a terminal. */

import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { ApiError, type Job } from "../api/client";
import type { Command } from "../commands";
import { focusPage } from "../focus";
import { count, shown } from "../format";
import { reloadAll } from "../load";
import { callerKey } from "../session";
import { Changes } from "./changes";
import { confirmation, lateFailure } from "./confirmation";
import { Check, Text } from "./fields";
import { ErrorNotice } from "./notices";
import { Terminal } from "./terminal";

// Destructive actions on more devices ask for the job id.
const TYPE_ABOVE = 1000;
// As in CancelJobRequest.
const MAX_REASON = 1000;

export interface Question {
    title: string;
    /** What happens, with the number of devices. */
    children?: ComponentChildren;
    /** The label of the button that acts, such as "Cancel job". */
    action: string;
    destructive?: boolean;
    /** The fields of `children` are not complete: it can't act yet. */
    incomplete?: boolean;
    /** A box, and the question while it is checked. */
    choice?: { label: string; question: Question };
    /** How many devices it affects, and the word to type if there are many. */
    devices?: number;
    typed?: string;
    /** Who can read the reason, and where, if it takes one. */
    reasonVisibility?: string;
    command?: Command | ((reason?: string) => Command);
    /** The job whose etag is sent. */
    job?: Job;
    /** Says what is wrong in other words than those of the API. */
    explain?: (error: ApiError) => string[];
    /** What to say after it, if the page does not show it; or `run` returns it. */
    outcome?: string;
    run: (reason?: string) => Promise<string | void>;
}

/** The command of a question about an action with this reason. */
export function commandOf({ command }: Question, reason?: string): Command | undefined {
    return typeof command === "function" ? command(reason) : command;
}

export function Dialog(props: { question: Question; close: () => void }) {
    const { close } = props;
    const { choice } = props.question;
    const [isChosen, choose] = useState(false);
    const question = choice && isChosen ? choice.question : props.question;
    const dialog = useRef<HTMLDialogElement>(null);
    const [typed, setTyped] = useState("");
    const [text, setText] = useState("");
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<ApiError | null>(null);
    // An effect after the next frame would let a key still reach the page behind it, and take another opener.
    useLayoutEffect(() => {
        const opener = document.activeElement;
        dialog.current?.showModal();
        return () => {
            if (opener?.isConnected) (opener as HTMLElement).focus({ preventScroll: true });
            else focusPage();
        };
    }, []);

    const reason = text.trim() || undefined;
    const command = commandOf(question, reason);
    const word = question.destructive && (question.devices ?? 0) > TYPE_ABOVE ? question.typed : undefined;
    const changed = error?.reason === "JOB_CHANGED" ? question.job : undefined;
    const act = async (event: SubmitEvent) => {
        event.preventDefault();
        setBusy(true);
        setError(null);
        const calledBy = callerKey.value;
        try {
            const outcome = (await question.run(reason)) || question.outcome;
            if (callerKey.value !== calledBy) return;
            confirmation.value = outcome ? { text: outcome, jobId: question.job?.job_id } : null;
            reloadAll();
            // The person can have closed it, and opened another.
            if (dialog.current) close();
        } catch (e) {
            const failure = e instanceof ApiError ? e : new ApiError(String(e), "", 400);
            setError(failure);
            setBusy(false);
            if (dialog.current || callerKey.value !== calledBy) return;
            // After an outage, nobody knows whether it was done.
            const failed = failure.isTemporary ? "may have failed" : "failed";
            lateFailure.value = { text: `“${question.title.replace(/\?$/, "")}” ${failed}:`, error: failure };
            reloadAll();
        }
    };
    return (
        <dialog ref={dialog} onClose={close} aria-labelledby="dialog-title" aria-describedby="dialog-text">
            <form onSubmit={act}>
                <h2 id="dialog-title">{shown(question.title)}</h2>
                {typeof question.children === "string" ? (
                    <p id="dialog-text">{shown(question.children)}</p>
                ) : (
                    question.children
                )}
                {choice && <Check label={choice.label} checked={isChosen} set={choose} />}
                {question.reasonVisibility && (
                    <>
                        <Text
                            label="Reason"
                            value={text}
                            set={setText}
                            placeholder="optional"
                            maxLength={MAX_REASON}
                        />
                        <p class="quiet">{question.reasonVisibility}</p>
                    </>
                )}
                {word && (
                    <label>
                        {count(question.devices ?? 0)} devices are affected. Type <code>{shown(word)}</code>{" "}
                        to confirm.
                        <input
                            value={typed}
                            onInput={(e) => setTyped(e.currentTarget.value)}
                            autocomplete="off"
                            autofocus
                        />
                    </label>
                )}
                {changed && <Changes job={changed} />}
                {error && !changed && <ErrorNotice error={error} texts={question.explain?.(error)} />}
                {command && <Terminal command={command} />}
                <div class="buttons">
                    <button type="button" onClick={close} autofocus={question.destructive}>
                        Back
                    </button>
                    <button
                        class={question.destructive ? "destructive" : "primary"}
                        disabled={
                            busy || question.incomplete || !!changed || (word !== undefined && typed !== word)
                        }
                        autofocus={!question.destructive}
                    >
                        {question.action}
                    </button>
                </div>
            </form>
        </dialog>
    );
}
