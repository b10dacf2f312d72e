/** Set by vite.config.ts. */
declare const __EVENT_TYPES__: string[];
