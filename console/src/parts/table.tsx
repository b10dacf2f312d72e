import type { ComponentChildren } from "preact";

/** A table. `columns`: their titles, each with a class or "". */
export function Table(props: {
    columns: Record<string, string>;
    class?: string;
    children: ComponentChildren;
}) {
    return (
        <table class={props.class}>
            <thead>
                <tr>
                    {Object.entries(props.columns).map(([title, name]) => {
                        // A heading must not be empty.
                        const Cell = title ? "th" : "td";
                        return (
                            <Cell key={title} class={name}>
                                {title}
                            </Cell>
                        );
                    })}
                </tr>
            </thead>
            <tbody>{props.children}</tbody>
        </table>
    );
}
