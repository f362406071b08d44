/** How a finite stream ends, so that an EventSource stops for good instead of starting it again. */
import { idAlone } from './id-alone.ts'

/**
 * The ID that a finite stream ends with. Whoever comes back with it has had everything, and is answered with 204, by
 * which an EventSource stops. No application's ID is like it.
 */
export const FINISHED_ID = 'fastify-typed-sse:finished'

/** The last block of a finite stream, for this client. */
export function finishedFrame (userAgent: string | undefined): string {
  return idAlone(FINISHED_ID, userAgent, FINISHED_ID)
}
