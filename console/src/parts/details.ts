/** Scrolls to the tabs of a job, after a link above them has chosen one. */
export function showDetails(): void {
    requestAnimationFrame(() => document.getElementById("details")?.scrollIntoView());
}
