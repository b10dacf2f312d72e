/** Tabs, which the arrow keys move between, and the panel of the one that is chosen. */

import type { ComponentChildren } from "preact";

export function Tabs<K extends string>(props: {
    label: string;
    tabs: Partial<Record<K, string>>;
    tab: K;
    choose: (tab: K) => void;
    children: ComponentChildren;
}) {
    const { label, tabs, tab, choose, children } = props;
    const names = Object.keys(tabs) as K[];
    return (
        <section class="card" id="details">
            <div class="tabs" role="tablist" aria-label={label}>
                {names.map((name, index) => (
                    <button
                        key={name}
                        role="tab"
                        id={`tab-${name}`}
                        aria-selected={name === tab}
                        aria-controls="panel"
                        tabIndex={name === tab ? 0 : -1}
                        onClick={() => choose(name)}
                        onKeyDown={(e) => {
                            const step = e.key === "ArrowRight" ? 1 : e.key === "ArrowLeft" ? -1 : 0;
                            const next = names[(index + step + names.length) % names.length];
                            if (step && next) {
                                choose(next);
                                document.getElementById(`tab-${next}`)?.focus();
                            }
                        }}
                    >
                        {tabs[name]}
                    </button>
                ))}
            </div>
            <div role="tabpanel" id="panel" aria-labelledby={`tab-${tab}`}>
                {children}
            </div>
        </section>
    );
}
