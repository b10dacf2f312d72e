/** What the browser remembers. A browser can refuse to store anything. */

/** The stored text; "": none. */
export function remembered(key: string): string {
    try {
        return localStorage.getItem(key) ?? "";
    } catch {
        return "";
    }
}

export function remember(key: string, value: string): void {
    try {
        localStorage.setItem(key, value);
    } catch {
        // The choice lasts as long as the page.
    }
}
