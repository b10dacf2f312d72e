import { useTitle } from "../title";

export function NotFound() {
    useTitle("No such page");
    return (
        <section class="narrow">
            <h1>No such page</h1>
            <p>
                The console has no page with this address. <a href="/console/jobs">Show all jobs</a>
            </p>
        </section>
    );
}
