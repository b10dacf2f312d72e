/**
 * Signs in with OpenID Connect: authorization code with PKCE, renewed by refresh token.
 *
 * The library checks the state, the verifier and the nonce that it is given, but no issuer.
 */

import { InMemoryWebStorage, UserManager, WebStorageStateStore, type User } from "oidc-client-ts";
import { caller, type Config, onSignOut, token, tokenProblem } from "./session";

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
        // Only the state, the verifier and the nonce of the redirect are stored; tokens stay in memory.
        stateStore: new WebStorageStateStore({ store: sessionStorage, prefix: "signin." }),
        userStore: new WebStorageStateStore({ store: new InMemoryWebStorage() }),
        automaticSilentRenew: true,
        // Renewal without a refresh token would need an iframe, which the policy forbids.
        monitorSession: false,
    });
    created.events.addUserLoaded((user) => use(created, user, issuer));
    onSignOut(() => void forget(created));
    return created;
}

/** Revokes the refresh token if the provider can be reached, and forgets the tokens. */
async function forget(created: UserManager): Promise<void> {
    await created.revokeTokens(["refresh_token"]).catch(() => {});
    await created.removeUser();
}

/** Thrown when a response names another issuer. */
export class IssuerError extends Error {}

const retry = "Another provider may have answered; sign in again.";

function requireIssuer(found: unknown, issuer: string, where: string, advice = retry): void {
    if (found === issuer) return;
    const name = typeof found === "string" ? `the issuer "${found}"` : "no issuer";
    throw new IssuerError(`${where} has ${name}; JOBS_GATEWAY_OIDC_ISSUER is "${issuer}". ${advice}`);
}

/** Reads the discovery document, which must be that of the issuer. */
async function discover(created: UserManager, issuer: string) {
    const metadata = await created.metadataService.getMetadata();
    const advice = "An administrator must set it to the issuer of the provider.";
    requireIssuer(metadata.issuer, issuer, "The discovery document", advice);
    return metadata as typeof metadata & { authorization_response_iss_parameter_supported?: boolean };
}

/** Checks the issuer of a redirect where the provider sends it (RFC 9207), before the code is sent on. */
async function checkRedirect(created: UserManager, issuer: string): Promise<void> {
    const { authorization_response_iss_parameter_supported: isSent } = await discover(created, issuer);
    const found = new URLSearchParams(location.search).getAll("iss");
    for (const each of isSent && !found.length ? [undefined] : found) {
        requireIssuer(each, issuer, "The answer of the provider");
    }
}

/** Uses the tokens of a sign-in or a renewal. Ends the session if they are of another issuer. */
async function use(created: UserManager, user: User, issuer: string): Promise<void> {
    try {
        if (user.id_token) requireIssuer(user.profile.iss, issuer, "The ID token");
        tokenProblem.value = "";
        token.value = user.access_token;
    } catch (error) {
        // The library has stored the tokens, and would renew them.
        await created.removeUser();
        token.value = "";
        caller.value = null;
        tokenProblem.value = String((error as Error).message);
    }
}

/** Goes to the provider. It returns to this URL. */
export async function startSignIn(settings: Settings): Promise<void> {
    const url = location.pathname + location.search;
    const created = userManager(settings);
    await discover(created, settings.issuer);
    await created.signinRedirect({ state: url, nonce: crypto.randomUUID() });
}

/** Ends a sign-in if the provider has just returned; otherwise does nothing. */
export async function completeSignIn(settings: Settings): Promise<void> {
    if (location.pathname !== callback) return;
    const created = userManager(settings);
    try {
        await checkRedirect(created, settings.issuer);
        const user = await created.signinRedirectCallback();
        const url =
            typeof user.state === "string" && user.state.startsWith("/console") ? user.state : "/console";
        history.replaceState(null, "", url);
    } catch (error) {
        await created.removeUser();
        tokenProblem.value = `The sign-in failed: ${error instanceof Error ? error.message : String(error)}`;
        history.replaceState(null, "", "/console");
    }
}
