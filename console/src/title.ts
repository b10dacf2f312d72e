/** The title of the page, which names the tab of the browser and its entry in the history. */

import { useEffect } from "preact/hooks";
import { shown } from "./format";

export function useTitle(title: string): void {
    useEffect(() => {
        document.title = `${shown(title)} · Fleet Jobs`;
    }, [title]);
}
