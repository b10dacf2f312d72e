/** Keeps the focus on the page, for those who use the keyboard. */

let wanted = "";

/** Focuses the main content, or the element of the selector; if this page lacks it, the next page focuses it. */
export function focusPage(selector = ""): void {
    wanted = selector || wanted;
    const found = wanted ? document.querySelector<HTMLElement>(wanted) : document.getElementById("main");
    const focus = () => (found ?? document.getElementById("main"))?.focus({ preventScroll: true });
    if (found || !selector) wanted = "";
    focus();
    if (!found || found.offsetParent) return;
    // On a narrow screen, filters are folded: it is visible after the next rendering.
    document.querySelector<HTMLElement>(".fold")?.click();
    void Promise.resolve().then(focus);
}

/** Focuses the page when what had the focus is removed, such as a button that a loaded change leaves out. */
export function watchFocus(): () => void {
    let focused: Node | null = null;
    const onFocus = (event: FocusEvent) => {
        focused = event.target as Node;
    };
    const observer = new MutationObserver(() => {
        if (!focused || focused.isConnected) return;
        focused = null;
        if (document.activeElement === document.body) focusPage();
    });
    document.addEventListener("focusin", onFocus);
    observer.observe(document.body, { childList: true, subtree: true });
    return () => {
        document.removeEventListener("focusin", onFocus);
        observer.disconnect();
    };
}
