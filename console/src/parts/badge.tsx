/** A status as a word with a colored dot. */

import type { Tone } from "../words";

export function Badge({ word, tone, hint }: { word: string; tone: Tone; hint?: string }) {
    return (
        <span class={`badge ${tone}`} title={hint}>
            <span class="dot" aria-hidden="true" />
            {word}
        </span>
    );
}
