/** How a finite stream ends, so that an EventSource stops for good instead of starting it again. */
import { frame, idFrame } from './frame.ts'

/**
 * The ID that a finite stream ends with. Whoever comes back with it has had everything, and is answered with 204, by
 * which an EventSource stops. No application's ID is like it.
 */
export const FINISHED_ID = 'fastify-typed-sse:finished'

/**
 * An ID alone: "dispatch the event" sets the last event ID before it looks at the data (HTML spec, section 9.2.6), so
 * clients remember it, and nobody sees an event.
 */
const ALONE = idFrame(FINISHED_ID)

/** The ID with an event of a type that nobody listens to. */
const WITH_EVENT = frame({ id: FINISHED_ID, event: FINISHED_ID, retry: undefined, comment: undefined }, '')

/** The last block of a finite stream, for this client. */
export function finishedFrame (userAgent: string | undefined): string {
  return userAgent !== undefined && forgetsIdAlone(userAgent) ? WITH_EVENT : ALONE
}

/**
 * Firefox and WebKit (Safari, and every browser on iOS) look at the data first: an ID without data is forgotten, and the
 * finished stream would start again for ever. Chromium has "Safari" in its name too.
 */
function forgetsIdAlone (userAgent: string): boolean {
  return /\bFirefox\//.test(userAgent) || (/\bSafari\//.test(userAgent) && !/Chrom(e|ium)\//.test(userAgent))
}
