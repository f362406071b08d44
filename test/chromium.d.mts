/** What chromium.mjs exports, for the type check of the tests. */
export function chromiumPath (): string | undefined
