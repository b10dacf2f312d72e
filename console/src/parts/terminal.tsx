/** The same action in a terminal, to copy. */

import { useState } from "preact/hooks";
import type { Command } from "../commands";
import { shown } from "../format";

export function Terminal({ command }: { command: Command }) {
    return (
        <details class="terminal">
            <summary>Same in a terminal</summary>
            <Line text={command.cli} />
            <Line text={command.curl} />
        </details>
    );
}

function Line({ text }: { text: string }) {
    const [copied, setCopied] = useState(false);
    const copy = async () => {
        await navigator.clipboard.writeText(text);
        setCopied(true);
        setTimeout(() => setCopied(false), 1500);
    };
    return (
        <div class="line">
            <code tabIndex={0}>{shown(text)}</code>
            {/* The clipboard exists only on HTTPS and on this machine. */}
            {navigator.clipboard && (
                <button type="button" class="small" onClick={copy}>
                    {copied ? "Copied" : "Copy"}
                </button>
            )}
        </div>
    );
}
