/** A field for a selector of devices: suggests labels and groups, and marks a label that no device has. */

import type { FleetLabels } from "../api/client";
import { shown } from "../format";
import { selectorSuggestions, unknownLabel } from "../suggestions";
import { Text } from "./fields";

export function SelectorField(props: {
    label: string;
    value: string;
    set: (value: string) => void;
    known: FleetLabels | undefined;
    placeholder?: string;
    name?: string;
    problem?: string | undefined;
}) {
    const { known, ...field } = props;
    const suggestions = selectorSuggestions(known, field.value);
    // What is typed last can still become a label.
    const isTyping = Object.keys(suggestions).length > 0;
    const typed = isTyping ? field.value.replace(/[^,]*$/, "") : field.value;
    const unknown = unknownLabel(known, typed);
    return (
        <div class="selector long">
            <Text {...field} suggestions={suggestions} />
            <span class="caution" role="status">
                {unknown && `No device had the label ${shown(unknown)} when the labels were last read.`}
            </span>
        </div>
    );
}
