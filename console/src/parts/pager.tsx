/** The buttons below a list, which change the page in the URL. */

import { useQuery } from "../query";

export function Pager({ next, label }: { next: string | undefined; label: string }) {
    const [query, setQuery] = useQuery();
    if (!query.page && !next) return null;
    return (
        <nav class="pages" aria-label={label}>
            {query.page && <button onClick={() => setQuery({ page: "" })}>First page</button>}
            {next && <button onClick={() => setQuery({ page: next })}>Next page</button>}
        </nav>
    );
}
