/** Leads to the tabs of a job, after a link above them has chosen one. */
export function showDetails(): void {
    requestAnimationFrame(() => {
        const details = document.getElementById("details");
        details?.scrollIntoView();
        details?.querySelector<HTMLElement>("[aria-selected=true]")?.focus({ preventScroll: true });
    });
}
