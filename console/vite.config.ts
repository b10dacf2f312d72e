import { defineConfig } from "vite";
import openapi from "../gateway/gen/openapi.json" with { type: "json" };

// The gateway that the development server calls.
const gateway = process.env.JOBS_CONSOLE_GATEWAY ?? "http://127.0.0.1:8080";

export default defineConfig({
    base: "/console/",
    define: {
        __EVENT_TYPES__: JSON.stringify(
            openapi.components.schemas.Event.properties.type["x-extensible-enum"],
        ),
    },
    oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
    build: {
        // Embedded in the gateway's binary.
        outDir: "../gateway/internal/console/build",
        emptyOutDir: true,
        target: "es2022",
        // The policy of the page forbids data: URLs of fonts and inline scripts.
        assetsInlineLimit: 0,
        modulePreload: { polyfill: false },
    },
    server: {
        proxy: { "/customer": gateway, "/console/config.json": gateway },
    },
});
