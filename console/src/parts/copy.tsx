/** A button that copies a text. */

import { useState } from "preact/hooks";

export function Copy({ text, what = "" }: { text: string; what?: string }) {
    const [copied, setCopied] = useState(false);
    // The clipboard exists only on HTTPS and on this machine.
    if (!navigator.clipboard) return null;
    const copy = async () => {
        await navigator.clipboard.writeText(text);
        setCopied(true);
        setTimeout(() => setCopied(false), 1500);
    };
    return (
        <button type="button" class="small" onClick={copy}>
            {copied ? "Copied" : `Copy ${what}`.trim()}
        </button>
    );
}
