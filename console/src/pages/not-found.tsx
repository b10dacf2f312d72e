import { useTitle } from "../title";

export function NotFound() {
    useTitle("No such page");
    return (
        <section class="narrow">
            <h1>No such page</h1>
            <p>
                <a href="/console">Show all jobs</a>
            </p>
        </section>
    );
}
