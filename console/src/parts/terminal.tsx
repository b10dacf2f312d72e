/** The same action in a terminal, to copy. */

import type { Command } from "../commands";
import { shown } from "../format";
import { Copy } from "./copy";

export function Terminal({ command, open }: { command: Command; open?: boolean }) {
    return (
        <details class="terminal" open={open}>
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
