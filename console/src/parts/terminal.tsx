/** The same action in a terminal, to copy. */

import type { Command } from "../commands";
import { shown } from "../format";
import { Copy } from "./copy";

export function Terminal({ command }: { command: Command }) {
    return (
        <details class="terminal">
            <summary>Command line equivalent</summary>
            {command.cli && <Line text={command.cli} />}
            <Line text={command.curl} />
        </details>
    );
}

function Line({ text }: { text: string }) {
    return (
        <div class="line">
            <code tabIndex={0}>{shown(text)}</code>
            <Copy text={text} />
        </div>
    );
}
