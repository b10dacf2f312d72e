/** The groups of the tenant, to choose from. */

import { api, page } from "./api/client";
import { useLoaded } from "./load";

export function useGroups(limit: number) {
    const { data } = useLoaded(`groups ${limit}`, (signal) =>
        page(api.GET("/customer/fleet/groups", { params: { query: { limit } }, signal })),
    );
    return data?.items ?? [];
}
