/** A status as a word with a colored dot. */

import type { Tone } from "../words";

export function Badge({ word, tone }: { word: string; tone: Tone }) {
    return (
        <span class={`badge ${tone}`}>
            <span class="dot" aria-hidden="true" />
            {word}
        </span>
    );
}
