/** Signs in with OpenID Connect: authorization code with PKCE, renewed by refresh token. */

import { InMemoryWebStorage, UserManager, WebStorageStateStore, type User } from "oidc-client-ts";
import { type Config, onSignOut, token, tokenProblem } from "./session";

type Settings = NonNullable<Config["oidc"]>;

const callback = "/console/signed-in";
let manager: UserManager | undefined;

function userManager(settings: Settings): UserManager {
    manager ??= createManager(settings);
    return manager;
}

function createManager({ issuer, client_id, scopes }: Settings): UserManager {
    const created = new UserManager({
        authority: issuer,
        client_id,
        scope: scopes,
        redirect_uri: location.origin + callback,
        // Only the state and the verifier of the redirect are stored; tokens stay in memory.
        stateStore: new WebStorageStateStore({ store: sessionStorage, prefix: "signin." }),
        userStore: new WebStorageStateStore({ store: new InMemoryWebStorage() }),
        automaticSilentRenew: true,
        // Renewal without a refresh token would need an iframe, which the policy forbids.
        monitorSession: false,
    });
    created.events.addUserLoaded(use);
    onSignOut(() => void forget(created));
    return created;
}

/** Revokes the refresh token if the provider can be reached, and forgets the tokens. */
async function forget(created: UserManager): Promise<void> {
    await created.revokeTokens(["refresh_token"]).catch(() => {});
    await created.removeUser();
}

function use(user: User): void {
    tokenProblem.value = "";
    token.value = user.access_token;
}

/** Goes to the provider. It returns to this URL. */
export async function startSignIn(settings: Settings): Promise<void> {
    const url = location.pathname + location.search;
    await userManager(settings).signinRedirect({ state: url });
}

/** Ends a sign-in if the provider has just returned; otherwise does nothing. */
export async function completeSignIn(settings: Settings): Promise<void> {
    if (location.pathname !== callback) return;
    try {
        const user = await userManager(settings).signinRedirectCallback();
        use(user);
        const url =
            typeof user.state === "string" && user.state.startsWith("/console") ? user.state : "/console";
        history.replaceState(null, "", url);
    } catch (error) {
        tokenProblem.value = `The sign-in failed: ${error instanceof Error ? error.message : String(error)}`;
        history.replaceState(null, "", "/console");
    }
}
