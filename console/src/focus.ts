/** Keeps the focus on the page, for those who use the keyboard. */

/** The page without its header. */
export function focusPage(): void {
    document.getElementById("main")?.focus({ preventScroll: true });
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
