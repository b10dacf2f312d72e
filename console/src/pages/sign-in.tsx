/** Signs in with OpenID Connect, or takes a token. Afterwards, the same URL is shown. */

import { useState } from "preact/hooks";
import { shown } from "../format";
import { config, token, tokenProblem } from "../session";
import { useTitle } from "../title";

export function SignIn() {
    useTitle("Sign in");
    return (
        <main class="narrow" id="main">
            <h1>Fleet Jobs</h1>
            {tokenProblem.value && (
                <p class="notice warn" role="status">
                    {shown(tokenProblem.value)}
                </p>
            )}
            {config.value?.oidc ? <Provider /> : <Paste />}
        </main>
    );
}

function Provider() {
    const [problem, setProblem] = useState("");
    const start = async () => {
        const { startSignIn, IssuerError } = await import("../oidc");
        const { host } = new URL(config.value!.oidc!.issuer);
        await startSignIn(config.value!.oidc!).catch((error: unknown) => {
            const isAnswer = error instanceof IssuerError;
            setProblem(isAnswer ? error.message : `The sign-in service ${host} can't be reached.`);
        });
    };
    return (
        <>
            {problem && (
                <p class="notice bad" role="alert">
                    {shown(problem)}
                </p>
            )}
            <button class="primary" onClick={start} autofocus>
                Sign in
            </button>
        </>
    );
}

function Paste() {
    const submit = (event: SubmitEvent) => {
        event.preventDefault();
        const text = new FormData(event.currentTarget as HTMLFormElement).get("token");
        tokenProblem.value = "";
        token.value = String(text)
            .trim()
            .replace(/^Bearer\s+/i, "");
    };
    return (
        <form onSubmit={submit}>
            <label>
                Access token
                <textarea
                    name="token"
                    rows={5}
                    required
                    spellcheck={false}
                    autofocus
                    aria-describedby="token-note"
                />
            </label>
            <p class="quiet" id="token-note">
                It stays in the memory of this tab and is gone after a reload.
            </p>
            <button class="primary">Sign in</button>
        </form>
    );
}
