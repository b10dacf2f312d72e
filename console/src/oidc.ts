/**
 * Signs in with OpenID Connect: authorization code with PKCE, renewed by refresh token.
 *
 * The library checks the state, the verifier and the nonce that it is given, but no issuer.
 */

import { ErrorTimeout, OidcClient, type SigninResponse, WebStorageStateStore } from "oidc-client-ts";
import { caller, type Config, onSignOut, token, tokenProblem } from "./session";

type Settings = NonNullable<Config["oidc"]>;

const callback = "/console/signed-in";
const RENEW_BEFORE_MS = 60_000;
const CHECK_MS = 5000;

let client: OidcClient | undefined;
/** The tokens of the session, in memory only. */
let session: SigninResponse | undefined;
let renewAt = Infinity;

function oidcClient(settings: Settings): OidcClient {
    client ??= createClient(settings);
    return client;
}

function createClient({ issuer, client_id, scopes }: Settings): OidcClient {
    const created = new OidcClient({
        authority: issuer,
        client_id,
        scope: scopes,
        redirect_uri: location.origin + callback,
        // Only the state, the verifier and the nonce of the redirect are stored.
        stateStore: new WebStorageStateStore({ store: sessionStorage, prefix: "signin." }),
    });
    // A timeout until the renewal would stand still while the computer sleeps.
    setInterval(() => void renew(created, issuer), CHECK_MS);
    onSignOut(() => {
        void revoke(created, session);
        session = undefined;
    });
    return created;
}

/** Revokes the refresh token if the provider can be reached. */
async function revoke(created: OidcClient, tokens: SigninResponse | undefined): Promise<void> {
    if (tokens?.refresh_token)
        await created.revokeToken(tokens.refresh_token, "refresh_token").catch(() => {});
}

/** Renews the tokens of the session with its refresh token, when it is time. */
async function renew(created: OidcClient, issuer: string): Promise<void> {
    const last = session;
    if (!last?.refresh_token || Date.now() < renewAt) return;
    renewAt = Infinity;
    const { refresh_token, id_token, session_state, scope, profile } = last;
    try {
        const state = { refresh_token, id_token, session_state, scope, profile };
        const next = await created.useRefreshToken({ state, timeoutInSeconds: 10 });
        next.refresh_token ??= refresh_token;
        // The person may have signed out meanwhile.
        if (session === last) use(next, issuer);
        else await revoke(created, next);
    } catch (error) {
        // Without an answer, the next check tries again.
        if (error instanceof ErrorTimeout || error instanceof TypeError) renewAt = 0;
    }
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
async function discover(created: OidcClient, issuer: string) {
    const metadata = await created.metadataService.getMetadata();
    const advice = "An administrator must set it to the issuer of the provider.";
    requireIssuer(metadata.issuer, issuer, "The discovery document", advice);
    return metadata as typeof metadata & { authorization_response_iss_parameter_supported?: boolean };
}

/** Checks the issuer of a redirect where the provider sends it (RFC 9207), before the code is sent on. */
async function checkRedirect(created: OidcClient, issuer: string): Promise<void> {
    const { authorization_response_iss_parameter_supported: isSent } = await discover(created, issuer);
    const found = new URLSearchParams(location.search).getAll("iss");
    for (const each of isSent && !found.length ? [undefined] : found) {
        requireIssuer(each, issuer, "The answer of the provider");
    }
}

/** Uses the tokens of a sign-in or a renewal. Ends the session if they are of another issuer. */
function use(tokens: SigninResponse, issuer: string): void {
    session = undefined;
    try {
        if (tokens.id_token) requireIssuer(tokens.profile.iss, issuer, "The ID token");
        session = tokens;
        renewAt = tokens.expires_in ? Date.now() + tokens.expires_in * 1000 - RENEW_BEFORE_MS : Infinity;
        tokenProblem.value = "";
        token.value = tokens.access_token;
    } catch (error) {
        token.value = "";
        caller.value = null;
        tokenProblem.value = String((error as Error).message);
    }
}

/** Goes to the provider. It returns to this URL. */
export async function startSignIn(settings: Settings): Promise<void> {
    const url = location.pathname + location.search;
    const created = oidcClient(settings);
    await discover(created, settings.issuer);
    const request = await created.createSigninRequest({ state: url, nonce: crypto.randomUUID() });
    location.assign(request.url);
}

/** Ends a sign-in if the provider has just returned; otherwise does nothing. */
export async function completeSignIn(settings: Settings): Promise<void> {
    if (location.pathname !== callback) return;
    const created = oidcClient(settings);
    try {
        await checkRedirect(created, settings.issuer);
        const tokens = await created.processSigninResponse(location.href);
        use(tokens, settings.issuer);
        const state = tokens.userState;
        const url = typeof state === "string" && state.startsWith("/console") ? state : "/console";
        history.replaceState(null, "", url);
    } catch (error) {
        tokenProblem.value = `The sign-in failed: ${error instanceof Error ? error.message : String(error)}`;
        history.replaceState(null, "", "/console");
    }
}
