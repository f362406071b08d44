/**
 * The ID that a finite stream ends with: both ends know it. Whoever comes back with it has had everything, and is answered
 * with 204, by which an EventSource stops. No application's ID is like it.
 */
export const FINISHED_ID = 'fastify-typed-sse:finished'
