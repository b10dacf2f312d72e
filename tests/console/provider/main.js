/**
 * An OpenID provider: accepts any login, and issues JWTs for the service. Prints its URL.
 * Arguments: the URI to which it redirects, the tenant of all users, and the lifetime of access tokens in seconds.
 */

import http from "node:http";
import Provider from "oidc-provider";

const [redirectUri, tenant, lifetime] = process.argv.slice(2);
const resource = "urn:jobs";

const configuration = {
    clients: [
        {
            client_id: "console",
            token_endpoint_auth_method: "none",
            grant_types: ["authorization_code", "refresh_token"],
            redirect_uris: [redirectUri],
        },
    ],
    clientBasedCORS: () => true,
    extraTokenClaims: () => ({ tenant_id: tenant, roles: ["admin"] }),
    features: {
        resourceIndicators: {
            enabled: true,
            defaultResource: () => resource,
            useGrantedResource: () => true,
            getResourceServerInfo: () => ({
                scope: "",
                accessTokenFormat: "jwt",
                accessTokenTTL: Number(lifetime),
            }),
        },
        revocation: { enabled: true },
    },
    findAccount: (_context, sub) => ({ accountId: sub, claims: () => ({ sub }) }),
    issueRefreshToken: () => true,
    // No question whether the console may act for the user.
    async loadExistingGrant(context) {
        const { client, session, provider } = context.oidc;
        const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
        grant.addOIDCScope("openid offline_access");
        await grant.save();
        return grant;
    },
};

const server = http.createServer();
server.listen(0, "127.0.0.1", () => {
    const issuer = `http://127.0.0.1:${server.address().port}`;
    server.on("request", new Provider(issuer, configuration).callback());
    console.log(issuer);
});
