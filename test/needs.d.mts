/** What needs.mjs exports, for the type check of the tests. */
export type Need = 'chromium' | 'redis-server' | 'nginx' | 'haproxy'
export const NEEDS: Need[]
export function missing (name: Need): string | false
export function isDemanded (): boolean
export function leftOut (name: Need): string | false
export function demand (name: Need): void
export function installMissing (): void
